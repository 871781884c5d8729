"""The divergence of a student's predictions from a teacher's, without ever holding all logits.

Rows are scored in chunks, by the student's head and by the teacher's, and the gradient of a chunk is formed while its
scores are in memory, as in `veneer.losses`. With t the teacher's and s the student's distribution over some buckets b
of tokens, and m = βt + (1−β)s,

    forward       Σ t_b (log t_b − log s_b)
    reverse       Σ s_b (log s_b − log t_b)
    generalised   β Σ t_b (log t_b − log m_b) + (1−β) Σ s_b (log s_b − log m_b)

(Agarwal et al., 2023, arXiv:2306.13649, section 3). A bucket is a token. If only the teacher's k likeliest tokens are
known, all others are one more bucket, so that probabilities add up to 1 on both sides. By the data-processing
inequality the result is at most the divergence over all tokens.

With d_b = ∂L/∂log s_b and p the student's probabilities of tokens, the gradient of the logit of token i in bucket b is
(p_i / s_b) d_b − p_i Σ d. It is computed by hand: autograd would keep every intermediate tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from veneer.config import DistillationSection
from veneer.formulas import Divergence
from veneer.losses.module_head import HeadGradients, scaled_gradients
from veneer.losses.scores import COMPARED_ROWS
from veneer.model.decoder import shaped
from veneer.products import Scores


@dataclass(frozen=True, slots=True)
class Taught:
    """A teacher's predictions for some rows, at its temperature."""

    log_probabilities: Tensor
    """The log-probabilities of buckets, `[rows, buckets]` in float32 or wider. Without `tokens` the buckets are the
    first tokens of the vocabulary: rows of an embedding that only pad it are not compared."""
    tokens: Tensor | None = None
    """The tokens that have their own buckets, int64 `[rows, buckets − 1]`; the last bucket holds all others. None if
    every token has its own bucket."""
    vocabulary: int | None = None
    """The number of compared tokens, if `tokens` are given."""

    @property
    def width(self) -> int:
        """The number of compared tokens."""
        return self.log_probabilities.shape[1] if self.vocabulary is None else self.vocabulary


TaughtRows = Callable[[slice], Taught]
"""Returns a teacher's predictions for a chunk of the rows."""


@dataclass(frozen=True, slots=True)
class Divergences:
    """Sums over rows."""

    loss: Tensor
    """The divergence, and the rows' cross-entropy times its weight: a float64 scalar with a gradient."""
    divergence: Tensor
    """The divergence alone: like the following fields, a float64 scalar."""
    cross_entropy: Tensor
    """The cross-entropy of the rows' own targets, in nats, without a temperature."""
    agreement: Tensor
    """The number of rows whose likeliest bucket is the teacher's."""


def divergences(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    taught: TaughtRows,
    settings: DistillationSection,
    *,
    shaping: Scores,
    chunk: int = COMPARED_ROWS,
) -> Divergences:
    """The divergence of softmax(head(hidden) / temperature) from the teacher's distribution, summed over rows.

    Args:
        hidden: hidden states that predict a supervised token, `[rows, dim]`.
        head: the student's head, `[rows, dim]` to `[rows, vocab]`. It is called once for each chunk.
        targets: the tokens of the rows, int64 `[rows]`.
        taught: the teacher's predictions.
        settings: the formula, the temperature, and the weight of the targets' cross-entropy.
        shaping: scale and soft cap of the head's outputs.
        chunk: the number of rows that are scored at a time.
    """
    asked = _Asked(head, targets, taught, settings, shaping, chunk)
    if torch.is_grad_enabled():
        loss, sums = _Divergences.apply(hidden, asked, *head.parameters())
    else:
        loss, sums = _chunked(hidden, asked, None)
    return Divergences(loss, *sums.unbind())


@dataclass(frozen=True, slots=True)
class _Asked:
    """All arguments of `divergences` that have no gradient."""

    head: nn.Module
    targets: Tensor
    taught: TaughtRows
    settings: DistillationSection
    shaping: Scores
    chunk: int


