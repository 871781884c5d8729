"""Evaluation of base and adapter on the same rows."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from helpers.models.tiny import examples, rows, run_config, write_rows
from helpers.processes.other_user import as_another_user, as_root, open_folder
from veneer.assistant.load import open_assistant
from veneer.assistant.prompts import turns
from veneer.config import ComputeSection
from veneer.data.forms.formats import to_record
from veneer.data.records import read_records
from veneer.enums import Dtype, Method
from veneer.errors import AdapterError, CheckpointError, ConfigError, DataError, OutputError
from veneer.evaluation.rows import EXTRA_TOKENS, prepare, score_rows
from veneer.evaluation.run import evaluate
from veneer.events import Event, Note, Result, StageBegun, StageProgress, ignore
from veneer.generation.sampling import Sampling
from veneer.training.run import train

ALL = ("exact", "fields", "loss", "perplexity", "bits_per_byte")
JSON_MEASURES = ("json_valid", "json_precision", "json_recall", "json_f1")
"""The measures of rows with JSON references."""
FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    output = tmp_path_factory.mktemp("evaluated") / "run"
    return train(run_config(tiny_model, tiny_data, output, "train.steps=60")).output


def loss_of(model: torch.nn.Module, path: Path, data: Path) -> float:
    total, count = 0.0, 0
    for row in examples(path, data):
        tokens = torch.tensor(row.tokens, dtype=torch.int64)[None]
        with torch.no_grad():
            logits = model(input_ids=tokens).logits[0, :-1].double()
        taken = torch.tensor(row.loss_mask[1:])
        total += float(torch.nn.functional.cross_entropy(logits[taken], tokens[0, 1:][taken], reduction="sum"))
        count += int(taken.sum())
    return total / count


def test_base_and_adapter_have_the_losses_of_transformers_and_peft(
    adapter: Path, tiny_model: Path, tiny_data: Path
) -> None:
    report = evaluate(str(tiny_model), tiny_data, adapter=adapter, compute=FLOAT32)
    base = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    found = {one.name: one for one in report.comparison}
    assert found["loss"].base == pytest.approx(loss_of(base, tiny_model, tiny_data), abs=1e-5)
    tuned = PeftModel.from_pretrained(base, adapter).eval()
    assert found["loss"].adapter == pytest.approx(loss_of(tuned, tiny_model, tiny_data), abs=1e-5)
    assert found["loss"].high < 0
    assert found["fields"].difference >= 0
    assert report.rows == 20


def test_the_base_beside_an_adapter_is_the_base_alone(adapter: Path, tiny_model: Path, tiny_data: Path) -> None:
    beside = evaluate(str(tiny_model), tiny_data, adapter=adapter, compute=FLOAT32, limit=6)
    alone = evaluate(str(tiny_model), tiny_data, compute=FLOAT32, limit=6)
    assert beside.base == alone.base
    assert [sample.base for sample in beside.samples] == [sample.base for sample in alone.samples]
    assert [sample.adapter for sample in alone.samples] == [None] * 6
    assert alone.comparison == []
    assert alone.adapter == []


def test_samples_are_the_rows_with_the_answers_that_were_judged(
    adapter: Path, tiny_model: Path, tiny_data: Path
) -> None:
    report = evaluate(str(tiny_model), tiny_data, adapter=adapter, compute=FLOAT32, limit=4)
    assistant = open_assistant(str(tiny_model), adapter=adapter, compute=FLOAT32)
    for sample, record in zip(report.samples, read_records(tiny_data), strict=False):
        assert sample.where == record.where
        assert sample.question == record.messages[0]["content"]
        assert sample.reference == record.messages[1]["content"]
        longest = max(len(assistant.tokenizer.encode(s.reference)) for s in report.samples)
        sampling = Sampling(max_new_tokens=longest + EXTRA_TOKENS)
        assert assistant.answers([turns(None, sample.question)], sampling) == [sample.adapter]


def test_progress_counts_every_row_once_for_each_model(adapter: Path, tiny_model: Path, tiny_data: Path) -> None:
    seen: list[Event] = []
    report = evaluate(
        str(tiny_model), tiny_data, adapter=adapter, compute=FLOAT32, limit=5, max_new_tokens=2,
        subscribers=[seen.append],
    )  # fmt: skip
    last = {event.stage: event for event in seen if isinstance(event, StageProgress)}
    tensors = f"loading {tiny_model}"
    assert last.keys() == {
        tensors, "tokenising rows", "computing losses of the base", "answering with the base",
        "computing losses of the adapter", "answering with the adapter",
    }  # fmt: skip
    assert {(event.done, event.total) for stage, event in last.items() if stage != tensors} == {(5, 5)}
    assert last[tensors].done == last[tensors].total
    assert seen[-1] == Result(verb="evaluate", values=report.to_json())


def test_text_rows_have_a_loss_and_no_answer(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "t.jsonl", [{"text": "a parcel is late"}, {"text": "the crate is blue"}])
    report = evaluate(str(tiny_model), data, compute=FLOAT32)
    assert [one.name for one in report.base] == ["loss", "perplexity", "bits_per_byte"]
    assert report.samples == []


def test_rows_in_memory_are_named_as_the_caller_knows_them(tiny_model: Path, tmp_path: Path) -> None:
    rows, page = [{"prompt": "a parcel", "completion": "is late"}] * 2, tmp_path / "page.html"
    report = evaluate(str(tiny_model), rows, compute=FLOAT32, max_new_tokens=1, html=page)
    assert [one.where for one in report.samples] == ["the given rows:1", "the given rows:2"]
    assert f"{tiny_model}: the given rows" in page.read_text(encoding="utf-8")
    with pytest.raises(DataError, match="the given rows: 1 of 3 rows cannot be used:\n  - the given rows:3: "):
        evaluate(str(tiny_model), [*rows, {"prompt": "a parcel"}], compute=FLOAT32)


def test_rows_beyond_the_models_context_are_told_of_before_they_are_computed(tiny_model: Path, tmp_path: Path) -> None:
    context = open_assistant(str(tiny_model), compute=FLOAT32).model.spec.max_positions
    data = write_rows(tmp_path / "t.jsonl", [{"text": "a b c"}, {"text": "1 2 " * context}])
    events: list[Event] = []
    report = evaluate(str(tiny_model), data, compute=FLOAT32, subscribers=[events.append])
    (told,) = (one for one in report.warnings if "context" in one)
    assert told.startswith(f"1 row of 2 longer than the model's context of {context} tokens")
    assert f"{data}:2: " in told
    assert f"{data}:1: " not in told
    notes = [isinstance(one, Note) and one.message == told for one in events]
    first = next(place for place, one in enumerate(events) if "losses" in str(one))
    assert notes.index(True) < first
    assert sum(notes) == 1


def test_warnings_are_in_one_order_and_only_those_that_were_not_emitted_before_follow_the_scores(
    adapter: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    trained = json.loads(tiny_data.read_text().splitlines()[0])
    labelled = {"prompt": "a", "completion": "b", "label": False}
    data = write_rows(tmp_path / "t.jsonl", [trained, labelled, {"text": "1 2 " * config["max_position_embeddings"]}])
    (tmp_path / "judge.yaml").write_text(json.dumps({"model": str(tiny_model), "max_tokens": 2}))
    events: list[Event] = []
    report = evaluate(
        str(other), data, adapter=adapter, compute=FLOAT32, max_new_tokens=2, judge=tmp_path / "judge.yaml",
        subscribers=[events.append],
    )  # fmt: skip
    order = ("Give the base model", "in the training data", "undesirable", "context", "say little", "the judge failed")
    assert [[part in one for part in order].index(True) for one in report.warnings] == [0, 1, 2, 3, 4, 5]
    emitted = [one.message for one in events if isinstance(one, Note) and one.message in report.warnings]
    base, seen, labels, context, few, judge = report.warnings
    assert emitted == [base, context, seen, labels, few, judge]


def test_an_answer_is_never_to_be_longer_than_the_models_context(tiny_model: Path) -> None:
    assistant = open_assistant(str(tiny_model), compute=FLOAT32)
    context = assistant.model.spec.max_positions
    records = [to_record({"prompt": "a", "completion": "1 2 " * context}, "rows:1")]
    assert prepare(assistant, records).max_new_tokens == context
    assert prepare(assistant, records, max_new_tokens=context).max_new_tokens == context
    told: list[Event] = []
    with pytest.raises(ConfigError, match=f"max_new_tokens: {context + 1}, but the model's context has {context} "):
        prepare(assistant, records, max_new_tokens=context + 1, emit=told.append)
    assert told == []


def test_a_row_that_ends_in_a_call_counts_by_its_loss(tiny_model: Path, tmp_path: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}
    asked = {"role": "user", "content": "a parcel"}
    rows = [{"messages": [asked, call]}, {"prompt": "a parcel", "completion": "is late"}]
    report = evaluate(str(tiny_model), write_rows(tmp_path / "t.jsonl", rows), compute=FLOAT32)
    assert report.rows == 2
    assert [sample.reference for sample in report.samples] == ["is late"]
    assistant = open_assistant(str(tiny_model), compute=FLOAT32)
    prepared = prepare(assistant, read_records(tmp_path / "t.jsonl"))
    assert [question is None for question in prepared.questions] == [True, False]
    scores = score_rows(assistant, prepared, emit=ignore)
    assert [score.answer is None for score in scores] == [True, False]
    assert all(score.supervised > 0 for score in scores)
    sums = sum(score.loss_sum for score in scores) / sum(score.supervised for score in scores)
    assert next(one.value for one in report.base if one.name == "loss") == pytest.approx(sums, rel=1e-5)


def test_rows_of_both_kinds_are_scored_for_what_they_have(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "t.jsonl", [{"text": "a parcel is late"}, *rows(2), {"text": "blue"}])
    report = evaluate(str(tiny_model), data, compute=FLOAT32, max_new_tokens=3)
    assert [one.name for one in report.base] == [*ALL, *JSON_MEASURES]
    assert [sample.where for sample in report.samples] == [f"{data}:2", f"{data}:3"]
    assert report.rows == 4


def test_nothing_to_score_is_said_and_not_scored_zero(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "t.jsonl", [{"text": "a"}])
    report = evaluate(str(tiny_model), data, compute=FLOAT32)
    # One token and the end-of-text token: something trains, so there is a loss; but no text, so that it has no bytes.
    assert [one.name for one in report.base] == ["loss", "perplexity"]
    assert report.base[0].value > 0


def test_how_the_base_is_held_follows_the_run_that_made_the_adapter(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    output = train(run_config(tiny_model, tiny_data, tmp_path / "run", "method=qlora", "train.steps=2")).output
    as_trained = evaluate(str(tiny_model), tiny_data, adapter=output, compute=FLOAT32, limit=3, max_new_tokens=1)
    in_4_bits, dense = (
        evaluate(str(tiny_model), tiny_data, adapter=output, method=method, compute=FLOAT32, limit=3, max_new_tokens=1)
        for method in (Method.QLORA, Method.LORA)
    )
    assert as_trained.comparison == in_4_bits.comparison
    assert as_trained.base != dense.base
    checkpoint = output / "checkpoints" / "step-000002"
    at_checkpoint = evaluate(str(tiny_model), tiny_data, adapter=checkpoint, compute=FLOAT32, limit=3, max_new_tokens=1)
    assert at_checkpoint.comparison == as_trained.comparison


def test_a_report_is_plain_json(adapter: Path, tiny_model: Path, tiny_data: Path) -> None:
    report = evaluate(str(tiny_model), tiny_data, adapter=adapter, compute=FLOAT32, limit=3, max_new_tokens=2)
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["rows"] == 3
    assert {one["name"] for one in content["comparison"]} >= {*ALL, "json_valid"}
    assert len(content["samples"]) == 3


def test_bits_per_byte_are_the_losses_over_the_bytes_of_the_answers(tiny_model: Path, tmp_path: Path) -> None:
    data = write_rows(
        tmp_path / "t.jsonl", [{"prompt": "a", "completion": "päckchen"}, {"prompt": "b", "completion": "x"}]
    )
    report = evaluate(str(tiny_model), data, compute=FLOAT32)
    assistant = open_assistant(str(tiny_model), compute=FLOAT32)
    nats = sum(score.loss_sum for score in score_rows(assistant, prepare(assistant, read_records(data)), emit=ignore))
    found = {one.name: one.value for one in report.base}
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / (len("päckchen".encode()) + 1))


def test_choices_are_compared_by_their_likelihood(tiny_model: Path, tmp_path: Path) -> None:
    choices = ["late", "blue", "a parcel"]
    content = [{"prompt": f"{i}?", "completion": choices[i % 3], "choices": choices} for i in range(6)]
    data = write_rows(tmp_path / "t.jsonl", content)
    told: list[Event] = []
    report = evaluate(str(tiny_model), data, compute=FLOAT32, subscribers=[told.append])
    assert report.primary == "choice_accuracy"
    base = LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    right = []
    for place, row in enumerate(content):
        each = [{"prompt": row["prompt"], "completion": text} for text in choices]
        losses = []
        for text in each:
            file = write_rows(tmp_path / "one.jsonl", [text])
            (example,) = examples(tiny_model, file)
            losses.append(loss_of(base, tiny_model, file) * example.supervised)
        right.append(int(np.argmin(losses)) == place % 3)
    assert next(one.value for one in report.base if one.name == "choice_accuracy") == pytest.approx(np.mean(right))
    assert sum(one["rows"] for one in report.details["base"]["calibration"]["bins"]) == 6
    (begun,) = [one for one in told if isinstance(one, StageBegun) and one.stage == "tokenising choices"]
    assert begun.total == 18
    content[2]["choices"] = ["late", "blue"]
    data, seen = write_rows(tmp_path / "t.jsonl", content), list[Event]()
    with pytest.raises(DataError, match="is not among the choices"):
        evaluate(str(tiny_model), data, compute=FLOAT32, metrics=["choice"], subscribers=[seen.append])
    # No answer is waited for.
    assert [event.stage for event in seen if isinstance(event, StageBegun)][-1] == "tokenising rows"


def test_choices_of_rows_without_answers_are_refused_before_anything_is_computed(
    tiny_model: Path, tmp_path: Path
) -> None:
    data, seen = write_rows(tmp_path / "t.jsonl", [{"text": "a parcel"}, {"text": "late"}]), list[Event]()
    with pytest.raises(ConfigError, match="--metric choice: none of the 2 rows has an answer"):
        evaluate(str(tiny_model), data, compute=FLOAT32, metrics=["choice"], subscribers=[seen.append])
    assert [event.stage for event in seen if isinstance(event, StageBegun)][-1] == "tokenising rows"


def test_the_metric_that_is_named_first_is_the_primary_one(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def length(answer, reference, row):\n    return len(answer) / 1000\n")
    own = f"{tmp_path / 'own.py'}:length"
    report = evaluate(str(tiny_model), tiny_data, compute=FLOAT32, limit=4, max_new_tokens=3, metrics=[own, "rouge-l"])
    assert report.primary == "length"
    assert [one.name for one in report.base][-2:] == ["length", "rouge_l"]
    assert report.warnings == [
        "4 rows say little: below 30 an interval may be too narrow, and hardly any difference shows"
    ]
    one = evaluate(str(tiny_model), tiny_data, compute=FLOAT32, limit=2, max_new_tokens=2, metrics="rouge-l")
    assert one.primary == "rouge_l"
    for name, measure in (("json", "json_f1"), ("loss", "loss"), ("rouge-l", "rouge_l")):
        found = evaluate(str(tiny_model), tiny_data, compute=FLOAT32, limit=2, max_new_tokens=2, metrics=[name])
        assert found.primary == measure
    text = write_rows(tmp_path / "t.jsonl", [{"prompt": "a", "completion": "b"}])
    with pytest.raises(ConfigError, match="these rows have no number"):
        evaluate(str(tiny_model), text, compute=FLOAT32, metrics=["number"])
    second = evaluate(str(tiny_model), text, compute=FLOAT32, max_new_tokens=2, metrics=["rouge-l", "number"])
    assert second.warnings[0] == "--metric number: no row has the measure number, so the results have none"
    with pytest.raises(ConfigError, match="unknown \\(did you mean 'bleu'"):
        evaluate(str(tiny_model), tiny_data, metrics=["blue"])
    (tmp_path / "none.py").write_text("def none(answer, reference, row):\n    return None\n")
    with pytest.raises(ConfigError, match="none: gave no score for any answer of the base, but is named first"):
        evaluate(
            str(tiny_model), tiny_data, compute=FLOAT32, limit=2, max_new_tokens=2,
            metrics=[f"{tmp_path / 'none.py'}:none", "rouge-l"],
        )  # fmt: skip


def test_a_gate_on_a_measure_that_the_rows_do_not_have_is_refused(
    adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "texts.jsonl", [{"text": f"fact {n}"} for n in range(4)])
    (tmp_path / "gate.yaml").write_text("metric: exact\nbetter_by: 0.1\n")
    with pytest.raises(ConfigError, match="these rows have no exact: no row has a reference answer"):
        evaluate(str(tiny_model), data, adapter=adapter, compute=FLOAT32, gate=tmp_path / "gate.yaml")
    assert evaluate(str(tiny_model), data, adapter=adapter, compute=FLOAT32, metrics="loss").primary == "loss"


def test_a_gate_whose_margins_are_beyond_a_share_is_refused_before_answers_are_made(
    adapter: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "gate.yaml").write_text("metric: exact\nbetter_by: -2\nsuites: {arithmetic: 3}\nitems: 3\n")
    told: list[Event] = []
    with pytest.raises(ConfigError, match=r"suites\.arithmetic: 3, .*\n.*better_by: -2, "):
        evaluate(
            str(tiny_model), tiny_data, adapter=adapter, compute=FLOAT32, gate=tmp_path / "gate.yaml",
            subscribers=[told.append],
        )  # fmt: skip
    assert not any("answering" in str(one) for one in told)


def test_rows_that_do_not_count_for_the_measure_that_decides_are_not_many_rows(
    adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "t.jsonl", [*({"text": f"fact {n}"} for n in range(40)), *rows(4)])
    (tmp_path / "gate.yaml").write_text("metric: exact\nbetter_by: 0.1\n")
    told: list[Event] = []
    report = evaluate(
        str(tiny_model), data, adapter=adapter, compute=FLOAT32, max_new_tokens=2, gate=tmp_path / "gate.yaml",
        subscribers=[told.append],
    )  # fmt: skip
    assert any(one.startswith("4 rows say little") for one in report.warnings)
    assert any("but there are 4;" in one.message for one in told if isinstance(one, Note))


def test_rows_in_clusters_and_several_adapters_are_named_in_the_report(
    adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    content = [{**row, "customer": number % 3} for number, row in enumerate(rows(6))]
    data = write_rows(tmp_path / "t.jsonl", content)
    clustered = evaluate(str(tiny_model), data, adapter=adapter, compute=FLOAT32, max_new_tokens=2, cluster="customer")
    assert clustered.cluster == "customer"
    assert {one.interval for one in clustered.comparison} <= {"bootstrap over clusters", "Tango"}
    assert any(one.startswith("3 clusters say little") for one in clustered.warnings)
    other = train(run_config(tiny_model, data, tmp_path / "other", "train.steps=1", "train.seed=1")).output
    again = evaluate(str(tiny_model), data, adapter=[adapter, other], compute=FLOAT32, max_new_tokens=2)
    assert again.adapters == [str(adapter), str(other)]
    # Where the answers of all adapters are alike there is no spread to go by, and the rows' own interval stands.
    assert {one.interval for one in again.comparison} <= {"Student over seeds × rows", "Tango"}
    assert any(one.interval == "Student over seeds × rows" for one in again.comparison)
    both = [evaluate(str(tiny_model), data, adapter=one, compute=FLOAT32, max_new_tokens=2) for one in (adapter, other)]
    means = [(one.adapter + two.adapter) / 2 for one, two in zip(*(report.comparison for report in both), strict=True)]
    assert [one.adapter for one in again.comparison] == pytest.approx(means)
    del content[4]["customer"]
    content[5]["customer"] = " "
    with pytest.raises(DataError, match=r"--cluster customer: no such value in 2 rows:\n.*t.jsonl:5\n.*t.jsonl:6"):
        evaluate(str(tiny_model), write_rows(tmp_path / "t.jsonl", content), compute=FLOAT32, cluster="customer")


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_scored(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    told: list[Event] = []
    for html in (tmp_path / "absent" / "page.html", tmp_path):
        with pytest.raises(OutputError, match=f"{html}: cannot be written"):
            evaluate(str(tiny_model), tiny_data, html=html, compute=FLOAT32, subscribers=[told.append])
    before = tiny_data.read_bytes()
    with pytest.raises(OutputError, match=f"{tiny_data} already exists and is not a page of veneer"):
        evaluate(str(tiny_model), tiny_data, html=tiny_data, compute=FLOAT32, subscribers=[told.append])
    assert tiny_data.read_bytes() == before
    assert told == []


@as_root
def test_an_adapter_whose_log_may_not_be_read_is_refused_before_anything_is_scored(
    adapter: Path, tiny_model: Path, tiny_data: Path
) -> None:
    told: list[Event] = []
    with open_folder() as place:
        moved = Path(shutil.copytree(adapter, place / "run"))
        (moved / "events.jsonl").chmod(0)
        with (
            as_another_user(),
            pytest.raises(CheckpointError, match=r"events\.jsonl: cannot be read: Permission denied"),
        ):
            evaluate(tiny_model, tiny_data, adapter=moved, subscribers=[told.append])
    assert told == []


def test_what_cannot_be_evaluated_is_refused(adapter: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"no adapter_config\.json there"):
        evaluate(str(tiny_model), tiny_data, adapter=tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        evaluate(str(tiny_model), tmp_path / "absent.jsonl")
    reserved = {"prompt": "x\U0010f000", "completion": "y"}
    data = write_rows(tmp_path / "t.jsonl", [*rows(1), reserved, reserved])
    with pytest.raises(DataError) as caught:
        evaluate(str(tiny_model), data, compute=FLOAT32)
    assert "2 of 3 rows cannot be encoded" in str(caught.value)
    assert f"{data}:2" in str(caught.value)
    assert f"{data}:3" in str(caught.value)
