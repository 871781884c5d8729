"""The requests of `export` and `verify`, each as one value."""

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
    """The kinds of export."""

    PEFT = "peft"
    """An adapter's directory as PEFT writes it."""
    MERGED = "merged"
    """A Hugging Face directory with the adapter in the weights."""
    MERGED_4BIT = "merged-4bit"
    """A Hugging Face directory whose linear layers, with the adapter in them, are in 4 bits, as bitsandbytes and
    transformers store them. It needs evaluation rows: an update smaller than the grid's steps is lost, and the loss
    shows whether it was."""
    GGUF = "gguf"
    """One GGUF model with the adapter in the weights, and an Ollama Modelfile."""
    GGUF_ADAPTER = "gguf-adapter"
    """A GGUF adapter that llama.cpp puts on its base, and an Ollama Modelfile."""

    @property
    def takes_quant(self) -> bool:
        """Whether this is a GGUF file, for which `quant` gives the type of the matrices."""
        return self in (Target.GGUF, Target.GGUF_ADAPTER)

    @property
    def takes_dtype(self) -> bool:
        """Whether this is a Hugging Face directory, for which `dtype` gives the type of the weights."""
        return self in (Target.MERGED, Target.MERGED_4BIT)


class StoredDtype(Enum):
    """The dtype of the weights."""

    AUTO = "auto"
    """The dtype that the base is stored in, by its configuration; bfloat16 if that names none."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def _check_numbers(limit: int | None, gap: float | None) -> None:
    """Refuse numbers that make no sense.

    Raises:
        ConfigError: the limit is not a whole number above 0, or the gap is not a number above 0 (NaN would allow
            anything).
    """
    if limit is not None and not is_whole(limit, 1):
        raise ConfigError(f"limit: must be a whole number of at least 1, got {limit!r}")
    if gap is not None and not (isinstance(gap, int | float) and math.isfinite(gap) and gap > 0):
        raise ConfigError(f"gap: must be a number of nats above 0, got {gap!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest:
    """The request for an export.

    Raises:
        ConfigError: `limit` is below 1, `gap` is not a number above 0, or the kind of export has no `quant` or `dtype`.
    """

    adapter: Path
    """The folder of the adapter."""
    output: Path
    """The folder to create."""
    model: str | None = None
    """The base; None means the one that the adapter names."""
    to: Target = Target.MERGED
    """The kind of export."""
    dtype: StoredDtype = StoredDtype.AUTO
    """The dtype of the weights."""
    quant: str | None = None
    """The type of the matrices of a GGUF file."""
    data: str | None = None
    """Evaluation rows; None means those of the adapter's run."""
    limit: int | None = None
    """The number of rows to use, from the first; None means all, and 20 for the certificate."""
    gap: float | None = None
    """The largest log-probability gap that is allowed, in nats; None means the format's."""
    method: Method | None = None
    """How the base was held in training; None means as the adapter's run recorded, else LORA."""
    compute: ComputeSection = field(default_factory=ComputeSection)
    """The device and dtype of the measurements."""
    other_base: OtherBase = OtherBase.REFUSE
    """What happens if the adapter was trained with another base."""

    def __post_init__(self) -> None:
        _check_numbers(self.limit, self.gap)
        to, dtype = self.to, self.dtype
        if self.quant is not None and not to.takes_quant:
            raise ConfigError(
                f"--quant {self.quant} is for GGUF files, but --to {to.value} writes none; leave it out, or use --dtype"
            )
        if dtype is not StoredDtype.AUTO and not to.takes_dtype:
            remedy = "an adapter for PEFT is float32: leave it out" if to is Target.PEFT else "take --quant"
            raise ConfigError(
                f"--dtype {dtype.value} is for Hugging Face directories, but --to {to.value} writes none; {remedy}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyRequest:
    """The request for a check of an export.

    Raises:
        ConfigError: `limit` is below 1, or `gap` is not a number above 0.
    """

    export: Path
    """The folder that `export` made."""
    adapter: Path | None = None
    """The folder of the adapter; None means its place at the export."""
    model: str | None = None
    """The base; None means the one that was named then."""
    data: str | None = None
    """Evaluation rows; None means those of the adapter's run."""
    limit: int | None = None
    """The number of rows to ask, from the first; None means 20."""
    gap: float | None = None
    """The largest log-probability gap that is allowed, in nats; None means the format's."""
    compute: ComputeSection = field(default_factory=ComputeSection)
    """The device and dtype that compute the answers."""

    def __post_init__(self) -> None:
        _check_numbers(self.limit, self.gap)
