"""The settings of each objective that has settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from veneer.config.numbers import NUMBER, Folder, NotNegative, Place, Rate
from veneer.config.section import Section
from veneer.formulas import Divergence, DpoLoss, ReferencePolicy


class DpoSection(Section):
    """Settings of `objective: dpo`."""

    place = "dpo"

    loss: DpoLoss = DpoLoss.SIGMOID
    """The formula: `sigmoid` (DPO), `robust`, `hinge`, `ipo`, or `sigmoid_norm` (docs/objectives.md)."""
    beta: Rate = 0.1
    """β: how strongly the policy is kept close to the reference: a smaller one lets it move further. The τ of `ipo`."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5, allow_inf_nan=False), NUMBER] = 0.0
    """The share of pairs that are assumed to be swapped, for `sigmoid` (conservative DPO) and `robust`."""
    nll: NotNegative = 0.0
    """The weight of an additional term: the chosen answers' mean cross-entropy per token (RPO)."""
    reference: ReferencePolicy = ReferencePolicy.START
    """The model that the policy is compared with: the one that the run starts from (`start`), or the base with the
    adapter off (`base`). Its log-probabilities are computed once, before the first step, and it needs no memory."""


class OrpoSection(Section):
    """Settings of `objective: orpo`."""

    place = "orpo"

    beta: Rate = 0.1
    """β: the weight of the odds ratio relative to the chosen answers' cross-entropy (the paper's λ)."""


class CpoSection(Section):
    """Settings of `objective: cpo`."""

    place = "cpo"

    beta: Rate = 0.1
    """β: the factor of the difference of log-probabilities."""
    nll: NotNegative = 1.0
    """The weight of an additional term: the chosen answers' mean cross-entropy per token."""


class SimpoSection(Section):
    """Settings of `objective: simpo`."""

    place = "simpo"

    beta: Rate = 2.5
    """β: the factor of the mean log-probabilities per token."""
    gamma: NotNegative = 1.375
    """γ: the margin that the chosen answer's reward should have."""
    nll: NotNegative = 0.0
    """The weight of an additional term: the chosen answers' mean cross-entropy per token."""


class KtoSection(Section):
    """Settings of `objective: kto`."""

    place = "kto"

    beta: Rate = 0.1
    """β: how strongly the policy is kept close to the reference."""
    desirable_weight: Rate = 1.0
    """λ_D: the weight of desirable answers."""
    undesirable_weight: Rate = 1.0
    """λ_U: the weight of undesirable answers. The paper advises weights for which λ_D · n_D over λ_U · n_U is between 1
    and 4/3."""
    reference: ReferencePolicy = ReferencePolicy.START
    """The model that the policy is compared with; see `dpo.reference`."""


class DistillationSection(Section):
    """Settings of `objective: distillation`."""

    place = "distillation"

    teacher: Place | None = None
    """The teacher: a directory, a GGUF file or a hub id, with the vocabulary of `model`. The default is `model` itself,
    with `teacher_adapter`."""
    teacher_adapter: Folder | None = None
    """The folder of an adapter on the teacher. On `model` itself it needs only its own memory: base and teacher share
    their weights."""
    divergence: Divergence = Divergence.FORWARD
    """What is minimised: the KL divergence of the student from the teacher (`forward`), of the teacher from the student
    (`reverse`), or the generalised Jensen-Shannon divergence between both (`generalised`)."""
    beta: Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False), NUMBER] = 0.5
    """β: the teacher's share of the mixture that `generalised` compares with."""
    temperature: Rate = 1.0
    """What the logits of both are divided by before they are compared."""
    nll: NotNegative = 0.0
    """The weight of an additional term: the rows' own mean cross-entropy per token."""
    top_k: Annotated[int, Field(ge=1, le=65_536), NUMBER] | None = None
    """The number of the teacher's likeliest tokens that are kept for every supervised token; all others together count
    as one more. They are computed once, before the student is loaded, and need 8 bytes each. By default the teacher
    computes during the steps, and all tokens are compared."""


class RewardSection(Section):
    """Settings of `objective: reward`."""

    place = "reward"

    centring: NotNegative = 0.0
    """c: the weight of the squared sum of both scores of a pair, which keeps scores around 0. 0.01 is usual."""
