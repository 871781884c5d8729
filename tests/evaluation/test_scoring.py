from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from helpers.models.tiny import examples
from veneer.assistant.assistant import make_assistant
from veneer.data.encoded.chat import Example
from veneer.evaluation import scoring
from veneer.evaluation.scoring import Question, RowScore, compare_answer, example_losses, score
from veneer.events import Event, StageProgress
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> CausalLM:
    return load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32)).eval()


@pytest.fixture(scope="module")
def reference(tiny_model: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


@torch.no_grad()
def loss_by_transformers(reference: nn.Module, row: Example) -> float:
    tokens = torch.tensor(row.tokens, dtype=torch.int64)[None]
    logits = reference(input_ids=tokens).logits[0, :-1].double()
    taken = torch.tensor(row.loss_mask[1:])
    return float(nn.functional.cross_entropy(logits[taken], tokens[0, 1:][taken], reduction="sum"))


@pytest.mark.parametrize("max_tokens", [1, 100, 10**6])
def test_the_loss_of_every_row_is_transformers(
    max_tokens: int,
    model: CausalLM,
    reference: LlamaForCausalLM,
    tiny_model: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "PASS_TOKENS", max_tokens)
    rows = examples(tiny_model, tiny_data)
    found = example_losses(model, rows)
    assert [supervised for _, supervised in found] == [row.supervised for row in rows]
    for (loss, supervised), row in zip(found, rows, strict=True):
        assert loss / supervised == pytest.approx(loss_by_transformers(reference, row) / supervised, abs=1e-5)


def test_scoring_leaves_the_model_as_it_was(model: CausalLM, tiny_model: Path, tiny_data: Path) -> None:
    rows = examples(tiny_model, tiny_data)[:2]
    for training in (True, False):
        model.train(training)
        example_losses(model, rows)
        assert model.training is training
    model.eval()
    assert example_losses(model, []) == []


def test_a_row_without_targets_has_no_loss_and_spoils_no_other(
    model: CausalLM, tiny_model: Path, tiny_data: Path
) -> None:
    first, second = examples(tiny_model, tiny_data)[:2]
    bare = Example(first.tokens, np.zeros_like(first.loss_mask), "f:1")
    found = example_losses(model, [first, bare, second])
    assert found[1] == (0.0, 0)
    apart = example_losses(model, [first, second])
    assert [found[0][0], found[2][0]] == pytest.approx([apart[0][0], apart[1][0]], abs=1e-4)


@torch.no_grad()
def greedy(reference: nn.Module, prompt: tuple[int, ...], stop: frozenset[int], limit: int) -> list[int]:
    """One token at a time, the whole text run again for each."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + limit:
        token = int(reference(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
        if token in stop:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


def test_answers_are_greedy_and_stand_at_their_rows(
    model: CausalLM, reference: LlamaForCausalLM, tiny_model: Path, tiny_data: Path
) -> None:
    rows = examples(tiny_model, tiny_data)[:5]
    prompts = [tuple(row.tokens[: 9 + i].tolist()) for i, row in enumerate(rows)]
    stop = frozenset({2, greedy(reference, prompts[2], frozenset(), 3)[2]})
    expected = [greedy(reference, prompt, stop, 8) for prompt in prompts]
    assistant = replace(make_assistant(model, open_checkpoint(tiny_model), None), stop_ids=stop)
    texts = [assistant.tokenizer.decode(answer) for answer in expected]
    questions: list[Question | None] = [Question(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    questions[1] = None
    seen: list[Event] = []
    found = score(assistant, rows, questions, max_new_tokens=8, emit=seen.append, who="adapter")
    assert [row.answer for row in found] == [None if i == 1 else text for i, text in enumerate(texts)]
    assert [row.exact for row in found] == [True, None, True, True, True]
    last = {event.stage: (event.done, event.total) for event in seen if isinstance(event, StageProgress)}
    assert last == {"computing losses of the adapter": (5, 5), "answering with the adapter": (4, 4)}
    assert [(row.loss_sum, row.supervised) for row in found] == example_losses(model, rows)
    assert found[1] == RowScore(found[1].loss_sum, rows[1].supervised, None, None, None)


# --------------------------------------------------------------------------------------------------------------- judge

REFERENCE = '{"a": 1, "b": "x", "c": [1, 2], "d": null}'


@pytest.mark.parametrize(
    ("answer", "exact", "fields"),
    [
        (REFERENCE, True, 1.0),
        ('  {"d":null,"c":[1,2],"b":"x","a":1}\n', True, 1.0),
        ('{"a": 1, "b": "x", "c": [1, 2]}', False, 0.75),
        ('{"a": 1, "b": "x", "c": [2, 1], "d": null}', False, 0.75),
        ('{"a": 1, "b": "x", "c": [1, 2], "d": null, "e": 5}', False, 1.0),
        ('{"a": true, "b": "x", "c": [1, 2], "d": null}', False, 0.75),
        ('{"a": "1", "b": "X", "c": "[1, 2]", "d": false}', False, 0.0),
        ('{"a": 1.0, "b": "x", "c": [1, 2], "d": null}', False, 0.75),
        ("{}", False, 0.0),
        ("[1]", False, 0.0),
        ("a = 1", False, 0.0),
        ("", False, 0.0),
        (REFERENCE + ' {"more": 1}', False, 0.0),
        ('{"a": 1, "b": "x"', False, 0.0),
        ("```json\n" + REFERENCE + "\n```", False, 0.0),
        ('{"a": ' + "1" * 5000 + "}", False, 0.0),
    ],
)
def test_json_is_judged_by_its_values(answer: str, exact: bool, fields: float) -> None:
    assert compare_answer(answer, REFERENCE) == (exact, fields)


@pytest.mark.parametrize(
    ("answer", "reference", "exact"),
    [
        ("yes", "yes", True), (" yes\n", "yes", True), ("Yes", "yes", False), ("yes.", "yes", False),
        ("", "yes", False),
        ("[1, 2]", "[1,2]", False), ("5", "5.0", False), ("a  b", "a b", False),
    ],
)  # fmt: skip
def test_text_is_judged_by_its_letters(answer: str, reference: str, exact: bool) -> None:
    assert compare_answer(answer, reference) == (exact, None)


def test_an_empty_object_has_no_fields_to_get_right() -> None:
    assert compare_answer("{ }", "{}") == (True, None)
    assert compare_answer('{"a": 1}', "{}") == (False, None)
    assert compare_answer("none", "{}") == (False, None)


@pytest.mark.parametrize(
    ("expected", "given", "same"),
    [(True, 1, False), (1, True, False), (0, False, False), ("1", 1, False), (None, 0, False),
     ({"x": 1}, {"x": 1}, True),
     ({"x": 1, "y": 2}, {"y": 2, "x": 1}, True), ([1, 2], [2, 1], False), ("é", "e\u0301", True),
     ("é", "e", False), (1e2, 100.0, True)],
)  # fmt: skip
def test_values_are_equal_only_if_they_are_written_alike(expected: Any, given: Any, same: bool) -> None:
    exact, fields = compare_answer(json.dumps({"k": given}), json.dumps({"k": expected}))
    assert (exact, fields) == (same, float(same))


@pytest.mark.parametrize("depth", [*range(900, 1010, 10), 5000, 100_000])
def test_an_answer_nested_without_end_is_wrong_and_no_crash(depth: int) -> None:
    answer = '{"a": ' + "[" * depth + "]" * depth + ', "b": "x", "c": [1, 2], "d": null}'
    exact, fields = compare_answer(answer, REFERENCE)
    assert exact is False
    assert fields in (0.0, 0.75)


def test_perplexity_is_the_exponential_of_the_mean_over_tokens() -> None:
    from veneer.evaluation.statistics.compare import measures_of

    rows = [RowScore(10.0, 5, None, None, None), RowScore(2.0, 10, None, None, None)]
    found = {one.name: one.total for one in measures_of(rows)}
    assert found["loss"] == pytest.approx(12 / 15)
    assert found["perplexity"] == pytest.approx(math.exp(12 / 15))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_how_accents_are_stored_makes_no_difference(form: str) -> None:
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    assert compare_answer(normalize(form, "thé"), normalize(other, "thé")) == (True, None)
    written = json.dumps({normalize(form, "café"): normalize(form, "thé"), "n": 1.5})
    assert compare_answer(normalize(other, '{"n": 1.5, "café": "thé"}'), written) == (True, 1.0)
    assert compare_answer("the", normalize(form, "thé")) == (False, None)
