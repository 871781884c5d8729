"""How the next token is chosen: settings, and the draw from one row of logits.

Each row is treated by itself, in float32 or wider. The draw therefore depends only on the row, the settings and the
request's own random stream.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from veneer.arguments import check_types
from veneer.errors import ConfigError, ModelError, VeneerError, listing

MAX_BIAS = 100.0
"""Largest absolute value of a logit's bias, as in OpenAI's interface."""
TRIED_TOKENS = 1024
"""The number of likeliest tokens that are tried before all are sorted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is chosen. The settings are applied in the order of the fields from `logit_bias` on."""

    max_new_tokens: int = 256
    min_new_tokens: int = 0
    """The number of tokens before which stop tokens are not chosen."""
    seed: int = 0
    """Seed of the random draws. They depend on nothing else."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """The values added to the logits of tokens, from −100 to 100."""
    repetition_penalty: float = 1.0
    """Logits of tokens of the prompt and the answer are divided by this if positive, else multiplied (Keskar et al.,
    2019, arXiv:1909.05858); 1 changes nothing."""
    presence_penalty: float = 0.0
    """Subtracted once from the logits of the answer's tokens."""
    frequency_penalty: float = 0.0
    """Subtracted from the logits of the answer's tokens once for each time that they occur in it."""
    temperature: float = 0.0
    """0 takes the likeliest token (greedy)."""
    top_k: int = 0
    """Draw only from this many likeliest tokens; 0 means all."""
    top_p: float = 1.0
    """Draw only from the likeliest tokens that together hold this probability (Holtzman et al., 2020,
    arXiv:1904.09751)."""
    min_p: float = 0.0
    """Draw only from tokens that are at least this likely, as a share of the likeliest one's probability (Nguyen et
    al., 2024, arXiv:2407.01082)."""

    def __post_init__(self) -> None:
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        check_types(Sampling, given)
        # NumPy's numbers overflow, and torch's generators and JSON do not accept them.
        for name, value in given.items():
            object.__setattr__(self, name, _plain(value))
        rules = {
            "max_new_tokens": (self.max_new_tokens >= 1, "must be at least 1"),
            "min_new_tokens": (0 <= self.min_new_tokens <= self.max_new_tokens, "must be 0 to max_new_tokens"),
            "seed": (0 <= self.seed < 2**31, "must be at least 0 and below 2^31"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "must be above 0 and finite"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "must be between -2 and 2"),
            "frequency_penalty": (-2 <= self.frequency_penalty <= 2, "must be between -2 and 2"),
            "temperature": (0 <= self.temperature < math.inf, "must be 0 or more and finite"),
            "top_k": (self.top_k >= 0, "must be 0 or more"),
            "top_p": (0 < self.top_p <= 1, "must be above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "must be between 0 and 1"),
        }
        problems = [f"{name}: {getattr(self, name)}, {rule}" for name, (holds, rule) in rules.items() if not holds]
        problems += [
            f"logit_bias: {bias} for token {token}, must be between -{MAX_BIAS:g} and {MAX_BIAS:g}"
            for token, bias in self.logit_bias.items()
            if not abs(bias) <= MAX_BIAS
        ]
        problems += [f"logit_bias: token {token}, must be at least 0" for token in self.logit_bias if token < 0]
        if problems:
            raise ConfigError(f"sampling settings out of range:\n{listing(problems)}")

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise ConfigError if a logit's bias is for a token that the model does not have."""
        strange = [str(token) for token in self.logit_bias if token >= vocab_size]
        if strange:
            raise ConfigError(
                f"logit_bias: the model has {vocab_size:,} tokens, and these are not among them:\n{listing(strange)}"
            )

    def check_context(self, max_positions: int) -> None:
        """Raise ConfigError if an answer may be longer than a model's whole context."""
        if self.max_new_tokens > max_positions:
            raise ConfigError(
                f"max_new_tokens: {self.max_new_tokens:,}, but the model's context has {max_positions:,} "
                "tokens, the prompt included; give fewer"
            )

    @property
    def plain(self) -> bool:
        """Whether the model's likeliest token is chosen unchanged."""
        return self.temperature == 0.0 and not self.shifts

    @property
    def shifts(self) -> bool:
        """Whether a bias or a penalty changes logits."""
        penalties = self.presence_penalty, self.frequency_penalty, self.repetition_penalty - 1.0
        return bool(self.logit_bias) or any(penalties)


def _plain(value: Any) -> Any:
    """A number, or the numbers of a mapping, as Python's own types."""
    if type(value) in (int, float):
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return int(value) if isinstance(value, Integral) else float(value)


def adjusted(logits: Tensor, sampling: Sampling, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    """The logits of one row `[vocab]` with biases and penalties, float32; the argument is not changed."""
    scores = logits.float().clone()
    if sampling.logit_bias:
        tokens = torch.tensor(list(sampling.logit_bias), device=scores.device)
        scores[tokens] += torch.tensor(list(sampling.logit_bias.values()), device=scores.device)
    if sampling.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*prompt, *answer}), dtype=torch.int64, device=scores.device)
        own = scores[seen]
        scores[seen] = torch.where(own > 0, own / sampling.repetition_penalty, own * sampling.repetition_penalty)
    if answer and (sampling.presence_penalty or sampling.frequency_penalty):
        counts = Counter(answer)
        made = torch.tensor(list(counts), device=scores.device)
        often = torch.tensor(list(counts.values()), dtype=torch.float32, device=scores.device)
        scores[made] -= sampling.presence_penalty + sampling.frequency_penalty * often
    return scores


