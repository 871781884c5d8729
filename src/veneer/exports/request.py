"""What `export` and `verify` are asked for, each as one value that everything below takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from veneer.config import ComputeSection
from veneer.enums import Method, OtherBase
from veneer.errors import ConfigError
from veneer.text.json_numbers import is_whole


class Target(Enum):
    """What an adapter is exported to."""

    PEFT = "peft"
    """An adapter's directory as PEFT writes it."""
    MERGED = "merged"
    """A Hugging Face directory with the adapter in the weights."""
    MERGED_4BIT = "merged-4bit"
    """A Hugging Face directory whose linear layers, with the adapter in them, are in 4 bits, as bitsandbytes and
    transformers store them. It needs evaluation rows: an update that is smaller than the grid's steps is lost, and the
    loss says whether it was."""
    GGUF = "gguf"
    """One GGUF model with the adapter in the weights, and an Ollama Modelfile."""
    GGUF_ADAPTER = "gguf-adapter"
    """A GGUF adapter that llama.cpp puts on its base, and an Ollama Modelfile."""

    @property
    def takes_quant(self) -> bool:
        """Whether it is a GGUF file, whose matrices are written in what `quant` says."""
        return self in (Target.GGUF, Target.GGUF_ADAPTER)

    @property
    def takes_dtype(self) -> bool:
        """Whether it is a Hugging Face directory, whose weights are written in what `dtype` says."""
        return self in (Target.MERGED, Target.MERGED_4BIT)


class StoredDtype(Enum):
    """What the weights are written in."""

    AUTO = "auto"
    """The dtype that the base is stored in, by its configuration; bfloat16 where that does not say."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def _check_numbers(limit: int | None, gap: float | None) -> None:
    """Refuse numbers that cannot be meant.

    Raises:
        ConfigError: the limit is no whole number above 0, or the gap no number above 0: nothing is beyond NaN.
    """
    if limit is not None and not is_whole(limit, 1):
        raise ConfigError(f"limit: must be a whole number of at least 1, got {limit!r}")
    if gap is not None and not (isinstance(gap, int | float) and math.isfinite(gap) and gap > 0):
        raise ConfigError(f"gap: must be a number of nats above 0, got {gap!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest:
    """One export as it is asked for.

    Raises:
        ConfigError: `limit` is below 1, `gap` is no number above 0, or `quant` or `dtype` where the kind has none.
    """

    adapter: Path
    """The folder of the adapter."""
    output: Path
    """The folder to make."""
    model: str | None = None
    """The base; None takes the one that the adapter names."""
    to: Target = Target.MERGED
    """The kind of export."""
    dtype: StoredDtype = StoredDtype.AUTO
    """What the weights are written in."""
    quant: str | None = None
    """What the matrices of a GGUF file are written in."""
    data: str | None = None
    """Evaluation rows; None takes those of the adapter's run."""
    limit: int | None = None
    """The number of rows that are taken, from the first; None takes all, and 20 for the certificate."""
    gap: float | None = None
    """Largest log-probability gap that is allowed, in nats; None takes the format's."""
    method: Method | None = None
    """How the base was held in training; None takes what the adapter's run recorded, else LORA."""
    compute: ComputeSection = field(default_factory=ComputeSection)
    """Device and dtype of the measuring."""
    other_base: OtherBase = OtherBase.REFUSE
    """What happens where the adapter was trained beside another base."""

    def __post_init__(self) -> None:
        _check_numbers(self.limit, self.gap)
        to, dtype = self.to, self.dtype
        if self.quant is not None and not to.takes_quant:
            raise ConfigError(
                f"--quant {self.quant} is for GGUF files, and --to {to.value} writes none; leave it out, or take "
                "--dtype"
            )
        if dtype is not StoredDtype.AUTO and not to.takes_dtype:
            remedy = "an adapter for PEFT is float32: leave it out" if to is Target.PEFT else "take --quant"
            raise ConfigError(
                f"--dtype {dtype.value} is for Hugging Face directories, and --to {to.value} writes none; {remedy}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyRequest:
    """The check of an export as it is asked for.

    Raises:
        ConfigError: `limit` is below 1, or `gap` is no number above 0.
    """

    export: Path
    """The folder that `export` made."""
    adapter: Path | None = None
    """The folder of the adapter; None takes the place where it was when it was exported."""
    model: str | None = None
    """The base; None takes the one that was named then."""
    data: str | None = None
    """Evaluation rows; None takes those of the adapter's run."""
    limit: int | None = None
    """The number of rows that are asked, from the first; None takes 20."""
    gap: float | None = None
    """Largest log-probability gap that is allowed, in nats; None takes the format's."""
    compute: ComputeSection = field(default_factory=ComputeSection)
    """Where the answers are computed."""

    def __post_init__(self) -> None:
        _check_numbers(self.limit, self.gap)
