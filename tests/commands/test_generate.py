"""`veneer generate`: answers from every source of questions, and adapters that do not fit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from helpers.models.tiny import write_model
from helpers.processes.invoking import FLOAT32, generated, invoke, refused
from veneer.assistant.ask import generate
from veneer.cli import main
from veneer.errors import DataError
from veneer.training.session import RunResult


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


@pytest.mark.parametrize("output", [[], ["--output", "answers.jsonl"]])
def test_rows_that_name_adapters_are_answered_by_nothing_else(
    output: list[str], adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused before any model is looked for."""
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"prompt": "x", "adapter": "claims"}\n{"prompt": "y"}\n')
    for under in ([], ["--adapter", adapter]):
        message = refused("generate", "--model", "no model", *under, "--input", "rows.jsonl", *output)
        assert "rows name adapters (claims); give --adapters FOLDER" in message
    assert not Path("answers.jsonl").exists()


def test_the_help_says_that_one_process_writes_the_file_of_answers() -> None:
    assert "Does not go with --devices or --on." in " ".join(invoke("generate", "--help").output.split())
    assert "one process answers a single question and writes --output" in refused(
        "generate", "--model", "m", "--input", "q.jsonl", "--output", "a.jsonl", "--devices", 2
    )


def test_an_output_that_is_no_file_is_refused_before_any_model_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_text("a\n")
    asked = ["generate", "--model", "no model", "--input", tmp_path / "questions.txt"]
    assert "/dev/null: is not a file" in refused(*asked, "--output", "/dev/null")


