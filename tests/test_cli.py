"""The command line as a user meets it: its commands and options, and one message and an exit code for what is wrong."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import click
import pytest
from click.testing import CliRunner

from helpers.processes.invoking import invoke, refused
from veneer.cli import main
from veneer.errors import Interrupted

SAMPLING = ["--max-new-tokens", "--seed", "--system", "--temperature", "--top-p"]


OPTIONS = {
    "chat": ["--adapter", "--device", "--dtype", "--key-file", "--method", "--model", "--server", *SAMPLING],
    "combine": [
        "--adapter", "--allow-other-base", "--density", "--json", "--kind", "--majority", "--output", "--rank",
        "--seed",
    ],
    "compare": [
        "--data", "--devices", "--eval-data", "--held-out", "--json", "--limit", "--max-new-tokens", "--methods",
        "--metric",
        "--model", "--on", "--output", "--preference", "--seeds", "--set",
    ],
    "data": [
        "--columns", "--eval-data", "--fix", "--group", "--html", "--ignore", "--json", "--label-errors",
        "--max-length", "--model", "--names", "--objective", "--processes", "--show", "file",
    ],
    "doctor": ["--json", "--measure", "--serve"],
    "evaluate": [
        "--adapter", "--cluster", "--columns", "--data", "--device", "--devices", "--dtype", "--gate", "--html",
        "--json", "--judge", "--limit", "--max-new-tokens", "--method", "--metric", "--model", "--on", "--suite",
        "--suite-items",
    ],
    "export": [
        "--adapter", "--allow-other-base", "--data", "--device", "--dtype", "--gap", "--json", "--limit", "--method",
        "--model", "--output", "--quant", "--to",
    ],
    "generate": [
        "--adapter", "--adapters", "--columns", "--device", "--devices", "--dtype", "--input", "--json", "--method",
        "--model", "--on", "--output", "--prompt", *SAMPLING,
    ],
    "plan": [
        "--adapters", "--config", "--data", "--device", "--json", "--length", "--memory-limit-mb", "--method",
        "--model", "--rank", "--rows", "--sequences", "--serve", "--set", "--tokens",
    ],
    "quantize": ["--dtype", "--json", "--model", "--output", "--set"],
    "quickstart": ["--device", "--json", "--method", "--model", "--output", "--rows", "--time-limit"],
    "reproduce": ["--data", "--eval-data", "--json", "--model", "--output", "run"],
    "runs": [],
    "serve": [
        "--adapter-dtype", "--adapter-memory", "--adapters", "--admin-key-file", "--allowed-host", "--allowed-origin",
        "--cache-memory", "--certificate", "--device", "--dtype", "--host", "--json", "--key-file", "--method",
        "--model", "--name", "--pin", "--port", "--questions", "--selfcheck",
    ],
    "studio": [
        "--allowed-host", "--device", "--dtype", "--folder", "--host", "--job-code", "--json", "--key-file", "--model",
        "--port", "--worker",
    ],
    "sweep": [
        "--config", "--data", "--device", "--devices", "--eval-data", "--grid", "--held-out", "--json", "--method",
        "--model", "--on", "--output", "--set", "--together",
    ],
    "train": [
        "--allow-other-base", "--batch-size", "--config", "--data", "--device", "--devices", "--epochs", "--eval-data",
        "--from-adapter", "--held-out", "--json", "--learning-rate", "--lr", "--method", "--model", "--output",
        "--rank", "--resume", "--set", "--steps", "--time-limit",
    ],
    "verify": ["--adapter", "--data", "--device", "--gap", "--json", "--limit", "--model", "export"],
}  # fmt: skip


def test_the_commands_and_options_are_these() -> None:
    # An option is a promise: adding one is a decision, and so is a line here.
    found = {
        name: sorted(option for parameter in command.params for option in parameter.opts)
        for name, command in main.commands.items()
    }
    assert found == {name: sorted(options) for name, options in OPTIONS.items()}


@pytest.mark.parametrize("command", [None, *OPTIONS])
def test_every_command_explains_itself_and_every_option(command: str | None) -> None:
    for flag in ("--help", "-h"):
        result = invoke(*([command] if command else []), flag)
        assert result.exit_code == 0
        assert "Usage:" in result.stdout
        assert result.stderr == ""
    entry = main.commands[command] if command else main
    assert entry.help
    for parameter in entry.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            assert parameter.help, parameter.name
            # A whole phrase: it begins with its subject, and ends.
            begins = "The|A|An|How|What|Where|Draw|Go|Measure|Passes|Print|Rows|Optimiser|Tokens|Show|Check|Read|Resume"
            assert re.match(rf"({begins}|Train|Write)\b", parameter.help), parameter.help
            assert parameter.help.endswith((".", "]", "(0.1: 10 %).")), parameter.help


@pytest.mark.parametrize("command", [None, *OPTIONS])
def test_every_help_has_examples_whose_options_are_there_and_fits_into_80_columns(command: str | None) -> None:
    text = CliRunner().invoke(main, [*([command] if command else []), "--help"], terminal_width=80).stdout
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "[default: (" not in " ".join(text.split()), "a value as click writes one that is told and not set"
    lines = text.partition("Examples:\n")[2].replace("\\\n", " ").splitlines()
    assert lines
    for line in lines:
        program, *words = line.split("#")[0].split()
        assert program == "veneer"
        named = main.commands[words[0]]
        known = {option for parameter in named.params for option in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known
    assert command is None or all(line.split()[1] == command for line in lines)


@pytest.mark.parametrize("command", [(), ("runs",)])
def test_lists_of_commands_cut_no_sentence_in_80_columns(command: tuple[str, ...]) -> None:
    text = CliRunner().invoke(main, [*command, "--help"], terminal_width=80).stdout
    listed = text.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(listed) >= 3
    assert [line for line in listed if line.endswith("...")] == []


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys\nfrom veneer.cli import main\n"
        "try: main(['train', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'pydantic', 'rich', 'tokenizers', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "veneer", "--version"], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.stdout.startswith("veneer, version ")
    assert min(times) < 1.0  # 0.3 s of the processor, whoever else uses it


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["trian"], "trian"), (["train", "--modle", "x"], "--model"), (["evaluate", "--model", "m"], "--data"),
        (["evaluate", "--data", "d"], "--model"), (["generate"], "--model"), (["chat"], "--model"),
        (["train", "--method", "dora"], "dora"), (["train", "--held-out", "some"], "some"),
        (["evaluate", "--model", "m", "--data", "d", "--limit", "0"], "0"),
        (["quickstart", "--rows", "1"], "1"), (["generate", "--model", "m", "--dtype", "float8"], "float8"),
    ],
)  # fmt: skip
def test_a_command_that_is_not_understood_names_what(argv: list[str], named: str) -> None:
    assert named in refused(*argv)


def test_an_interruption_while_an_error_is_told_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second Ctrl-C may come when the first has already ended the run, and its message is on the way."""

    def interrupted(message: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("veneer.screens.console.say_error", interrupted)
    assert invoke("evaluate", "--model", tmp_path / "none", "--data", tmp_path / "rows.jsonl").exit_code == 130


@pytest.mark.parametrize("more", [["--json"], [], ["--help"]], ids=["values", "a table", "help"])
def test_a_reader_of_the_output_who_has_gone_is_no_verdict(more: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    command = [sys.executable, "-m", "veneer", "data", str(tmp_path / "rows.jsonl")]
    ended = subprocess.run([*command, *more], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")
    assert "141  the program that read the output has ended" in invoke("--help").output


def test_a_command_in_a_folder_that_was_deleted_says_so(tmp_path: Path) -> None:
    """torch, as it is imported there, ends the process with `Cannot load libtorch_cpu.so`."""
    (gone := tmp_path / "gone").mkdir()
    command = f"cd {gone} && rmdir {gone} && exec {sys.executable} -c 'from veneer.__main__ import run; run()' runs"
    ended = subprocess.run(["sh", "-c", f"{command} {tmp_path}"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: the folder that you are in was deleted; go to one that is there (cd)")
    gone.mkdir()
    ended = subprocess.run(["sh", "-c", f"{command} --help"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_command_that_a_signal_ended_leaves_without_pythons_own_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes seconds where libraries are torn down on a busy machine, and more than who sent the signal waits."""

    def stopped() -> None:
        raise Interrupted("stopped after step 3")

    left: list[int] = []

    def leave(code: int) -> NoReturn:
        left.append(code)
        raise SystemExit(code)

    monkeypatch.setattr("veneer.cli.spare_address_space", stopped)
    monkeypatch.setattr("veneer.cli.leave", leave)
    assert CliRunner().invoke(main, ["doctor"]).exit_code == Interrupted.exit_code
    assert left == [], "a program that calls the command line and asked for the end itself"
    monkeypatch.setattr("veneer.cli.signal_exit_code", lambda: 143)
    assert CliRunner().invoke(main, ["doctor"]).exit_code == 143
    assert left == [143]
