from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import veneer
from veneer.enums import ObjectiveName
from veneer.errors import ConfigError

FLOAT32 = veneer.ComputeSection(device="cpu", dtype="float32")


def test_rows_of_a_comparison_that_never_began_do_not_stay_in_its_folder(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(veneer.DataError, match="there is a prompt but no completion"):
        veneer.compare(str(tiny_model), [{"prompt": "x"}], tmp_path / "out", eval_data=[{"prompt": "x"}])
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_one_question_has_one_answer_and_a_list_has_as_many_as_it_is_long(tiny_model: Path) -> None:
    sampling = veneer.Sampling(max_new_tokens=4)
    pieces: list[str] = []
    one = veneer.generate(str(tiny_model), "Where?", sampling=sampling, compute=FLOAT32, on_text=pieces.append)
    asked: list[Any] = ["Where?", [{"role": "user", "content": "When?"}]]
    several = veneer.generate(str(tiny_model), asked, sampling=sampling, compute=FLOAT32)
    assert one == several[0] == "".join(pieces)
    assert len(several) == 2


@pytest.mark.parametrize("prompts", ["", ["a", ""], ["", "b", []]])
def test_empty_prompts_are_all_named_before_a_model_is_opened(prompts: Any) -> None:
    with pytest.raises(veneer.DataError) as caught:
        veneer.generate("no-such-model", prompts)
    empty = [prompts] if isinstance(prompts, str) else prompts
    named = [line.strip(" -") for line in str(caught.value).splitlines()[1:]]
    assert named == [f"prompt {number}" for number, one in enumerate(empty) if not one]


def test_messages_that_are_none_are_all_named_before_a_model_is_opened() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    asked: list[Any] = [
        "Where?",
        [{"role": "user", "contents": "When?"}],
        [{"role": "user", "content": "Who?"}, called, {"content": "me"}],
        [{"role": "user", "content": None}, {"role": "user", "content": ["Why?"]}],
    ]
    with pytest.raises(veneer.DataError) as caught:
        veneer.generate("no-such-model", asked)
    assert [line.strip(" -") for line in str(caught.value).splitlines()[1:]] == [
        "prompt 1, message 1: it has no content that is a text; it has 'contents' (did you mean 'content'?)",
        "prompt 2, message 3: it has no role that is a text",
        "prompt 3, message 1: it has no content that is a text",
        "prompt 3, message 2: its content must be a text, got ['Why?']",
    ]
    with pytest.raises(veneer.DataError, match="the prompts are empty:\n  - prompt 0"):
        veneer.generate("no-such-model", [[{"role": "system", "content": "Hush."}, {"role": "user", "content": ""}]])


def test_a_question_and_a_conversation_have_the_system_message_alike(tiny_model: Path) -> None:
    asked = ["hello", [{"role": "user", "content": "hello"}]]
    options = {"sampling": veneer.Sampling(max_new_tokens=8), "compute": FLOAT32}
    by_text, by_turns = veneer.generate(str(tiny_model), asked, system="Be brief, and say what it is.", **options)
    without = veneer.generate(str(tiny_model), asked[1:], **options)
    assert by_text == by_turns
    assert by_turns not in without


def test_a_conversation_refuses_an_empty_message(tiny_model: Path) -> None:
    talk = veneer.chat(str(tiny_model), sampling=veneer.Sampling(max_new_tokens=3), compute=FLOAT32)
    with pytest.raises(veneer.DataError, match="the message is empty"):
        talk.say("")
    with pytest.raises(veneer.DataError, match="message 1: it has no content"):
        talk.assistant.stream([{"role": "user", "contents": "When?"}], talk.sampling, print)
    assert talk.messages == []


def test_a_conversation_remembers_what_was_said(tiny_model: Path) -> None:
    talk = veneer.chat(str(tiny_model), system="Hush.", sampling=veneer.Sampling(max_new_tokens=3), compute=FLOAT32)
    first, second = talk.say("Where?"), talk.say("When?")
    assert talk.messages == [
        {"role": "system", "content": "Hush."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": second},
    ]


def test_rows_are_checked_wherever_they_are(tiny_data: Path, tiny_model: Path) -> None:
    content = [json.loads(line) for line in tiny_data.read_text().splitlines()]
    by_file = veneer.lint(tiny_data, model=str(tiny_model)).to_json()
    in_memory = veneer.lint([*content], model=str(tiny_model)).to_json()
    for key in ("rows", "rows_with", "lengths", "not_checked"):
        assert by_file[key] == in_memory[key]
    leaked = veneer.lint(content, eval_data=content[:2]).to_json()
    assert {one["rule"] for one in leaked["findings"]} >= {"leaked-row"}


def test_rows_are_checked_for_an_objective_by_its_name_or_as_it_is() -> None:
    asked = [{"prompt": "2 + 2?", "reference": "4"}]
    for objective in ("grpo", ObjectiveName.GRPO):
        report = veneer.lint(asked, objective=objective)
        assert (report.objective, report.found) == (ObjectiveName.GRPO, ())
    assert veneer.lint(asked, objective="sft").failed
    with pytest.raises(ConfigError, match=r"objective: 'gpro' is unknown.*did you mean 'grpo'"):
        veneer.lint(asked, objective="gpro")
    with pytest.raises(ConfigError, match="label_errors judges answers"):
        veneer.lint(asked, objective="grpo", model="none", label_errors=True)


def test_a_comparison_is_made_by_the_metrics_that_are_named(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jsn"):
        veneer.compare(str(tiny_model), tiny_data, tmp_path / "out", metrics=["jsn"])
    with pytest.raises(ConfigError, match="jsn"):
        veneer.compare(str(tiny_model), tiny_data, tmp_path / "out", metrics="jsn")


def test_a_folder_that_is_combined_twice_is_refused_and_not_dropped(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapters: must be a list .*, got 'alone'"):
        veneer.combine("alone", tmp_path / "sum")
    for adapters in (["one", "two", "one"], ["one", Path("one")], {"one": 1.0, Path("one"): 2.0}):
        with pytest.raises(ConfigError, match="given twice; give it once, with the sum of the weights"):
            veneer.combine(adapters, tmp_path / "sum")