def test_a_pickle_is_never_opened(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "adapter"
    shutil.copytree(adapter, broken)
    (broken / "adapter_model.safetensors").unlink()
    (broken / "adapter_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/p0wned'\ntR.")
    assert "is a pickle, which can run code" in refused(*asked(tiny_model, broken))
    assert not Path("/tmp/p0wned").exists()


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


def test_rows_whose_answer_is_still_to_come_are_asked(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    question = "3: parcel late?"
    user = {"role": "user", "content": question}
    turn = {"from": "human", "value": question}
    asked = [
        {"prompt": question}, {"prompt": [user]}, {"messages": [user]}, {"conversations": [turn]},
        {"instruction": question}, {"prompt": question, "completion": "known"},
        {"messages": [user, {"role": "assistant", "content": "known"}]},
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    lines = generated(tiny_model, "--adapter", adapter, "--input", tmp_path / "rows.jsonl", "--json").stdout.split("\n")
    one = generated(tiny_model, "--adapter", adapter, "--prompt", question, "--json").stdout
    assert lines == [one.removesuffix("\n")] * len(asked) + [""]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": [user]}) + '\n{"messages": []}\n')
    message = refused("generate", "--model", tiny_model, "--input", tmp_path / "rows.jsonl", *FLOAT32)
    assert "rows.jsonl:2: the conversation is empty" in message
    assert "data.bad_rows" not in message


def test_a_file_of_other_columns_is_asked_by_option_and_by_the_mapping_of_the_run(
    adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    question = "3: parcel late?"
    (tmp_path / "rows.csv").write_text(f"question,answer\n{question},known\n")
    columns = "{prompt: question, completion: answer}"
    asked = ("--adapter", adapter, "--input", tmp_path / "rows.csv", "--json")
    named = generated(tiny_model, *asked, "--columns", columns).stdout
    assert json.loads(named)["prompt"] == question
    mapped = Path(shutil.copytree(adapter, tmp_path / "mapped"))
    config = yaml.safe_load((mapped / "config.yaml").read_text())
    config["data"]["columns"] = yaml.safe_load(columns)
    (mapped / "config.yaml").write_text(yaml.safe_dump(config))
    assert generated(tiny_model, *asked, "--adapter", mapped).stdout == named
    into = ("--output", tmp_path / "answers.jsonl", "--max-new-tokens", 4)
    generated(tiny_model, *asked, *into, "--columns", columns)
    message = refused("generate", "--model", tiny_model, *asked, *into, "--columns", "{prompt: answer}", *FLOAT32)
    assert "another job" in message


def test_an_answer_ends_with_the_context_and_the_reason(tiny_model: Path, tmp_path: Path) -> None:
    """The tiny model's context has 512 tokens; its tokenizer makes about one of a letter here."""
    done = generated(tiny_model, "--prompt", "x" * 430, "--max-new-tokens", 512)
    assert "the answer ends where the model's context of 512 tokens does" in done.stderr
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "x" * 430}) + '\n{"prompt": "x"}\n')
    done = generated(tiny_model, "--input", tmp_path / "rows.jsonl", "--max-new-tokens", 300)
    assert "512 tokens does:\n  - prompt 1\n" in done.stderr
    message = refused("generate", "--model", tiny_model, "--prompt", "x" * 3000, *FLOAT32)
    assert "the model's context has 512 tokens, which leaves no room for an answer to" in message


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
        (["--prompt", "a", "--columns", "{prompt: q}"], None, "--columns needs --input"),
        (["--prompt", "a", "--temperature", "-1"], None, "temperature: -1.0"),
        (["--prompt", "a", "--temperature", "nan"], None, "nan is not a finite number"),
        (["--prompt", "a", "--top-p", "0"], None, "top_p: 0.0"),
        (["--prompt", "a", "--max-new-tokens", "0"], None, "'--max-new-tokens': 0 is not in the range"),
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
        ["bash", "-c", f"{command} --max-new-tokens 4 --json | head -n 1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert json.loads(done.stdout)["prompt"] == "a"
    assert done.returncode == 128 + signal.SIGPIPE
    assert [line for line in done.stderr.splitlines() if not line.startswith("answering: ")] == []


@pytest.mark.scenario(number=32)
def test_generate_warns_of_another_base_and_of_unknown_keys(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", seed=5)
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    (copy / "run.lock").unlink()
    config = json.loads((copy / "adapter_config.json").read_text())
    config["useOrslora"] = config.pop("use_rslora")
    (copy / "adapter_config.json").write_text(json.dumps({**config, "made_up": None}))
    result = generated(other, "--adapter", copy, "--prompt", "Hello", "--json")
    unknown, base = json.loads(result.stdout)["warnings"]
    assert "another base model" in base
    assert "useOrslora: False (did you mean 'use_rslora'?)" in unknown
    assert "made_up: None" in unknown
    assert "another base model" in result.stderr
    assert "useOrslora" in result.stderr
    plain = generated(tiny_model, "--adapter", adapter, "--prompt", "Hello", "--json")
    assert "warnings" not in json.loads(plain.stdout)
    assert "warning" not in plain.stderr


LATIN = "h\udce9llo"
"""What Python makes of Latin-1 on a command line whose encoding is UTF-8."""


@pytest.mark.parametrize("option", ["--prompt", "--system"])
@pytest.mark.parametrize("text", [LATIN, "half \ud83d of it"])
def test_latin_1_and_half_characters_on_the_command_line_are_refused(option: str, text: str, tiny_model: Path) -> None:
    more = () if option == "--prompt" else ("--prompt", "hi")
    message = refused("generate", "--model", tiny_model, option, text, *more)
    assert f"Invalid value for '{option}'" in message
    assert "not UTF-8 text, at character" in message


def test_latin_1_on_standard_input_and_in_files_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    assert "is not UTF-8" in refused("generate", "--model", tiny_model, stdin=b"h\xe9llo")
    (tmp_path / "q.txt").write_bytes(b"h\xe9llo")
    assert "is not UTF-8" in refused("generate", "--model", tiny_model, "--input", tmp_path / "q.txt")


@pytest.mark.parametrize(
    "locale", [pytest.param({"LC_ALL": "C"}, marks=pytest.mark.slow), {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}]
)
def test_latin_1_where_the_locale_is_c_is_refused(locale: dict[str, str], tiny_model: Path) -> None:
    command = [sys.executable, "-m", "veneer", "generate", "--model", str(tiny_model)]
    done = subprocess.run(command, input=b"h\xe9llo", capture_output=True, env={**os.environ, **locale}, check=False)
    assert done.returncode == 2
    assert b"is not UTF-8 text" in done.stderr
    assert b"Traceback" not in done.stderr


def test_the_api_refuses_half_characters_by_the_message(tiny_model: Path) -> None:
    with pytest.raises(DataError, match=r"message 2 \(user\): a lone surrogate \(U\+D83D\)"):
        generate(str(tiny_model), "half \ud83d of it", system="Be brief.")


def test_answers_are_written_in_whatever_encoding_standard_output_has(tiny_model: Path) -> None:
    argv = ["generate", "--model", str(tiny_model), *FLOAT32, "--max-new-tokens", "2", "--prompt", "文字", "--json"]
    result = CliRunner(charset="latin-1").invoke(main, argv)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["prompt"] == "文字"


def test_with_json_a_file_of_answers_is_told_of_as_json(tiny_model: Path, tmp_path: Path) -> None:
    questions, output = tmp_path / "questions.txt", tmp_path / "answers.jsonl"
    questions.write_text("a\nb\n")
    argv = ["generate", "--model", tiny_model, *FLOAT32, "--input", questions, "--output", output]
    argv += ["--max-new-tokens", 2]
    for before in (0, 2):
        said = json.loads(invoke(*argv, "--json").stdout)
        assert said == {"output": str(output), "rows": 2, "before": before}
    assert invoke(*argv).stdout == f"{output}: 2 answers, 2 of them from earlier\n"


def test_a_row_is_answered_over_the_base_that_its_adapter_was_trained_beside(
    finished: dict[str, RunResult], tiny_model: Path, tmp_path: Path
) -> None:
    for name in ("qlora", "lora"):
        shutil.copytree(finished[name].output, tmp_path / "adapters" / name)
    rows, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    asked = ("--adapters", tmp_path / "adapters", "--input", rows, "--output", output)

    def held() -> str:
        output.unlink(missing_ok=True)
        generated(tiny_model, *asked)
        return str(json.loads((tmp_path / "out.jsonl.job").read_text())["held"])

    rows.write_text('{"prompt": "hi", "adapter": "qlora"}\n{"prompt": "hi"}\n')
    assert held() == "nf4, blocks of 64, double quantisation, from float32"
    rows.write_text('{"prompt": "hi", "adapter": "lora"}\n')
    assert held() == "not quantised as it was loaded"
    rows.write_text('{"prompt": "hi"}\n')
    assert held() == "not quantised as it was loaded", "rows that name no adapter ask the base as it is"
