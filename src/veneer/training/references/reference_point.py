"""KTO's reference point: the mean log-ratio of a step's answers to other prompts, before the step's first backward.

The policy's log-probabilities of these answers need a forward pass in the step itself. If the step is a single
micro-batch, they are computed beside its own answers, after the same prompts, so that no prompt is computed twice.
Otherwise they are a separate pass before the first micro-batch. The reference's log-probabilities depend only on the
rows of every step, which the seed determines. So they are computed before the first step with the other ones
(`veneer.training.references.reference`), packed in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from veneer.data.lazy_sequence import LazySequence
from veneer.data.micro_batches.batches import Beside, MicroBatch
from veneer.data.micro_batches.beside import laid_beside
from veneer.data.micro_batches.packing import pack
from veneer.gpu.transfer import sent
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode
from veneer.padding import PAD_TO_MULTIPLE_OF
from veneer.training.objectives.base import Sums
from veneer.training.objectives.documents import log_probabilities
from veneer.training.over_model import OverModel, hidden_states, hidden_states_beside
from veneer.training.references.partners import Partners

Partner = tuple[int, int]
"""The places of a row and of the row whose answer follows its prompt."""


@dataclass(frozen=True, slots=True)
class PartnerLayout:
    """How partners' answers are packed."""

    beside: bool = False
    """Whether a pass of one micro-batch computes them beside its own answers."""
    prompts: bool = False
    """Whether answers to one prompt share it, if they are computed in a separate pass."""
    pad_to_multiple_of: int = PAD_TO_MULTIPLE_OF
    """The number of packed tokens is padded to a multiple of this."""


@dataclass(frozen=True, slots=True)
class WithReferencePoint:
    """An objective whose losses are relative to the step's reference point (`StepObjective`)."""

    over: OverModel
    partners: Partners
    reference: Mapping[Partner, float]
    """The reference's log-probabilities of partners' answers."""
    layout: PartnerLayout = PartnerLayout()

    def prepared(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """The micro-batches with the reference point of all of them; a single micro-batch with what is computed beside
        it."""
        pairs = self.partners.of([number for batch in batches for number in batch.numbers])
        beside = partners_beside(batches, self.partners, pairs, self.layout)
        if beside is not None:
            return [replace(batches[0], beside=beside)]
        if not pairs:
            return batches
        most = max(len(batch.tokens) for batch in batches)
        policy = partner_log_probabilities(self.over.model, self.partners, pairs, most, self.layout)
        point = self._point(pairs, policy)
        return LazySequence(len(batches), lambda place: replace(batches[place], baseline=point))

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """See `Objective.weights`."""
        return self.over.weights(batches)

    def sums(self, batch: MicroBatch) -> Sums:
        """The sums over one micro-batch."""
        if batch.beside is None:
            return self.over.sums(batch)
        model, pairs = self.over.model, self.partners.of(batch.numbers)
        hidden, policy = beside_log_probabilities(model, self.partners, pairs, batch, batch.beside)
        own = replace(batch, baseline=self._point(pairs, policy))
        return self.over.objective.sums(hidden, model.lm_head, model.spec.scores, own)

    def _point(self, pairs: Sequence[Partner], policy: Tensor) -> float | Tensor:
        """The mean gain of the partners' answers, at least 0. On a GPU it stays there, unread, so that nothing waits
        for the pass that computes it."""
        reference = torch.tensor([self.reference[pair] for pair in pairs], dtype=torch.float64)
        gains: Tensor = policy - sent(reference, policy.device)
        if gains.device.type != "cpu":
            point: Tensor = gains.mean().clamp_min(0.0)
            return point
        return max(0.0, float(sum(gains.tolist())) / len(pairs))


def partners_beside(
    batches: Sequence[MicroBatch], partners: Partners, pairs: Sequence[Partner], layout: PartnerLayout
) -> Beside | None:
    """Partners' answers, packed beside the only micro-batch of a step. None if there are several micro-batches, if
    there is no partner, or if the answers have more tokens than the micro-batch."""
    if not (layout.beside and pairs and len(batches) == 1):
        return None
    texts = partners.texts(pairs)
    documents = {number: document for document, number in enumerate(batches[0].numbers)}
    rows = {text: number for (number, _), text in zip(pairs, texts.uses, strict=True)}
    behind = [documents[rows[text]] for text in range(len(texts.examples))]
    beside = laid_beside(batches[0], texts.examples, behind, layout.pad_to_multiple_of)
    return beside if len(beside.own) <= len(batches[0].tokens) else None


def beside_log_probabilities(
    model: LanguageModel, partners: Partners, pairs: Sequence[Partner], batch: MicroBatch, beside: Beside
) -> tuple[Tensor, Tensor]:
    """A micro-batch's hidden states `[tokens, dim]`, and the log-probabilities of the partners' answers beside it,
    float64 `[pairs]` without a gradient."""
    hidden, others = hidden_states_beside(model, batch, beside)
    uses = partners.texts(pairs).uses
    with torch.no_grad():
        values = log_probabilities(others, model.lm_head, model.spec.scores, beside.batch)
        by_text = torch.empty_like(values).index_copy_(0, _places(beside.batch.numbers, values.device), values)
        return hidden, by_text.index_select(0, _places(uses, values.device))


@torch.no_grad()
def partner_log_probabilities(
    model: LanguageModel, partners: Partners, pairs: Sequence[Partner], most: int, layout: PartnerLayout
) -> Tensor:
    """The log-probabilities of partners' answers after rows' prompts, in evaluation mode: float64 `[pairs]` on the
    model's device.

    Args:
        model: the model that computes them.
        partners: joins prompts and answers.
        pairs: the rows and their partners.
        most: the most tokens of a micro-batch.
        layout: how the answers are packed.
    """
    texts = partners.texts(pairs)
    by_text = torch.empty(len(texts.examples), dtype=torch.float64, device=model.device)
    share, pad = not model.spec.by_length, layout.pad_to_multiple_of
    with evaluation_mode(model):
        for batch in pack(texts.examples, most, share=share, pad_to_multiple_of=pad, prompts=layout.prompts):
            values = log_probabilities(hidden_states(model, batch), model.lm_head, model.spec.scores, batch)
            by_text.index_copy_(0, _places(batch.numbers, model.device), values)
    return by_text.index_select(0, _places(texts.uses, model.device))


def _places(numbers: Sequence[int], device: torch.device) -> Tensor:
    return sent(torch.tensor(numbers, dtype=torch.int64), device)
