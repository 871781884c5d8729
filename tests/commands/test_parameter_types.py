"""Values of the command line that would be taken for something else are refused, whatever the option."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from helpers.processes.invoking import refused
from veneer.cli import main
from veneer.commands.parameter_types import FilePath, Folder, Name


def parameters(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Parameter]]:
    """Every parameter of a command and of those below it, with the command's name."""
    yield from ((name, parameter) for parameter in command.params)
    if isinstance(command, click.Group):
        for below, one in command.commands.items():
            yield from parameters(one, f"{name} {below}".strip())


NAMED = [(name, one) for name, one in parameters(main) if isinstance(one.type, FilePath | Name)]


@pytest.mark.parametrize(("command", "parameter"), NAMED, ids=[f"{name} {one.name}" for name, one in NAMED])
def test_what_names_nothing_is_refused(command: str, parameter: click.Parameter) -> None:
    """As an unset variable gives it; it would be the current folder."""
    with pytest.raises(click.BadParameter, match=r"is empty; give|is not a path; give one"):
        parameter.type.convert("", parameter, None)


def test_every_path_and_model_is_among_those() -> None:
    assert not [(name, one.name) for name, one in parameters(main) if type(one.type) is click.Path]
    names = {one.name for _, one in NAMED}
    assert {"model", "models", "data", "eval_data", "adapter", "adapters", "output", "folder", "key_file"} <= names


@pytest.mark.parametrize(("command", "parameter"), NAMED, ids=[f"{name} {one.name}" for name, one in NAMED])
def test_what_is_not_utf_8_is_refused(command: str, parameter: click.Parameter) -> None:
    with pytest.raises(click.BadParameter, match="is not UTF-8 text, at character 3"):
        parameter.type.convert("out\udce9", parameter, None)


def test_a_path_is_a_path_and_a_name_stays_a_text() -> None:
    assert FilePath().convert("runs/a b", None, None) == Path("runs/a b")
    assert Name("a file").convert(" rows.jsonl", None, None) == " rows.jsonl"


PLACES = [(name, one) for name, one in NAMED if isinstance(one.type, FilePath | Folder)]


@pytest.mark.parametrize(("command", "parameter"), PLACES, ids=[f"{name} {one.name}" for name, one in PLACES])
def test_the_home_is_replaced_wherever_a_path_is_given(
    command: str, parameter: click.Parameter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shells leave `~` as it is behind the `=` of an option; a folder of that name is a danger."""
    monkeypatch.setenv("HOME", str(tmp_path))
    convert = parameter.type.convert
    assert [str(convert(name, parameter, None)) for name in ("~", "~/a", "b/~")] == [
        str(tmp_path),
        f"{tmp_path}/a",
        "b/~",
    ]
    assert Path(convert("./~/a", parameter, None)) == Path("./~/a")
    with pytest.raises(click.BadParameter, match=r"write the path in full, or \./~NAME"):
        convert("~a-user-that-is-not-here/a", parameter, None)


def test_outputs_and_adapters_of_runs_are_among_those() -> None:
    found = {name for name, one in PLACES if one.name == "output"}
    assert {
        "train",
        "sweep",
        "compare",
        "export",
        "generate",
        "reproduce",
        "combine",
        "quantize",
        "quickstart",
    } <= found
    assert ("train", "from_adapter") in {(name, one.name) for name, one in PLACES}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(
    ("argv", "option"),
    [
        (["train"], "--held-out"), (["train"], "--epochs"), (["train"], "--learning-rate"), (["train"], "--lr"),
        (["sweep", "--output", "o", "--grid", "lora.rank=1,2"], "--held-out"),
        (["compare", "--model", "m", "--data", "d", "--output", "o"], "--held-out"),
        (["generate", "--model", "m", "--prompt", "p"], "--temperature"), (["chat", "--model", "m"], "--top-p"),
        (["export", "--adapter", "a", "--output", "o"], "--gap"), (["verify", "e"], "--gap"),
        (["combine", "--adapter", "a", "--output", "o"], "--density"),
    ],
)  # fmt: skip
def test_no_option_takes_a_number_that_is_not_finite(argv: list[str], option: str, value: str) -> None:
    message = refused(*argv, option, value)
    assert option in message
    assert f"{value} is not a finite number" in message


@pytest.mark.parametrize(
    "argv",
    [
        ["sweep", "--output", "o", "--grid", "lora.rank=1,2"], ["evaluate", "--model", "m", "--data", "d"],
        ["compare", "--model", "m", "--data", "d", "--output", "o"], ["generate", "--model", "m", "--input", "i"],
    ],
)  # fmt: skip
def test_an_empty_address_is_no_cluster(argv: list[str]) -> None:
    for address in ("", " "):
        assert "is empty; give ray, HOST:PORT" in refused(*argv, "--on", address)


def test_every_option_of_a_fraction_is_among_those() -> None:
    floats = {
        (name, parameter.name)
        for name, command in main.commands.items()
        for parameter in command.params
        if isinstance(parameter.type, click.types.FloatParamType)
    }
    assert floats == {
        ("train", "held_out"), ("train", "epochs"), ("train", "learning_rate"), ("sweep", "held_out"),
        ("compare", "held_out"), ("generate", "temperature"), ("generate", "top_p"), ("chat", "temperature"),
        ("chat", "top_p"), ("export", "gap"), ("verify", "gap"), ("combine", "density"),
        ("train", "time_limit"), ("quickstart", "time_limit"),
    }  # fmt: skip


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "0", "-5m"])
@pytest.mark.parametrize("command", ["train", "quickstart"])
def test_a_time_is_a_finite_number_above_0(command: str, value: str) -> None:
    message = refused(command, "--time-limit", value)
    assert "--time-limit" in message
    assert value in message
