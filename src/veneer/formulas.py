"""Choices within the formulas of objectives, which docs/objectives.md writes out."""

from __future__ import annotations

from enum import Enum


class DpoLoss(Enum):
    """The formula of direct preference optimisation, over the margin δ of a pair (docs/objectives.md)."""

    SIGMOID = "sigmoid"
    """log(1 + exp(−βδ)), with label smoothing for pairs that may be swapped."""
    ROBUST = "robust"
    """The sigmoid loss, unbiased if the share `label_smoothing` of the pairs is swapped."""
    HINGE = "hinge"
    """max(0, 1 − βδ)."""
    IPO = "ipo"
    """(δ̄ − 1/2β)², where log-probabilities are means over tokens."""
    SIGMOID_NORM = "sigmoid_norm"
    """The sigmoid loss, where log-probabilities are means over tokens."""


class Divergence(Enum):
    """How far a student's predictions s are from a teacher's t (docs/objectives.md)."""

    FORWARD = "forward"
    """KL(t ‖ s): the student covers all that the teacher may say."""
    REVERSE = "reverse"
    """KL(s ‖ t): the student keeps to what the teacher would say."""
    GENERALISED = "generalised"
    """β KL(t ‖ m) + (1−β) KL(s ‖ m), m being their mixture: the generalised Jensen-Shannon divergence."""


class GrpoLoss(Enum):
    """What the losses of tokens in sampled answers are divided by (docs/objectives.md)."""

    GRPO = "grpo"
    """Those of an answer by its number of tokens, and the sum over answers by their number."""
    DAPO = "dapo"
    """All by the number of tokens in the step."""
    DR_GRPO = "dr_grpo"
    """All by the number of answers times the longest length that an answer may have."""


class ImportanceLevel(Enum):
    """The unit that has a ratio: its probability under the policy, divided by that under the policy that sampled it."""

    TOKEN = "token"
    """Each token (GRPO)."""
    SEQUENCE = "sequence"
    """Each answer, by the geometric mean over its tokens (GSPO)."""
    PRODUCT = "product"
    """Each answer, by the product over its tokens (RLOO)."""


class ScaleRewards(Enum):
    """What advantages are divided by."""

    GROUP = "group"
    """The standard deviation of the rewards of the answers to one prompt."""
    BATCH = "batch"
    """The standard deviation of the rewards of the whole step."""
    NONE = "none"
    """Nothing (Dr. GRPO)."""


class Baseline(Enum):
    """What is subtracted from a reward."""

    GROUP = "group"
    """The mean over all answers to the prompt."""
    LEAVE_ONE_OUT = "leave_one_out"
    """The mean over the other answers to the prompt (RLOO)."""


class KlPlace(Enum):
    """Where the divergence from the reference counts."""

    LOSS = "loss"
    """It is a term of the loss, token by token."""
    REWARD = "reward"
    """It is subtracted from the rewards, answer by answer (RLOO)."""


class ReferencePolicy(Enum):
    """The model whose log-probabilities a policy is compared with."""

    START = "start"
    """The model at the start of the run: the base, or the base with `train.from_adapter`."""
    BASE = "base"
    """The base model, with the adapter off."""
