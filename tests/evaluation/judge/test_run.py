from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.adapters.peft_folders import rewrite_tensors, write_adapter
from helpers.models.tiny import run_config, write_rows
from helpers.models.tiny_models import ours, tiny_llama
from helpers.servers.endpoints import endpoint, said
from veneer.commands.evaluate import exit_code
from veneer.config import ComputeSection
from veneer.data.forms.turns import Message
from veneer.enums import Dtype
from veneer.errors import AdapterError, ConfigError, DataError
from veneer.evaluation.judge import run
from veneer.evaluation.judge.ahead import OnAnswer
from veneer.evaluation.judge.questions import AnswerPair
from veneer.evaluation.judge.run import judge, read_human
from veneer.evaluation.judge.settings import JudgeSettings
from veneer.evaluation.run import evaluate
from veneer.training.run import train

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)
PROMPT = "{question}§{first}§{second}"


def longer(content: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
    """A judge that prefers the longer answer."""
    _, first, second = content["messages"][-1]["content"].split("§")
    return said("Verdict: tie" if len(first) == len(second) else f"Verdict: {1 if len(first) > len(second) else 2}")


def pairs() -> list[AnswerPair]:
    return [
        AnswerPair("f:1", "q", "", "a", "bbb"),
        AnswerPair("f:2", "q", "", "aaa", "b"),
        AnswerPair("f:3", "q", "", "same", "same"),
    ]


def test_answers_are_recorded_and_not_asked_for_again(tmp_path: Path) -> None:
    count = []

    def reply(content: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        count.append(1)
        return longer(content, headers)

    with endpoint(reply) as url:
        settings = JudgeSettings(model="m", url=url, record=tmp_path / "record.jsonl", prompt=PROMPT)
        first = judge(settings, pairs())
        with settings.record.open("a") as file:
            file.write('{"digest": "torn')
        assert judge(settings, pairs()) == first
        assert len(count) == 4  # two orders of the two rows whose answers differ
        judge(settings, [*pairs(), AnswerPair("f:4", "new", "", "a", "bb")])
        assert len(count) == 6
    assert (first.wins, first.losses, first.ties, first.equal) == (1, 1, 1, 1)
    assert first.first_chosen is not None
    assert first.first_chosen.value == 0.5
    entries = [json.loads(line) for line in settings.record.read_text().splitlines() if line and "torn" not in line]
    assert {entry["row"] for entry in entries} == {f"f:{n} ({o} order)" for n in (1, 2, 4) for o in ("first", "second")}


def test_a_judge_that_always_takes_the_first_answer_is_found_out_and_rows_of_people_say_how_far_it_is_right(
    tmp_path: Path,
) -> None:
    human = write_rows(
        tmp_path / "people.jsonl",
        [
            {"question": "q", "first": "a", "second": "bbb", "human": "2"},
            {"question": "q", "first": "aa", "second": "b", "human": "tie"},
        ],
    )
    with endpoint(lambda content, headers: said("Verdict: 1")) as url:
        settings = JudgeSettings(model="m", url=url, record=tmp_path / "record.jsonl", prompt=PROMPT, human=human)
        found = judge(settings, pairs()[:2])
    assert (found.wins, found.ties, found.losses) == (0, 2, 0)
    assert found.first_chosen is not None
    assert (found.first_chosen.value, found.first_chosen.count) == (1.0, 4)
    assert found.consistent is not None
    assert found.consistent.value == 0.0
    assert found.agreement is not None
    assert (found.agreement.value, found.agreement.count) == (0.5, 2)


def test_questions_without_an_answer_name_their_rows_and_the_rest_is_kept(tmp_path: Path) -> None:
    def reply(content: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        if "aaa" in content["messages"][-1]["content"]:
            return 400, {"error": {"message": "too long"}}
        return longer(content, headers)

    with endpoint(reply) as url:
        settings = JudgeSettings(model="m", url=url, record=tmp_path / "record.jsonl", prompt=PROMPT, retries=0)
        with pytest.raises(DataError) as caught:
            judge(settings, pairs())
    for part in ("2 of 4 questions", "f:2 (first order): ", "f:2 (second order): ", "400: too long", "record.jsonl"):
        assert part in str(caught.value)
    assert settings.record.read_text().count('"f:1 (') == 2
    with (
        endpoint(lambda content, headers: said("I cannot say.")) as url,
        pytest.raises(DataError, match=r"no verdict on any of 3 rows; its first answer was:\nI cannot say\."),
    ):
        judge(
            JudgeSettings(model="m", url=url, record=tmp_path / "other.jsonl", prompt=PROMPT), pairs()[:2] + pairs()[:1]
        )


def test_rows_of_people_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "people.jsonl", [{"question": "q", "first": "a", "second": "b", "human": "3"}, {}])
    with pytest.raises(DataError) as caught:
        read_human(file)
    for part in ("2 rows cannot be used", "people.jsonl:1: ValueError: human is '3'\n", "people.jsonl:2: KeyError"):
        assert part in str(caught.value)
    write_rows(file, [{"question": "q", "first": None, "second": "b", "human": 2}])
    with pytest.raises(DataError, match=r"people\.jsonl:1: TypeError: first is not a text"):
        read_human(file)
    file.write_bytes('{"question": "für"}'.encode("latin-1"))
    for damaged in (file, tmp_path / "no-such.jsonl"):
        with pytest.raises(DataError, match=r"cannot be read.*JSON lines in UTF-8"):
            read_human(damaged)


def test_an_answer_with_a_line_separator_is_not_asked_for_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(content: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        asked.append(content["messages"][-1]["content"])
        return said("So\u2028it is.\u0085\nVerdict: 1")

    with endpoint(reply) as url:
        settings = JudgeSettings(model="m", url=url, record=tmp_path / "record.jsonl", prompt=PROMPT)
        first = judge(settings, pairs()[:1])
        assert judge(settings, pairs()[:1]) == first
    assert len(asked) == 2


class Counted:
    """A judge that counts its questions, in the place of the model that would be loaded."""

    def __init__(self) -> None:
        self.asked = 0

    def answer(self, conversations: Sequence[Sequence[Message]], on_answer: OnAnswer) -> dict[int, str]:
        self.asked += len(conversations)
        for number, _ in enumerate(conversations):
            on_answer(number, "Verdict: 1")
        return {}


def test_a_judge_that_was_trained_anew_in_its_place_is_asked_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted()
    monkeypatch.setattr(run, "_answerer", lambda settings, compute, emit: counted)
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write_adapter(adapter, ours(tiny_llama(), tmp_path / "base"))
    settings = JudgeSettings(model=str(model), adapter=adapter, record=tmp_path / "record.jsonl", prompt=PROMPT)
    judge(settings, pairs())
    judge(settings, pairs())
    assert counted.asked == 4
    rewrite_tensors(adapter, lambda tensors: {name: 2 * tensor for name, tensor in tensors.items()})
    judge(settings, pairs())
    assert counted.asked == 8
    content = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(content | {"rms_norm_eps": 1e-3}))
    judge(settings, pairs())
    assert counted.asked == 12
    moved = replace(settings, model=str(model.rename(tmp_path / "moved")), adapter=adapter.rename(tmp_path / "better"))
    judge(moved, pairs())
    assert counted.asked == 12
    judge(replace(moved, adapter=None), pairs())
    assert counted.asked == 16
    (tmp_path / "better" / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"better: adapter_model\.safetensors is missing"):
        judge(moved, pairs())


def test_evaluate_asks_a_judge_only_where_it_is_told_to(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    adapter = train(run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=20")).output
    file = tmp_path / "judge.yaml"
    asked = {"adapter": adapter, "compute": FLOAT32, "limit": 4, "max_new_tokens": 4}
    with endpoint(longer) as url:
        file.write_text(json.dumps({"url": url, "model": "m", "prompt": PROMPT}))
        report = evaluate(str(tiny_model), tiny_data, judge=file, html=tmp_path / "report.html", **asked)
    assert report.judge is not None
    assert report.judge.win_rate.count == 4
    assert [row[0] for row in report.judge.verdicts] == [one.where for one in report.samples]
    assert '"win_rate"' in (tmp_path / "report.html").read_text()
    assert evaluate(str(tiny_model), tiny_data, **asked).judge is None
    # A model that is loaded here judges as well; a tiny one gives no verdict, which is said.
    file.write_text(json.dumps({"model": str(tiny_model), "max_tokens": 4, "record": str(tmp_path / "local.jsonl")}))
    failed = evaluate(str(tiny_model), tiny_data, judge=file, **asked)
    assert "gave no verdict on any of 4 rows" in str(failed.judge_error)
    assert any(one.startswith("the judge failed; everything else was measured: ") for one in failed.warnings)
    assert (failed.judge, failed.comparison) == (None, report.comparison)
    assert (exit_code(report), exit_code(failed)) == (0, 2)
    with pytest.raises(ConfigError, match="a judge and several adapters compare"):
        evaluate(str(tiny_model), tiny_data, judge=file)
