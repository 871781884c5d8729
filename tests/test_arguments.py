"""What public functions are given is of the types that they say, or is refused by name before anything is done."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import veneer
from veneer.arguments import check_least, check_type, check_types, described, fits
from veneer.enums import Column, Method
from veneer.errors import ConfigError

FUNCTIONS = [name for name in veneer.__all__ if inspect.isfunction(getattr(veneer, name))]


class Strange:
    """Nothing that any function takes."""

    def __repr__(self) -> str:
        return "something strange"


def counted(name: str, count: int | None = None) -> None:
    """A function with an argument of a text, and one of a number."""
    check_types(counted, locals())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_names_every_argument_of_a_wrong_type(name: str) -> None:
    function = getattr(veneer, name)
    parameters = inspect.signature(function).parameters
    with pytest.raises(ConfigError, match=f"veneer.{name}: arguments") as refused:
        function(**dict.fromkeys(parameters, Strange()))
    for parameter in parameters:
        assert f"- {parameter}: must be " in str(refused.value)
    assert str(refused.value).count("got something strange") == len(parameters)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("a", str), (Path("a"), str | Path), (None, str | None), (3, int), (np.int64(3), int), (3, float),
        (np.float32(3), float), (True, bool), (["a"], Sequence[str]), (("a",), Sequence[str]), ({"a"}, Sequence[str]),
        (range(3), Sequence[Any]), (np.arange(3), Sequence[int]), ({"a": 1}, Mapping[str, float]),
        ({Column.PROMPT: "q"}, Mapping[Column, str] | Mapping[str, str]), (print, Callable[[str], None]),
        (iter([{}]), Iterable[Mapping[str, Any]]), (["a", ["b"]], list[str | Sequence[str]]),
        (Method.LORA, Method | str), (Strange(), Any),
    ],
)  # fmt: skip
def test_what_is_of_a_type_is_taken(value: object, kind: Any) -> None:
    assert fits(value, kind)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"a", str), (Path("a"), str), ("a", Path), (None, str | Path), (True, int), (1.5, int), ("1", float),
        (True, float), (1, bool), ("ab", Sequence[str]), ({"a": 1}, Sequence[str]), ([None], Sequence[str]),
        (iter(["a"]), Sequence[str]), ([("a", 1)], Mapping[str, float]), ({"a": "1"}, Mapping[str, float]),
        ({3: "a"}, Mapping[str, str]), (b"ab", Iterable[Any]), (Strange, Iterable[Any]), (None, Callable[[], bool]),
        (Method, Method),
    ],
)  # fmt: skip
def test_what_is_of_another_type_is_not(value: object, kind: Any) -> None:
    assert not fits(value, kind)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (str | Path | None, "a text, a path or None"),
        (str | Path | Sequence[str | Path] | None, "a text, a path, a list (each a text or a path) or None"),
        (str | Iterable[Mapping[str, Any]], "a text or a list or another iterable (each a mapping)"),
        (Mapping[str | Path, float], "a mapping (a text or a path to a number)"),
        (Mapping[str, Any], "a mapping"),
        (Sequence[Any], "a list"),
        (Callable[[str], None], "a function"),
        (bool, "True or False"),
        (veneer.Evaluated | Method, "an Evaluated or a Method"),
        (Any, "anything"),
    ],
)
def test_a_type_is_described_in_words(kind: Any, words: str) -> None:
    assert described(kind) == words


def test_an_error_says_what_was_met_and_what_is_taken() -> None:
    counted("a", 3)
    with pytest.raises(ConfigError, match=r"- count: must be a whole number or None, got '3'$"):
        counted("a", "3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^rows: must be a list \(each a text\), got 3$"):
        check_type("rows", 3, list[str])


def test_the_splits_of_a_data_set_are_named() -> None:
    class DatasetDict(dict[str, Any]):
        """As that of `datasets`."""

    for given, said in ((DatasetDict(train=[], test=[]), r"; give one of its splits: rows\['train'\], rows\['test'\]$"),
                        ({"train": []}, r"got \{'train': \[\]\}$")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            check_type("rows", given, Iterable[Mapping[str, Any]])


def test_a_number_below_the_least_is_refused() -> None:
    check_least(1, {"limit": 1, "processes": None})
    with pytest.raises(ConfigError, match="- limit: must be at least 1, got 0"):
        check_least(1, {"limit": 0})


def test_numbers_that_would_leave_rows_out_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_length: must be at least 1, got 0"):
        veneer.lint(tiny_data, max_length=0)
    with pytest.raises(ConfigError, match="processes: must be at least 1, got -1"):
        veneer.lint(tiny_data, processes=-1)
    with pytest.raises(ConfigError, match="rows: must be at least 2, got 0"):
        veneer.quickstart(rows=0, output=tmp_path / "run")
    with pytest.raises(ConfigError, match="together: must be at least 1, got 0"):
        veneer.sweep({}, {"lora.rank": [2]}, tmp_path / "sweep", together=0)
    with pytest.raises(ConfigError, match="cache_memory: must be at least 0, got -1"):
        veneer.serve("model", cache_memory=-1)


def test_the_names_of_columns_and_of_one_rule_may_be_texts(tiny_data: Path) -> None:
    assert veneer.lint([{"q": "1 + 1?", "a": "2"}], columns={"prompt": "q", "completion": "a"}, ignore="outlier-length")
    with pytest.raises(ConfigError, match=r"columns: 'promt' is unknown.*did you mean 'prompt'"):
        veneer.lint(tiny_data, columns={"promt": "q"})


def test_a_model_and_the_places_of_a_run_may_be_paths(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": tiny_model, "output": tmp_path / "run", "method": "lora"}
    settings |= {"data": {"file": tiny_data, "held_out": 0.2}, "train": {"steps": 1}}
    run = veneer.train(settings)
    assert run.output == tmp_path / "run"
    assert veneer.RunConfig.model_validate(settings).model == str(tiny_model)
    assert veneer.plan(settings).refusal is None
    short = veneer.Sampling(max_new_tokens=2)
    assert veneer.generate(tiny_model, "Hello", sampling=short) == veneer.generate(
        str(tiny_model), "Hello", sampling=short
    )
    with pytest.raises(ConfigError, match="output: must be text, not bytes, got b'run'"):
        veneer.RunConfig.model_validate(settings | {"output": b"run"})


def test_what_is_said_and_scored_is_of_the_right_type(tiny_model: Path) -> None:
    short = veneer.Sampling(max_new_tokens=2)
    with pytest.raises(ConfigError, match=r"prompts: must be a list \(each a text or"):
        veneer.generate(tiny_model, [3], sampling=short)  # type: ignore[list-item]
    with pytest.raises(veneer.DataError, match="message 1: its content must be a text, got 3"):
        veneer.generate(tiny_model, [[{"role": "user", "content": 3}]], sampling=short)
    assert len(veneer.generate(tiny_model, (one for one in ["a", "b"]), sampling=short)) == 2
    with pytest.raises(ConfigError, match="text: must be a text, got None"):
        veneer.chat(tiny_model, sampling=short).say(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"max_new_tokens": 1.5}, {"temperature": None}, {"top_k": "3"}, {"seed": True}])
def test_settings_of_sampling_are_numbers(settings: dict[str, Any]) -> None:
    """An answer of 1.5 tokens never ended."""
    with pytest.raises(ConfigError, match=f"{next(iter(settings))}: must be a"):
        veneer.Sampling(**settings)
