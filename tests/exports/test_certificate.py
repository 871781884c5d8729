"""The comparison itself, on plain values: what is measured, and what is called wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from veneer.exports.certificate import (
    Answer,
    Certificate,
    ParityError,
    ReaderOutput,
    TensorReport,
    Threshold,
    TokenDistribution,
    compare,
    floor_of,
    kl_divergence,
    largest_gap,
)
from veneer.exports.veneer_reader import steps_of

LIMIT = Threshold(gap=1e-3, divergence=1e-6, tensor=0.0)
LABELS = ("rows.jsonl:1", "rows.jsonl:2")


def distribution(seed: int, vocab: int = 300) -> torch.Tensor:
    return torch.randn(1, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def side(name: str = "live", shift: float = 0.0, tokens: tuple[int, ...] = (5, 7)) -> ReaderOutput:
    """Two answers of three steps, one token of each moved by `shift`."""
    answers = []
    for prompt in range(2):
        steps = []
        for number in range(3):
            logits = distribution(10 * prompt + number)
            logits[0, 5 if number == 0 else 7] += 20 + (shift if prompt == 1 and number == 1 else 0.0)
            steps.append(steps_of(logits)[0])
        answers.append(Answer(tokens, "five seven", tuple(steps)))
    return ReaderOutput(name, ("<a>one", "<a>two"), ((1, 2), (3, 4, 5)), tuple(answers))


def test_gap_and_divergence_are_those_of_the_whole_distributions() -> None:
    first, second = distribution(1), distribution(1) + 0.01 * distribution(2)
    p, q = first.double().log_softmax(-1)[0], second.double().log_softmax(-1)[0]
    one, other = steps_of(first)[0], steps_of(second)[0]
    top = p.topk(10).indices
    gap, token = largest_gap(one, other)
    assert gap == pytest.approx(float((p - q)[top].abs().max()), rel=1e-9)
    assert token in top.tolist()
    exact = float((p.exp() * (p - q)).sum())
    assert 0.9 * exact < kl_divergence(one, other) <= exact * (1 + 1e-9)
    everything = [TokenDistribution(tuple(range(300)), tuple(values.tolist())) for values in (p, q)]
    assert kl_divergence(*everything) == pytest.approx(exact, rel=1e-9)
    assert kl_divergence(one, one) == 0.0


def test_a_token_that_the_reader_does_not_list_is_as_far_off_as_it_must_be() -> None:
    ours = TokenDistribution((1, 2), (math.log(0.9), math.log(0.1)))
    theirs = TokenDistribution((2, 3), (math.log(0.6), math.log(0.3)))
    assert largest_gap(ours, theirs)[0] == pytest.approx(math.log(0.6 / 0.1))
    assert largest_gap(ours, TokenDistribution((3, 4), (math.log(0.6), math.log(0.3))))[0] == pytest.approx(
        math.log(0.9 / 0.3)
    )


def test_the_same_side_agrees_with_itself() -> None:
    found = compare(side(), side("again"), LIMIT, LABELS)
    assert found.problems == ()
    assert (found.texts_equal, found.renderings_equal, found.greedy_equal) == (2, 2, 2)
    assert found.top1 == found.positions == 6
    assert found.gap == found.divergence == 0.0


def test_what_differs_is_named_with_its_place() -> None:
    ours = side()
    cut = replace(side("r"), ids=((1, 2), (3, 9, 9)))
    assert compare(ours, cut, LIMIT, LABELS).problems == (
        "token ids: 1 of 2 texts are cut into other tokens, text 2 from token 2: [4, 5] here, [9, 9] there",
    )
    other = replace(side("r"), renderings=("<a>one", "<b>two"))
    (problem,) = compare(ours, other, LIMIT, LABELS).problems
    assert problem.startswith("template: 1 of 2 conversations are written otherwise, rows.jsonl:2 from character 2:")
    assert problem.endswith("'a>two' here, 'b>two' there")
    none = replace(side("r"), renderings=("<a>one", None))
    assert "a template on one side only" in compare(ours, none, LIMIT, LABELS).problems[0]


def test_a_token_that_is_lost_or_renumbered_is_named() -> None:
    ours = replace(side(), vocabulary={"a": 0, "b": 1, "c": 2})
    more = replace(side("r"), vocabulary={"a": 0, "b": 1, "c": 2, "[PAD3]": 3})
    assert compare(ours, more, LIMIT, LABELS).problems == ()
    other = replace(side("r"), vocabulary={"a": 0, "b": 2})
    (problem,) = compare(ours, other, LIMIT, LABELS).problems
    assert problem == "vocabulary: 2 of 3 tokens are missing or have another id, the first is 'b' (1)"


def test_a_gap_is_judged_by_the_threshold_and_its_place_is_named() -> None:
    found = compare(side(), side("r", shift=-15.0), LIMIT, LABELS)
    assert found.gap > 1e-3
    assert found.problems[0].startswith("probabilities: a log-probability is off by")
    assert "(rows.jsonl:2, token 2 of the answer, id" in found.problems[0]
    wide = replace(LIMIT, gap=100.0, divergence=100.0)
    assert compare(side(), side("r", shift=-15.0), wide, LABELS).problems == ()
    assert "KL" in compare(side(), side("r", shift=-15.0), replace(wide, divergence=1e-6), LABELS).problems[0]


def test_steps_behind_the_first_other_token_are_not_compared() -> None:
    ours, theirs = side(), side("r", tokens=(5, 8))
    found = compare(ours, theirs, LIMIT, LABELS)
    assert found.positions == 4
    assert found.problems == ()


def test_numbers_that_are_not_finite_are_named() -> None:
    broken = side("r")
    step = replace(broken.answers[1].steps[0], logprobs=(math.nan,) * 64)
    answer = replace(broken.answers[1], steps=(step, *broken.answers[1].steps[1:]))
    found = compare(side(), replace(broken, answers=(broken.answers[0], answer)), LIMIT, LABELS)
    assert found.problems == ("probabilities: NaN or infinite at rows.jsonl:2, token 1 of the answer",)


def test_a_reader_that_does_not_stop_is_named() -> None:
    ours = side()
    on = replace(side("r"), answers=tuple(replace(one, tokens=(5, 7, one.steps[2].ids[0])) for one in ours.answers))
    (problem,) = compare(ours, on, LIMIT, LABELS).problems
    assert problem == "ending: token 7 does not end the answer to rows.jsonl:1"


def test_what_ends_an_answer_is_asked_of_the_reader() -> None:
    ours = replace(side(), stop_ids=frozenset({2, 7}))
    assert compare(ours, replace(ours, stop_ids=frozenset({2, 7, 9})), LIMIT, LABELS).problems == ()
    (problem,) = compare(ours, replace(ours, stop_ids=frozenset({9})), LIMIT, LABELS).problems
    assert problem == "ending: the tokens [2, 7] no longer end an answer; by the export's files, [9] do"


def test_a_reader_is_judged_by_the_expected_model_and_its_cost_by_what_the_user_set() -> None:
    live, rounded = side(), side("veneer", shift=-1.0)
    apart = compare(live, rounded, LIMIT, LABELS)
    assert [problem.split(":")[0] for problem in apart.problems] == ["probabilities", "probabilities"]
    judged = compare(live, rounded, LIMIT, LABELS, expected=replace(rounded, name="expected"))
    assert judged.problems == ()
    assert judged.beside_expected == 0.0
    assert judged.gap == apart.gap > 0.0
    (problem,) = compare(live, rounded, replace(LIMIT, cost=judged.gap / 2), LABELS, expected=rounded).problems
    assert problem.startswith("cost: ")


def test_a_reader_that_rounds_is_allowed_what_rounding_moves_on_these_rows() -> None:
    live = side()
    floor = floor_of(live, live, side("rounded", shift=-1.0))
    assert 0.0 < floor.mean <= floor.upper
    assert compare(live, side("r", shift=-1.2), LIMIT, LABELS, floor=floor).problems == ()
    assert compare(live, side("r", shift=-1.2), LIMIT, LABELS).problems
    (problem,) = compare(live, side("r", shift=-9.0), LIMIT, LABELS, floor=floor).problems
    assert "mean KL divergence" in problem


def test_a_certificate_says_first_what_explains_the_rest() -> None:
    tensors = TensorReport(3, "a", 0.5, ("a: is off by 50 % of its size, 0 % are allowed",))
    agreement = compare(side(), side("veneer", shift=-15.0), LIMIT, LABELS)
    certificate = Certificate(
        to="merged", format="float32", prompts=2, prompts_from="rows.jsonl", new_tokens=16, threshold=LIMIT,
        tensors=tensors, readers=(agreement,), damaged=("model.safetensors: changed",),
    )  # fmt: skip
    assert not certificate.passed
    assert [one.split(" ")[0] for one in certificate.problems[:3]] == ["file", "tensor", "veneer:"]
    with pytest.raises(ParityError, match=r"out was not made(.|\n)*tensor a: is off") as caught:
        certificate.refuse("out was not made")
    assert caught.value.exit_code == 1
    certificate = replace(certificate, tensors=None, readers=(), damaged=())
    assert certificate.passed
    certificate.refuse("nothing is raised")
