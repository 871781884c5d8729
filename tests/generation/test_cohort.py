"""What a model's own modules make of long prompts, without holding more than is looked at."""

from __future__ import annotations

import pytest
import torch

from helpers.models.tiny import write_model
from helpers.models.tiny_models import documents
from veneer.generation import cohort
from veneer.generation.cohort import CohortRunner
from veneer.generation.logprobs import token_logprob
from veneer.generation.runner import StepInput, StepOutput, Wanted
from veneer.generation.sequence import Placement, SequenceState, Work
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM

LENGTH = 30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    found = load_model(
        open_checkpoint(write_model(tmp_path_factory.mktemp("model"), seed=3)), Loading(dtype=torch.float32)
    )
    return found.eval()


def scored(model: CausalLM, prompt: list[int], top: int) -> StepOutput:
    """What is made of a whole prompt."""
    sequence = SequenceState(
        number=0,
        adapter="",
        root=None,
        tokens=prompt,
        prompt_tokens=len(prompt),
        capacity=len(prompt) + 1,
        placement=Placement.COHORT,
    )
    [output] = CohortRunner(model, 16).compute([StepInput(Work(sequence, 0, len(prompt)), None, Wanted.ALL, top)])
    assert output is not None
    return output


@pytest.mark.parametrize("piece", [1, 7, LENGTH - 1, LENGTH])
def test_a_prompts_logits_are_scored_piece_by_piece_and_none_are_kept(
    model: CausalLM, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    [prompt] = documents([LENGTH], vocab=model.spec.vocab_size)
    with torch.no_grad():
        hidden = model.documents(torch.tensor(prompt), torch.arange(LENGTH), [LENGTH])
        whole = model.logits(hidden)
    made: list[int] = []
    logits = model.logits

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        made.append(len(hidden))
        return logits(hidden)

    monkeypatch.setattr(cohort, "SCORED_TOKENS", piece)
    monkeypatch.setattr(model, "logits", counted)
    output = scored(model, prompt, 3)
    assert len(output.logits) == 1
    assert max(made) <= piece
    assert len(output.scored) == LENGTH - 1
    for place, found in enumerate(output.scored):
        want = token_logprob(whole[place], prompt[place + 1], 3)
        assert [found.token, *(token for token, _ in found.top)] == [want.token, *(token for token, _ in want.top)]
        assert found.logprob == pytest.approx(want.logprob, abs=1e-5)
        assert [value for _, value in found.top] == pytest.approx([value for _, value in want.top], abs=1e-5)


def test_a_prompt_of_one_token_has_nothing_to_score(model: CausalLM) -> None:
    assert list(scored(model, [5], 3).scored) == []
