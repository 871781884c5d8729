"""A model of transformers behind the own decoder's face computes what transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from helpers.models.hf_models import OTHERS, SHAPES, tiny_hf
from helpers.models.tiny_models import documents, largest_difference, their_logits
from veneer.backends.load import load_hf
from veneer.errors import ModelError
from veneer.generation.batch import generate
from veneer.generation.sampling import Sampling
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.losses.module_head import scored_cross_entropy
from veneer.model.decoder import plain_weight
from veneer.model.hf import HfModel
from veneer.model.recompute import Recomputation

KINDS = [*SHAPES, *OTHERS]
TEXTS = documents([5, 19, 1, 30, 7], seed=3)


def ours(kind: str, path: Path, **settings: Any) -> tuple[torch.nn.Module, HfModel]:
    theirs = tiny_hf(kind)
    theirs.save_pretrained(path)
    return theirs, load_hf(open_checkpoint(path), Loading(dtype=torch.float32, **settings))


def packed(texts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    tokens = torch.tensor([token for text in texts for token in text])
    return tokens, torch.cat([torch.arange(len(text)) for text in texts]), [len(text) for text in texts]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_packed_documents_have_the_scores_of_documents_by_themselves(kind: str, tmp_path: Path) -> None:
    theirs, model = ours(kind, tmp_path)
    found = model.logits(model.documents(*packed(TEXTS)))
    expected = their_logits(theirs, TEXTS)
    assert largest_difference(found, expected) < 2e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_batched_greedy_generation_is_that_of_each_prompt_by_itself(kind: str, tmp_path: Path) -> None:
    theirs, model = ours(kind, tmp_path)
    found = generate(model, TEXTS, sampling=Sampling(max_new_tokens=12), stop_ids=frozenset())
    for text, tokens in zip(TEXTS, found, strict=True):
        whole = [*text, *tokens]
        # Each token is the likeliest behind all before it, computed anew and without a cache.
        with torch.no_grad():
            scores = theirs(input_ids=torch.tensor([whole])).logits[0, len(text) - 1 : -1]
        assert scores.argmax(-1).tolist() == tokens


@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2"])
@torch.no_grad()
def test_a_beginning_that_documents_share_is_seen_by_each(kind: str, tmp_path: Path) -> None:
    theirs, model = ours(kind, tmp_path)
    front, tails = documents([6])[0], documents([3, 9, 1], seed=5)
    tokens = torch.tensor([*front, *(token for tail in tails for token in tail)])
    positions = torch.cat([torch.arange(6), *(torch.arange(6, 6 + len(tail)) for tail in tails)])
    found = model.logits(model.documents(tokens, positions, [len(tail) for tail in tails], 6))
    whole = [their_logits(theirs, [[*front, *tail]]) for tail in tails]
    expected = torch.cat([whole[0][:6], *(one[6:] for one in whole)])
    assert largest_difference(found, expected) < 1e-5


@pytest.mark.parametrize(
    ("kind", "plain"),
    [("gpt_neox", True), ("cohere", False), ("gemma2", False), ("gptj", False), ("falcon_h1", False)],
)
def test_what_a_class_does_beside_the_product_is_in_scores_and_gradients(
    kind: str, plain: bool, tmp_path: Path
) -> None:
    theirs, model = ours(kind, tmp_path)
    assert (plain_weight(model.lm_head) is not None) is plain
    text = TEXTS[1]
    hidden = model.documents(*packed([text])).detach().requires_grad_()
    targets = torch.tensor(text[1:])
    found = scored_cross_entropy(hidden[:-1], model.lm_head, targets)
    expected = theirs(input_ids=torch.tensor([text]), labels=torch.tensor([text])).loss * len(targets)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    (grad,) = torch.autograd.grad(found, hidden)
    again = hidden.detach().requires_grad_()
    own = torch.nn.functional.cross_entropy(model.logits(again)[:-1].float(), targets, reduction="sum")
    assert largest_difference(grad, torch.autograd.grad(own, again)[0]) < 1e-5


def test_a_class_that_sees_later_tokens_is_refused(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40}
    torch.manual_seed(0)
    model = BertLMHeadModel(BertConfig(vocab_size=96, initializer_range=0.5, **shape))
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="lets tokens see later ones"):
        load_hf(open_checkpoint(tmp_path), Loading(dtype=torch.float32))


@pytest.mark.parametrize("kind", ["gpt_neox", "falcon", "gpt2", "deepseek_v3"])
def test_layers_computed_again_give_the_same_gradients_with_the_same_draws(kind: str, tmp_path: Path) -> None:
    _, model = ours(kind, tmp_path)
    generator = torch.Generator().manual_seed(7)
    path = model.linear_paths()[-1]
    wrapped = _Dropping(model.get_submodule(path), generator)
    above, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(above), leaf, wrapped)
    runs: list[torch.Tensor] = []

    def gradient() -> torch.Tensor:
        model.train()
        generator.manual_seed(1)
        wrapped.scale.grad = None
        runs.append(model.documents(*packed(TEXTS)).square().sum())
        runs[-1].backward()
        assert wrapped.scale.grad is not None
        return wrapped.scale.grad

    kept, calls = gradient(), wrapped.calls
    model.recompute(Recomputation(generator))
    again = gradient()
    assert wrapped.calls - calls == 2 * calls
    assert torch.equal(runs[0], runs[1])
    assert largest_difference(kept, again) < 1e-4 * float(kept.abs().max())


class _Dropping(torch.nn.Module):
    """A layer behind trained, dropped inputs."""

    def __init__(self, base: torch.nn.Module, generator: torch.Generator):
        super().__init__()
        self.base, self.generator, self.calls = base, generator, 0
        self.scale = torch.nn.Parameter(torch.ones(base.in_features))  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        keep = torch.empty(x.shape).bernoulli_(0.7, generator=self.generator)
        return self.base(x * keep * self.scale)
