"""The settings of a judge, from a YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veneer.config.values import read_yaml
from veneer.errors import ConfigError, listing, nearest
from veneer.evaluation.judge.questions import DEFAULT_PROMPT, PLACES
from veneer.io.web_address import web_address

KINDS: dict[str, type] = {
    "url": str, "model": str, "adapter": str, "key_file": str, "system": str, "prompt": str, "human": str,
    "record": str, "max_tokens": int, "at_once": int, "retries": int,
}  # fmt: skip
"""The keys of the file and the types of their values."""
PATHS = ("adapter", "key_file", "human", "record")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeSettings:
    """A judge, with its options."""

    model: str
    """The name of a model at the endpoint; without an endpoint, a directory, a GGUF file or a hub id."""
    record: Path
    """The file of the judge's answers, one line of JSON each; questions with an answer there are not asked again."""
    url: str | None = None
    """The address of an endpoint of OpenAI's interface, up to `/v1`; None loads the model here."""
    adapter: Path | None = None
    """The folder of an adapter for the model; only without an endpoint."""
    key_file: Path | None = None
    """A file that contains the endpoint's key."""
    system: str | None = None
    """A system message."""
    prompt: str = DEFAULT_PROMPT
    """The question, with `{question}`, `{first}` and `{second}`, and `{reference}` if the judge is to see it."""
    human: Path | None = None
    """Rows that people have judged, which show how far the judge agrees with people."""
    max_tokens: int = 512
    """The longest answer of the judge, in tokens."""
    at_once: int = 4
    """The number of questions that an endpoint gets at the same time."""
    retries: int = 3
    """How often an endpoint that is busy or fails is asked again, with longer and longer pauses."""


def read_judge(path: Path) -> JudgeSettings:
    """The settings of a YAML file.

    Raises:
        ConfigError: the file cannot be read, or keys or values are not allowed; all are named.
    """
    values = read_yaml(path)
    problems = [f"{key}: unknown key{nearest(str(key), list(KINDS))}" for key in values if key not in KINDS]
    given: dict[str, Any] = {key: value for key, value in values.items() if key in KINDS and value is not None}
    problems += [
        f"{key}: {value!r} is not a {'whole number' if KINDS[key] is int else 'text'}"
        for key, value in given.items()
        if not isinstance(value, KINDS[key]) or isinstance(value, bool)
    ]
    if not problems:
        problems = _problems(given)
    if problems:
        raise ConfigError(f"{path} does not describe a judge:\n{listing(problems)}")
    given.setdefault("record", str(path.with_suffix(".answers.jsonl")))
    made: dict[str, Any] = {key: Path(value) if key in PATHS else value for key, value in given.items()}
    return JudgeSettings(**made)


def _problems(given: dict[str, Any]) -> list[str]:
    """Errors about values that have the right types."""
    found = []
    if "model" not in given:
        found.append("model: missing; name a model of the endpoint, or one to load here")
    try:
        web_address(given.get("url", "http://host/v1"), "url")
    except ConfigError as error:
        found.append(str(error))
    if "url" in given and "adapter" in given:
        found.append("adapter: an endpoint cannot load it; leave it out and name the endpoint's adapter by model")
    if "url" not in given:
        found += [f"{key}: is for an endpoint, but there is no url" for key in ("key_file", "at_once") if key in given]
    lost = [place for place in PLACES if place not in given.get("prompt", DEFAULT_PROMPT)]
    if lost:
        found.append(f"prompt: does not contain {', '.join(lost)}")
    lowest = {"max_tokens": 1, "at_once": 1, "retries": 0}
    found += [
        f"{key}: {given[key]}, must be {least} or more"
        for key, least in lowest.items()
        if given.get(key, least) < least
    ]
    found += [
        f"{key}: {given[key]}: no such file"
        for key in ("key_file", "human")
        if key in given and not Path(given[key]).is_file()
    ]
    return found