def probabilities(scores: Tensor, sampling: Sampling) -> Tensor:
    """The probabilities that a token is drawn with, float64 `[vocab]`, from adjusted scores; temperature above 0.

    Top-p keeps the smallest set of likeliest tokens whose probability reaches `top_p`; the likeliest is always kept.
    """
    # The likeliest score is shifted to 0 before the division, so that no temperature is too small.
    wide = scores.double()
    wide = (wide - wide.max()) / max(sampling.temperature, torch.finfo(torch.float32).tiny)
    if 0 < sampling.top_k < len(wide):
        values, indices = wide.topk(sampling.top_k)
        wide = torch.full_like(wide, -math.inf).scatter_(0, indices, values)
    found = torch.softmax(wide, dim=-1)
    if sampling.top_p < 1.0:
        ordered, indices = _likeliest(found, sampling.top_p)
        before = ordered.cumsum(-1) - ordered
        found = torch.zeros_like(found).scatter_(0, indices, ordered.masked_fill(before >= sampling.top_p, 0.0))
    if sampling.min_p > 0.0:
        found = found.masked_fill(found < sampling.min_p * found.max(), 0.0)
    return found / found.sum()


def _likeliest(found: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens, at least enough to hold this share of the probability, and their indices, in order."""
    if len(found) > TRIED_TOKENS:
        # The few likeliest nearly always hold it, and finding them takes a tenth of the time of sorting all.
        ordered, indices = found.topk(TRIED_TOKENS)
        if float(ordered.sum()) >= share:
            return ordered, indices
    ordered, indices = found.sort(descending=True, stable=True)
    return ordered, indices


def likeliest(scores: Tensor) -> list[int]:
    """The first token with the largest score of each row of `[rows, vocab]`; NaN is larger than any number, as for
    torch and transformers' `generate`.

    On the CPU NumPy finds it in a tenth of torch's time.
    """
    on_cpu = scores.device.type == "cpu"
    tokens: list[int] = (scores.detach().numpy().argmax(axis=-1) if on_cpu else scores.argmax(dim=-1)).tolist()
    return tokens


def choose(scores: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token, drawn from adjusted scores of one row `[vocab]` by one number of `generator`; temperature above
    0.

    Raises:
        ConfigError: every token is forbidden.
        ModelError: scores are NaN or +∞, so that no token has a probability.
    """
    cumulated = probabilities(scores, sampling).cpu().cumsum(-1)
    if math.isnan(float(cumulated[-1])):
        raise undrawable(scores)
    drawn = torch.rand((), dtype=torch.float64, generator=generator) * cumulated[-1]
    # The first token whose cumulated probability is above the number drawn: a token without probability is never
    # chosen.
    token = int(torch.searchsorted(cumulated, drawn, right=True))
    return min(token, int((cumulated < cumulated[-1]).sum()))


def undrawable(scores: Tensor) -> VeneerError:
    """The error for scores of one row `[vocab]` from which no token can be chosen."""
    if bool((scores == -math.inf).all()):
        return ConfigError(
            "no token may come next: min_tokens forbids the end of the answer, and the constraint forbids everything "
            "else; lower min_tokens"
        )
    broken = int((scores.isnan() | (scores == math.inf)).sum())
    return broken_logits(f"for {broken:,} of {len(scores):,} tokens, and none can be drawn from them")


def broken_logits(found: str) -> ModelError:
    """The error for logits that are NaN or infinite; `found` says where they are."""
    return ModelError(
        f"the model's logits are NaN or infinite {found}: its weights or its adapter are broken, or its dtype has too "
        "small a range (float16; use bfloat16 or float32)"
    )
