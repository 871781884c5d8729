"""An objective over a model: the model computes hidden states, and the objective computes sums from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from veneer.data.micro_batches.batches import Beside, Block, MicroBatch
from veneer.gpu.transfer import sent
from veneer.model.attention import Attention, PackedAttention
from veneer.model.beside import BehindAttention, KeepingAttention, Pass
from veneer.model.blocks import BlockAttention
from veneer.model.decoder import CausalLM
from veneer.model.language import LanguageModel
from veneer.model.leaves import HostEmbedding
from veneer.training.objectives.base import Objective, Sums
from veneer.training.objectives.sft import SupervisedCrossEntropy


@dataclass(frozen=True, slots=True)
class OverModel:
    """An objective over one model (`StepObjective`)."""

    model: LanguageModel
    objective: Objective = field(default_factory=SupervisedCrossEntropy)

    def prepared(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """The micro-batches as they are: nothing depends on all of them."""
        return batches

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        """See `Objective.weights`."""
        return self.objective.weights(batches)

    def sums(self, batch: MicroBatch) -> Sums:
        """The sums over one micro-batch, whose documents go through the model."""
        hidden = hidden_states(self.model, batch)
        return self.objective.sums(hidden, self.model.lm_head, self.model.spec.scores, batch)


def hidden_states(model: LanguageModel, batch: MicroBatch) -> Tensor:
    """Hidden states of a micro-batch's tokens, `[tokens, dim]`."""
    tokens = _where_embedded(model, batch.tokens)
    positions = sent(batch.positions, model.device)
    if not batch.blocks:
        return model.documents(tokens, positions, batch.segments, batch.shared)
    assert isinstance(model, CausalLM), "only packed documents form blocks"
    return model.hidden(tokens, positions, attention_of(batch))


def hidden_states_beside(model: LanguageModel, batch: MicroBatch, beside: Beside) -> tuple[Tensor, Tensor]:
    """Hidden states of a micro-batch's tokens, and of those of the documents beside it, which get no gradient.

    Returns:
        `[tokens, dim]` for `batch`, and `[tokens, dim]` for `beside.batch`.
    """
    assert isinstance(model, CausalLM), "only packed documents have others beside them"
    sources, own = sent(beside.sources, model.device), sent(beside.own, model.device)
    keeping = KeepingAttention(attention_of(batch))
    behind = BehindAttention(attention_of(beside.batch), keeping, sources, own)
    one = Pass(_where_embedded(model, batch.tokens), sent(batch.positions, model.device), keeping)
    tokens, positions = beside.batch.tokens[beside.own], beside.batch.positions[beside.own]
    other = Pass(_where_embedded(model, tokens), sent(positions, model.device), behind)
    hidden, more = model.side_by_side(one, other)
    keeping.forget()
    return hidden, torch.cat((hidden.detach(), more)).index_select(0, sources)


def _where_embedded(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Token ids on the device where the model looks up their embeddings."""
    return tokens if isinstance(model.embedding, HostEmbedding) else sent(tokens, model.device)


def attention_of(*batches: MicroBatch) -> Attention:
    """How the tokens of packed micro-batches, one after the other, see each other."""
    blocks = [block for batch in batches for block in _blocks(batch)]
    layouts = [PackedAttention(block.lengths, block.shared) for block in blocks]
    return layouts[0] if len(layouts) == 1 else BlockAttention(layouts, [block.tokens for block in blocks])


def _blocks(batch: MicroBatch) -> Sequence[Block]:
    """All tokens of a micro-batch as blocks, including the filler."""
    if not batch.blocks:
        return (Block(batch.shared, batch.segments),)
    return (*batch.blocks, *([Block(0, (batch.filler,))] if batch.filler else ()))
