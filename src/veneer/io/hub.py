"""Models of the Hugging Face hub: which of their files are fetched, and the errors if that fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import model_info, snapshot_download

from veneer.errors import ModelError, listing

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""What names a model of the hub: `owner/name`."""
SETTINGS = ("*.json", "*.jinja", "tokenizer.model")
"""The small files of a hub repository: a model's configuration and tokenizer."""
ALL_FILES = (*SETTINGS, "*.safetensors")
"""Files that are downloaded from a hub repository: no pickles and no code."""
LEFT_OUT = ("[!a]*/*", "a[!d]*/*", "ad[!d]*/*", "consolidated*.safetensors")
"""Files that match `ALL_FILES` but are left out: those in folders, and one maker's own copy of all weights. Both are
further copies of the model. The folder `additional_chat_templates` is not left out; such patterns cannot say this in
another way."""
HUB_FOLDER = "models--"
"""What the folder of a model begins with in the hub's cache."""
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The file of a model's weights, and the index if there are several files."""
ASK_SECONDS = 10.0
"""The time that the hub may take to list a repository's files."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
"""Ends of the names of pickled weights."""


def download(name: str, revision: str | None, patterns: Sequence[str] = ALL_FILES) -> Path:
    """The folder with the files of a hub model, out of the cache or fetched.

    Raises:
        ModelError: it cannot be had.
    """
    model = _called(name, revision)

    def refusal(reason: str) -> str:
        return (
            f"{model} is neither a local directory nor could it be fetched from the hub: {reason}. Check the name, the "
            "network (and a proxy in HTTPS_PROXY) and, for a gated model, `hf auth login`; or name a directory that "
            "has it."
        )

    with _refused(refusal):
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(LEFT_OUT))
        )


def refuse_without_weights(name: str, revision: str | None, folder: Path) -> None:
    """Refuse a hub model that lacks the files to open, and say what its repository has instead.

    Args:
        name: the hub id.
        revision: branch, tag or commit.
        folder: the result of `download`.

    Raises:
        ModelError: the configuration or all weights are missing.
    """
    lacking = [what for what in ("config.json", "*.safetensors") if not any(folder.glob(what))]
    if not lacking:
        return
    model = _called(name, revision)

    def refusal(reason: str) -> str:
        return (
            f"{model} is in the cache without {' and '.join(lacking)}, which was never downloaded, and the hub cannot "
            f"be reached: {reason}. Run it once with a connection (or `hf download {name}`); or name a directory "
            "that has the whole model."
        )

    with _refused(refusal):
        # One request: `list_repo_files` would retry for half a minute without a network.
        siblings = model_info(name, revision=revision, timeout=ASK_SECONDS).siblings
    files = [one.rfilename for one in siblings or ()]
    fetch = f"A hub id stands for safetensors: fetch one of these by `hf download {name} FILE`, and name the file"
    if "*.safetensors" in lacking:
        raise ModelError(without_weights(model, files, fetch))
    raise ModelError(f"{model} has no config.json: its repository is not a model's. It holds:\n{listing(files)}")


def without_weights(holder: str, files: Sequence[str], take_gguf: str) -> str:
    """The error and the remedy for a model that has no safetensors.

    Args:
        holder: the model's directory or hub id.
        files: the names of all files that it has.
        take_gguf: the remedy for GGUF files, which are listed after it.
    """
    ggufs = sorted(file for file in files if file.lower().endswith(".gguf"))
    pickles = sorted(file for file in files if file.lower().endswith(PICKLES))
    if ggufs:
        return f"{holder} has neither {SINGLE} nor {INDEX}, but GGUF files. {take_gguf}:\n{listing(ggufs)}"
    if pickles:
        return (
            f"{holder} holds only {pickles[0]}, a pickle, which is refused because loading it can run any code. Use a "
            "revision with model.safetensors, or convert it where you trust it."
        )
    return (
        f"{holder} has neither {SINGLE} nor {INDEX}: there are no weights to open. Name a model's directory, a "
        ".gguf file or a hub id 'owner/name'."
    )


def _called(name: str, revision: str | None) -> str:
    return f"The model {name} at revision {revision}" if revision else f"The model {name}"


@contextmanager
def _refused(refusal: Callable[[str], str]) -> Iterator[None]:
    """Turn all errors of the hub's library into a `ModelError`.

    Args:
        refusal: a function that returns the message for a reason.
    """
    try:
        yield
    # The errors of its HTTP client (which differs by version), of that client's addresses, of its storage and its own
    # errors have no common base.
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "").rstrip(". ")
        # The messages of those that are not an OSError are about a protocol or a format, and say little on their own.
        reason = first if first and isinstance(error, OSError) else f"{type(error).__name__} {first}".strip()
        raise ModelError(refusal(reason)) from error
