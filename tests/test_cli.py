"""The command line as a user meets it: one message and an exit code for whatever is wrong, results on stdout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from tiny import rows, run_config, tree, write_model, write_rows
from veneer.assistant import TextStream, lines_of
from veneer.cli import main
from veneer.config import parse, read_yaml
from veneer.training.run import train

FLOAT32 = ("--device", "cpu", "--dtype", "float32")


def invoke(*argv: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(part) for part in argv], input=stdin)


def refused(*argv: object, code: int = 2, stdin: str | bytes | None = None) -> str:
    """The message of a command that must be refused: on standard error, once, without a traceback."""
    result = invoke(*argv, stdin=stdin)
    assert result.exit_code == code, (result.output, result.exception)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert isinstance(result.exception, SystemExit)
    return result.stderr


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    output = tmp_path_factory.mktemp("cli") / "run"
    return train(run_config(tiny_model, tiny_data, output, "train.steps=30")).output


# ---------------------------------------------------------------------------------------------------------- the surface

SAMPLING = ["--max-new-tokens", "--seed", "--system", "--temperature", "--top-p"]
OPTIONS = {
    "chat": ["--adapter", "--device", "--dtype", "--method", "--model", *SAMPLING],
    "combine": ["--adapter", "--density", "--json", "--kind", "--majority", "--output", "--rank", "--seed"],
    "compare": [
        "--data", "--eval-data", "--held-out", "--json", "--limit", "--max-new-tokens", "--methods", "--model",
        "--output", "--seeds", "--set",
    ],
    "data": [
        "--columns", "--eval-data", "--fix", "--group", "--html", "--ignore", "--json", "--max-length", "--model",
        "--processes", "--show", "file",
    ],
    "doctor": ["--json", "--measure"],
    "evaluate": [
        "--adapter", "--data", "--device", "--dtype", "--json", "--limit", "--max-new-tokens", "--method", "--model",
    ],
    "export": [
        "--adapter", "--data", "--device", "--dtype", "--gap", "--json", "--limit", "--method", "--model", "--output",
        "--quant", "--to",
    ],
    "generate": [
        "--adapter", "--device", "--dtype", "--input", "--json", "--method", "--model", "--prompt", *SAMPLING,
    ],
    "plan": [
        "--data", "--device", "--json", "--length", "--memory-limit-mb", "--method", "--model", "--rank", "--rows",
        "--set", "--tokens",
    ],
    "quantize": ["--dtype", "--json", "--model", "--output", "--set"],
    "quickstart": ["--device", "--json", "--method", "--model", "--output", "--rows"],
    "reproduce": ["--data", "--eval-data", "--json", "--model", "--output", "run"],
    "sweep": [
        "--config", "--data", "--device", "--eval-data", "--grid", "--held-out", "--json", "--method", "--model",
        "--output", "--set", "--together",
    ],
    "train": [
        "--batch-size", "--config", "--data", "--device", "--epochs", "--eval-data", "--held-out", "--json",
        "--learning-rate", "--lr", "--method", "--model", "--output", "--rank", "--resume", "--set", "--steps",
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
            assert re.match(r"(The|A|An|How|What|Where|Draw|Go|Measure|Passes|Print|Rows|Optimiser|Tokens|Show)\b",
                            parameter.help), parameter.help  # fmt: skip
            assert parameter.help.endswith((".", "]", "(0.1: 10 %).")), parameter.help


@pytest.mark.parametrize("command", [None, *OPTIONS])
def test_every_help_has_examples_whose_options_are_there_and_fits_into_80_columns(command: str | None) -> None:
    text = CliRunner().invoke(main, [*([command] if command else []), "--help"], terminal_width=80).stdout
    assert max(len(line) for line in text.splitlines()) <= 80
    lines = text.partition("Examples:\n")[2].replace("\\\n", " ").splitlines()
    assert lines
    for line in lines:
        program, *words = line.split("#")[0].split()
        assert program == "veneer"
        named = main.commands[words[0]]
        known = {option for parameter in named.params for option in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known
    assert command is None or all(line.split()[1] == command for line in lines)


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
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "veneer", "--version"], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - begun)
    assert done.stdout.startswith("veneer, version ")
    assert min(times) < 1.0  # 0.3 s on a machine that does nothing else


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["trian"], "trian"), (["train", "--modle", "x"], "--model"), (["evaluate", "--model", "m"], "--data"),
        (["evaluate", "--data", "d"], "--model"), (["generate"], "--model"), (["chat"], "--model"),
        (["train", "--method", "dora"], "dora"), (["train", "--held-out", "some"], "some"),
        (["evaluate", "--model", "m", "--data", "d", "--limit", "0"], "0"),
        (["quickstart", "--rows", "1"], "1"), (["generate", "--model", "m", "--dtype", "float16"], "float16"),
    ],
)  # fmt: skip
def test_a_command_that_is_not_understood_names_what(argv: list[str], named: str) -> None:
    assert named in refused(*argv)


# -------------------------------------------------------------------------------------------------------------- export


def test_export_shows_what_was_measured_and_where_the_model_is(
    adapter: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    asked = ("--model", tiny_model, "--adapter", adapter, "--data", tiny_data, "--limit", 4, "--device", "cpu")
    result = invoke("export", *asked, "--method", "qlora", "--output", tmp_path / "a", "--dtype", "float16")
    assert result.exit_code == 0, result.output
    for text in ("(4 rows)", "merged: original base", "merged: dequantised base", "(kept)", "survives"):
        assert text in result.stdout
    assert f"model: {tmp_path / 'a'} (float16, 14 of 20 tensors changed" in result.stdout
    result = invoke("export", *asked, "--output", tmp_path / "b", "--json")
    record = json.loads(result.stdout)
    parity = record.pop("parity")
    assert record == json.loads((tmp_path / "b" / "export.json").read_text())
    assert parity == json.loads((tmp_path / "b" / "parity.json").read_text())
    assert record["measured"]["merged"].keys() == {"original"}
    result = invoke("export", *asked[:4], "--method", "qlora", "--output", tmp_path / "c")
    assert "since the adapter was trained beside it" in result.stdout
    assert "exists already" in refused("export", *asked, "--output", tmp_path / "a")
    for heading in ("top-10 gap", "transformers", "passed: 20 tensors read back"):
        assert heading in result.stdout


def test_verify_says_what_is_damaged_with_its_exit_code(adapter: Path, tmp_path: Path) -> None:
    invoke("export", "--adapter", adapter, "--output", tmp_path / "out", "--limit", 1)
    result = invoke("verify", tmp_path / "out", "--limit", 1)
    assert result.exit_code == 0, result.output
    assert "is what it was made from" in result.stdout
    with (tmp_path / "out" / "config.json").open("a") as file:
        file.write(" ")
    result = invoke("verify", tmp_path / "out", "--limit", 1)
    assert result.exit_code == 1
    assert "file config.json: has changed" in result.stderr
    assert "FAILED" in result.stdout
    assert "export.json is not there" in refused("verify", tmp_path)


# ------------------------------------------------------------------------------------------------------------- compare


def test_compare_shows_quality_beside_cost_and_goes_on_where_it_was(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    asked = ("compare", "--model", tiny_model, "--data", tiny_data, "--output", tmp_path / "out", "--methods", "lora",
             "--seeds", 2, "--held-out", 0.2, "--max-new-tokens", 2, "--set", "train.steps=2", "--set",
             "compute.device=cpu", "--set", "compute.threads=1")  # fmt: skip
    result = invoke(*asked)
    assert result.exit_code == 0, result.output
    assert [line for line in result.stderr.splitlines() if "done" in line] == [
        "base: done", "lora-0: done", "lora-1: done",
    ]  # fmt: skip
    text = " ".join((tmp_path / "out" / "compare.txt").read_text().split())
    assert "16 rows trained, 4 others scored" in text
    assert "means over 2 seeds" in text
    assert "lora" in result.stdout
    assert "…" not in result.stdout  # 80 columns are enough
    again = invoke(*asked, "--json")
    assert "lora-1: done before" in again.stderr
    assert json.loads(again.stdout) == json.loads((tmp_path / "out" / "compare.json").read_text())


def test_compare_refuses_what_it_does_not_understand(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    asked = ("compare", "--model", tiny_model, "--data", tiny_data, "--output", tmp_path / "out")
    assert "known are lora, qlora, full" in refused(*asked, "--methods", "lora,dora")
    assert "not both" in refused(*asked, "--eval-data", tiny_data, "--held-out", 0.1)
    assert "train.seed" in refused(*asked, "--set", "train.seed=3")


# --------------------------------------------------------------------------------------------------------------- train


def test_train_names_everything_that_is_missing() -> None:
    message = refused("train")
    for key in ("model", "output", "data"):
        assert f"- {key}: required" in message
    assert message.startswith("error: ")


def test_train_writes_an_adapter_and_says_where(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    result = invoke(
        "train", "--model", tiny_model, "--data", tiny_data, "--output", tmp_path / "run", "--method", "lora",
        "--device", "cpu", "--held-out", "0.2", "--set", "train.steps=2", "--set", "lora.rank=2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    first, second = result.stdout.splitlines()
    assert first == f"adapter: {tmp_path / 'run'}"
    assert second.startswith("best by evaluation loss (")
    assert Path(second.rpartition(": ")[2]).is_dir()
    assert "step 2/2" in result.stderr
    recorded = parse(read_yaml(tmp_path / "run" / "config.yaml"), where="x")
    assert (recorded.lora.rank, recorded.train.steps, recorded.data.held_out) == (2, 2, 0.2)


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
    }  # fmt: skip


def test_a_weight_that_is_not_finite_is_refused(adapter: Path, tmp_path: Path) -> None:
    message = refused("combine", "--adapter", f"{adapter}=nan", "--output", tmp_path / "out")
    assert "write it as DIR or DIR=WEIGHT" in message


def test_shortcuts_are_the_settings_that_their_help_names(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    result = invoke(
        *given(tiny_model, tiny_data, tmp_path / "run", "--steps", 2, "--lr", "2e-3", "--rank", 3, "--batch-size", 5,
               "--device", "cpu", "--set", "lora.rank=3", "--set", "compute.device=cpu")
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    recorded = parse(read_yaml(tmp_path / "run" / "config.yaml"), where="x")
    train_settings = recorded.train
    assert (train_settings.steps, train_settings.learning_rate, train_settings.examples_per_step) == (2, 2e-3, 5)
    assert recorded.lora.rank == 3


@pytest.mark.parametrize("command", ["generate", "evaluate", "chat"])
def test_an_answer_longer_than_the_context_is_refused_with_what_is_possible(
    command: str, tiny_model: Path, tiny_data: Path
) -> None:
    asked = {"generate": ["--prompt", "hi"], "evaluate": ["--data", tiny_data], "chat": []}[command]
    result = invoke(command, "--model", tiny_model, *asked, "--max-new-tokens", 10**9, *FLOAT32, stdin="hi\n")
    assert result.exit_code == 2
    assert "max_new_tokens: 1,000,000,000, but the model's context has 512 tokens" in result.stderr


def test_flags_and_assignments_go_before_the_file(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        f"model: /nowhere\noutput: {tmp_path / 'run'}\nmethod: qlora\ndata: {{file: {tiny_data}}}\n"
        "train: {steps: 9}\nlora: {rank: 9}\n"
    )
    result = invoke(
        "train", "--config", file, "--model", tiny_model, "--set", "method=lora", "--set", "train.steps=1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    recorded = parse(read_yaml(tmp_path / "run" / "config.yaml"), where="x")
    assert (recorded.model, recorded.method.value, recorded.train.steps, recorded.lora.rank) == (
        str(tiny_model), "lora", 1, 9,
    )  # fmt: skip


def test_train_as_json_is_a_line_for_every_event(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    result = invoke(
        "train", "--model", tiny_model, "--data", tiny_data, "--output", tmp_path / "run", "--method", "full",
        "--device", "cpu", "--set", "train.steps=2", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events].count("StepDone") == 2
    assert events[-1]["event"] == "RunFinished"
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_resume_needs_the_output_folder_alone(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train(run_config(tiny_model, tiny_data, output, "train.steps=2"))
    before = (output / "adapter_model.safetensors").read_bytes()
    (output / "adapter_model.safetensors").unlink()
    result = invoke("train", "--output", output, "--resume")
    assert result.exit_code == 0, result.output
    assert (output / "adapter_model.safetensors").read_bytes() == before
    message = refused("train", "--output", output, "--resume", "--set", "lora.rank=7")
    assert "lora.rank: 4 then, 7 now" in message
    assert "already holds a run" in refused(
        "train", "--output", output, "--model", tiny_model, "--data", tiny_data, "--method", "lora"
    )


def given(model: object, data: object, output: object, *more: object) -> list[object]:
    return ["train", "--model", model, "--data", data, "--output", output, "--method", "lora", *more]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--model", "/no/such/model"], "/no/such/model does not exist"),
        (["--data", "/no/such/rows.jsonl"], "/no/such/rows.jsonl does not exist"),
        (["--eval-data", "/no/such/eval.jsonl"], "/no/such/eval.jsonl does not exist"),
        (["--set", "train.epohcs=2"], "train.epohcs: unknown key (did you mean 'train.epochs'?)"),
        (["--set", "lora.rnk=2"], "did you mean 'lora.rank'?"),
        (["--set", "train.epochs"], "write it as key=value"),
        (["--set", "lora.rank=many"], "lora.rank: "),
        (["--set", "train.steps=[1"], "not valid YAML"),
        (["--set", "train.steps=3", "--set", "train.epochs=1"], "both say how long"),
        (["--held-out", "1.5"], "data.held_out: "),
        (["--device", "cpu", "--set", "compute.device=cuda"], "--device cpu and --set compute.device=cuda"),
        (
            ["--rank", "4", "--lr", "1e-3", "--set", "lora.rank=8", "--set", "train.learning_rate=2"],
            "--rank 4 and --set",
        ),
        (["--epochs", "2", "--steps", "3"], "both say how long"),
        (["--device", "tpu"], "use auto, cpu, cuda or cuda:N"),
        (["--config", "/no/such/run.yaml"], "/no/such/run.yaml: cannot be read"),
    ],
)
def test_train_refuses_by_name(more: list[str], named: str, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    assert named in refused(*given(tiny_model, tiny_data, tmp_path / "run", *more))


def test_bad_rows_are_named_by_file_and_line(tiny_model: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    write_rows(data, [*rows(2), {"mesages": []}, {"messages": "x"}])
    data.write_text(data.read_text() + "{broken\n")
    message = refused(*given(tiny_model, data, tmp_path / "run"))
    for line in (3, 4, 5):
        assert f"{data}:{line}" in message


def test_an_output_that_is_a_file_is_refused(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    assert str(tmp_path / "run") in refused(*given(tiny_model, tiny_data, tmp_path / "run"))
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_broken_model_is_refused_by_name(damage: str, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / damage).write_bytes((model / damage).read_bytes()[:100])
    assert damage in refused(*given(model, tiny_data, tmp_path / "run"))


# ------------------------------------------------------------------------------------------------------------ evaluate


def test_evaluate_prints_a_table_or_json(adapter: Path, tiny_model: Path, tiny_data: Path) -> None:
    argv = ["evaluate", "--model", tiny_model, "--adapter", adapter, "--data", tiny_data, "--limit", 4, *FLOAT32]
    table = invoke(*argv)
    assert table.exit_code == 0, table.output
    for word in ("exact", "loss", "perplexity", "difference", "Samples"):
        assert word in table.stdout
    result = invoke(*argv, "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["rows"] == 4
    assert [one["name"] for one in report["comparison"]] == ["exact", "fields", "loss", "perplexity"]
    alone = json.loads(invoke(*[a for a in argv if a not in ("--adapter", adapter)], "--json").stdout)
    assert alone["base"] == report["base"]
    assert alone["comparison"] == []


def test_evaluate_refuses_by_name(adapter: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    argv = ["evaluate", "--model", tiny_model]
    assert "does not exist" in refused(*argv, "--data", "/no/such.jsonl")
    assert "ends in '.txt'" in refused(*argv, "--data", write_rows(tmp_path / "rows.txt", rows(1)))
    assert "no adapter_config.json" in refused(*argv, "--data", tiny_data, "--adapter", tmp_path)


# -------------------------------------------------------------------------------------------- adapters that do not fit


def asked(model: Path, adapter: Path) -> list[object]:
    return ["generate", "--model", model, "--adapter", adapter, "--prompt", "hi", "--max-new-tokens", 2, *FLOAT32]


def test_an_adapter_of_another_model_is_refused_with_every_difference(adapter: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "wide", hidden=32)
    message = refused(*asked(other, adapter))
    assert "does not fit this model" in message
    assert "model.layers.0.self_attn.q_proj.lora_A.weight: shape [4, 64], the model needs [4, 32]" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_config.json", b"{"), ("adapter_config.json", b"[]"), ("adapter_config.json", b'{"peft_type": "IA3"}'),
        ("adapter_config.json", None), ("adapter_model.safetensors", b""), ("adapter_model.safetensors", b"x" * 50),
        ("adapter_model.safetensors", None), ("config.yaml", b"model: ["), ("config.yaml", b"a: 1"),
    ],
)  # fmt: skip
def test_a_broken_adapter_is_refused_by_file(
    name: str, content: bytes | None, adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "adapter"
    shutil.copytree(adapter, broken)
    if content is None:
        (broken / name).unlink()
    else:
        (broken / name).write_bytes(content)
    assert name in refused(*asked(tiny_model, broken))


def test_a_pickle_is_never_opened(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "adapter"
    shutil.copytree(adapter, broken)
    (broken / "adapter_model.safetensors").unlink()
    (broken / "adapter_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/p0wned'\ntR.")
    assert "is a pickle, which can run code" in refused(*asked(tiny_model, broken))
    assert not Path("/tmp/p0wned").exists()


# ------------------------------------------------------------------------------------------------------------ generate


def generated(model: Path, *more: object, stdin: str | bytes | None = None) -> Result:
    result = invoke("generate", "--model", model, *FLOAT32, "--max-new-tokens", 6, *more, stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_a_prompt_gives_the_same_answer_from_every_source(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    question = "3: parcel late?"
    (tmp_path / "q.txt").write_text(f"{question}\n")
    answers = [
        generated(tiny_model, "--adapter", adapter, "--prompt", question).stdout,
        generated(tiny_model, "--adapter", adapter, stdin=f"\n{question}\n").stdout,
        generated(tiny_model, "--adapter", adapter, "--input", tmp_path / "q.txt").stdout,
        generated(tiny_model, "--adapter", adapter, "--prompt", question, "--json").stdout,
        generated(tiny_model, "--adapter", adapter, "--input", tmp_path / "q.txt", "--json").stdout,
    ]
    assert answers[0].strip()
    assert answers[0] == answers[1] == answers[2]
    for line in answers[3:]:
        assert json.loads(line) == {"prompt": question, "answer": answers[0].removesuffix("\n")}


def test_every_line_of_a_file_is_answered_in_order(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    questions = ["1: late?", "22: parcel crate blue of the late?", "3: ü\u2028?", "4"]
    text = "\ufeff" + "\r\n\n  \n".join(questions)
    (tmp_path / "q.txt").write_bytes(text.encode())
    result = generated(tiny_model, "--adapter", adapter, "--input", tmp_path / "q.txt", "--json")
    answers = [json.loads(line) for line in result.stdout.rstrip("\n").split("\n")]
    assert [answer["prompt"] for answer in answers] == questions
    one = generated(tiny_model, "--adapter", adapter, "--prompt", questions[1]).stdout
    assert answers[1]["answer"] == one.removesuffix("\n")


def test_sampling_follows_from_the_seed_and_the_system_message_counts(tiny_model: Path) -> None:
    hot = ("--prompt", "hello", "--temperature", 1.0, "--max-new-tokens", 20)
    one, again, other = (generated(tiny_model, *hot, "--seed", seed).stdout for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert generated(tiny_model, *hot, "--seed", 1, "--system", "late blue crate").stdout != one


@pytest.mark.parametrize(
    ("more", "stdin", "named"),
    [
        (["--prompt", ""], None, "the prompt is empty"),
        (["--prompt", "  \n"], None, "the prompt is empty"),
        ([], "", "the prompt is empty"),
        ([], " \n ", "the prompt is empty"),
        ([], b"\xff\xfe", "standard input is not UTF-8"),
        (["--input", "/no/such/file"], None, "/no/such/file: cannot be read"),
        (["--input", "/tmp"], None, "/tmp: cannot be read"),
        (["--prompt", "a", "--input", "b"], None, "not both"),
        (["--prompt", "a", "--temperature", "-1"], None, "temperature: -1.0"),
        (["--prompt", "a", "--temperature", "nan"], None, "nan is not a finite number"),
        (["--prompt", "a", "--top-p", "0"], None, "top_p: 0.0"),
        (["--prompt", "a", "--max-new-tokens", "0"], None, "max_new_tokens: 0"),
    ],
)
def test_generate_refuses_before_it_loads_the_model(more: list[str], stdin: Any, named: str) -> None:
    assert named in refused("generate", "--model", "/no/such/model", *more, stdin=stdin)


@pytest.mark.parametrize(
    ("content", "named"), [(b"", "holds no question"), (b"\n \n\t\n", "holds no question"), (b"a\xff", "not UTF-8")]
)
def test_a_file_without_questions_is_refused(content: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_bytes(content)
    assert named in refused("generate", "--model", "/no/such/model", "--input", tmp_path / "q.txt")


def test_a_reader_that_has_gone_is_no_traceback(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("a\n" * 3000)
    command = f"{sys.executable} -m veneer generate --model {tiny_model} --input {tmp_path / 'q.txt'} --device cpu"
    done = subprocess.run(
        ["bash", "-c", f"{command} --max-new-tokens 40 --json | head -n 1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert json.loads(done.stdout)["prompt"] == "a"
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if not line.startswith("answering: ")] == []


# ---------------------------------------------------------------------------------------------------------------- chat


def chatted(model: Path, stdin: str, *more: object) -> list[str]:
    result = invoke("chat", "--model", model, *FLOAT32, "--max-new-tokens", 5, *more, stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout.splitlines()


def test_a_conversation_goes_on_until_an_empty_line_or_the_end(adapter: Path, tiny_model: Path) -> None:
    more = ("--adapter", adapter)
    both = chatted(tiny_model, "1: late?\n2: blue?\n", *more)
    assert len(both) == 2
    assert chatted(tiny_model, "1: late?\n2: blue?\n\nnever read\n", *more) == both
    assert chatted(tiny_model, "1: late?\n2: blue?", *more) == both
    assert chatted(tiny_model, "", *more) == []
    first = generated(tiny_model, *more, "--max-new-tokens", 5, "--prompt", "1: late?").stdout.rstrip("\n")
    assert both[0] == first


def test_new_starts_over_and_keeps_the_system_message(adapter: Path, tiny_model: Path) -> None:
    more = ("--adapter", adapter, "--system", "blue")
    fresh = chatted(tiny_model, "2: blue?\n", *more)
    after = chatted(tiny_model, "1: late late late?\n/new\n2: blue?\n", *more)
    assert after[-1:] == fresh


def test_chat_input_that_is_no_text_is_refused(tiny_model: Path) -> None:
    result = invoke("chat", "--model", tiny_model, *FLOAT32, stdin=b"\xff\xfe\n")
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr


# ------------------------------------------------------------------------------------------------------- small helpers


def test_streamed_text_adds_up_and_holds_back_half_a_character(tiny_model: Path) -> None:
    from veneer.io.tokenizer import from_directory

    tokenizer = from_directory(tiny_model)
    for text in ("parcel", "naïve 🎉 文字", "e\u0301 x", "🎉", ""):
        pieces: list[str] = []
        stream = TextStream(tokenizer, pieces.append)
        for token in tokenizer.encode(text):
            stream.push(token)
        assert stream.finish() == text
        assert "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)
    broken = TextStream(tokenizer, pieces.append)
    broken.push(tokenizer.encode("🎉")[0])
    assert broken.finish() == "\ufffd"
    assert pieces[-1] == "\ufffd"


def test_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "q").write_bytes("\ufeffa\r\nb b\u2028c\n\n \n d".encode())
    assert list(lines_of(tmp_path / "q")) == ["a", "b b\u2028c", " d"]


def test_nothing_that_a_refused_command_met_is_changed(adapter: Path, tiny_model: Path, tiny_data: Path) -> None:
    before = tree(adapter), tree(tiny_model)
    refused(*given(tiny_model, tiny_data, adapter))
    refused(*given(tiny_model, tiny_data, tiny_model))
    assert (tree(adapter), tree(tiny_model)) == before