class _Divergences(torch.autograd.Function):
    """The sum over rows. Gradients are formed in forward, chunk by chunk, and scaled in backward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, asked: _Asked, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        found = HeadGradients.zero(hidden, parameters, needs_hidden=ctx.needs_input_grad[0])
        loss, sums = _chunked(hidden, asked, found)
        found.keep(ctx, parameters)
        ctx.mark_non_differentiable(sums)
        return loss, sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        first, by_parameter = scaled_gradients(ctx, grads[0])
        return first, None, *by_parameter


def _chunked(hidden: Tensor, asked: _Asked, gradients: HeadGradients | None) -> tuple[Tensor, Tensor]:
    """The loss, and its parts (divergence, cross-entropy, agreement): float64, a scalar and `[3]`."""
    settings, nll = asked.settings, asked.settings.nll
    loss = torch.zeros((), dtype=torch.float64, device=hidden.device)
    sums = torch.zeros(3, dtype=torch.float64, device=hidden.device)
    wanted = gradients is not None
    for start in range(0, len(asked.targets), asked.chunk):
        rows = slice(start, start + asked.chunk)
        some = hidden[rows].detach().requires_grad_(wanted)
        with torch.set_grad_enabled(wanted):
            logits = shaped(asked.head(some), asked.shaping)
        wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        entropies, grads = _cross_entropies(wide, asked.targets[rows], gradient=wanted and nll > 0)
        losses, agree, pull = _matched(wide, asked.taught(rows), settings, gradient=wanted)
        own = losses.sum(dtype=torch.float64), entropies.sum(dtype=torch.float64)
        sums += torch.stack((*own, agree.sum(dtype=torch.float64)))
        loss += own[0] + nll * own[1]
        if gradients is not None and pull is not None:
            pull = pull if grads is None else pull.add_(grads, alpha=nll)
            gradients.add(rows, some, logits, pull if gradients.factor == 1.0 else pull.mul_(gradients.factor))
    return loss, sums


def _cross_entropies(logits: Tensor, targets: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """−log softmax(logits)[target] of each row, and its gradient if it is wanted."""
    found = torch.log_softmax(logits, -1)
    losses = -found.gather(1, targets[:, None])[:, 0]
    if not gradient:
        return losses, None
    grads = found.exp_()
    return losses, grads.scatter_add_(1, targets[:, None], grads.new_full((len(targets), 1), -1.0))


def _matched(
    logits: Tensor, taught: Taught, settings: DistillationSection, *, gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The divergence of each row, whether the likeliest bucket is the teacher's, and the gradient of the logits."""
    teacher, tokens, temperature = taught.log_probabilities, taught.tokens, settings.temperature
    width = taught.width
    every = torch.log_softmax(logits[:, :width] / temperature, -1)
    student = every if tokens is None else with_rest(every, tokens)
    losses, slopes = divergence_and_slopes(student, teacher, settings.divergence, settings.beta)
    agree = student.argmax(-1) == teacher.argmax(-1)
    if not gradient:
        return losses, agree, None
    total = slopes.sum(-1, keepdim=True, dtype=torch.float64).to(slopes.dtype)
    if tokens is None:
        pull = slopes.addcmul_(every.exp_(), total, value=-1.0)
    else:
        pull = (every - student[:, -1:]).exp_().mul_(slopes[:, -1:]).scatter_(1, tokens, slopes[:, :-1])
        pull.addcmul_(every.exp_(), total, value=-1.0)
    pull /= temperature
    if width == logits.shape[1]:
        return losses, agree, pull
    return losses, agree, torch.nn.functional.pad(pull, (0, logits.shape[1] - width))


def with_rest(log_probabilities: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities of some tokens, and of all others together, `[rows, k + 1]`.

    Args:
        log_probabilities: the log-probabilities of all tokens, `[rows, vocab]`.
        tokens: distinct tokens, int64 `[rows, k]`; k is below the size of the vocabulary.
    """
    rest = log_probabilities.scatter(1, tokens, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat((log_probabilities.gather(1, tokens), rest), -1)


def divergence_and_slopes(student: Tensor, teacher: Tensor, kind: Divergence, beta: float) -> tuple[Tensor, Tensor]:
    """The divergence of each row, `[rows]`, and its derivative with respect to the student's log-probabilities, `[rows,
    buckets]`.

    Args:
        student, teacher: log-probabilities of buckets, `[rows, buckets]`.
        kind: the formula.
        beta: the teacher's share of the mixture, for the generalised divergence.
    """
    s, t = student.exp(), teacher.exp()
    match kind:
        case Divergence.FORWARD:
            return (t * (teacher - student)).sum(-1), -t
        case Divergence.REVERSE:
            ratios = student - teacher
            return (s * ratios).sum(-1), s * (ratios + 1)
        case Divergence.GENERALISED:
            mixed = torch.logaddexp(teacher + log(beta), student + log(1 - beta))
            slopes = (1 - beta) * s * (student - mixed)
            return beta * (t * (teacher - mixed)).sum(-1) + slopes.sum(-1), slopes
