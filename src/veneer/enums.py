"""The words of a configuration: every choice between named ways, with what each means."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from veneer.errors import ConfigError, nearest

E = TypeVar("E", bound=Enum)


def choice(kind: type[E], value: E | str, name: str) -> E:
    """A member of an enum, given as itself or by its value.

    Args:
        kind: the enum; its values are strings.
        value: the member, or its value.
        name: what the argument is called, for the error.

    Raises:
        ConfigError: there is no such value; all that there are, are listed.
    """
    for member in kind:
        if value in (member, member.value):
            return member
    known = [str(member.value) for member in kind]
    raise ConfigError(f"{name}: {value!r} is unknown{nearest(str(value), known)}; possible are {', '.join(known)}")


class Method(Enum):
    """What is trained, beside what base."""

    LORA = "lora"
    """An adapter over the base in its compute dtype."""
    QLORA = "qlora"
    """An adapter over the base quantised as `quant` says."""
    FULL = "full"
    """Every weight of the model, in float32."""


class Backend(Enum):
    """Who computes the model."""

    AUTO = "auto"
    """VENEER where it knows the architecture, else HF."""
    VENEER = "veneer"
    """Veneer's own decoder."""
    HF = "hf"
    """transformers (`pip install 'veneer[hf]'`): every architecture that it has, by LoRA and QLoRA."""


class Scheme(Enum):
    """What a quantised base's weights are held in."""

    NF4 = "nf4"
    """4 bits at the quantiles of a normal distribution."""
    FP4 = "fp4"
    """4 bits as a floating-point number."""
    INT8 = "int8"
    """LLM.int8's 8 bits, with one scale for every output. Held so, not computed: see `Products` for that."""


class Overlong(Enum):
    """What happens to a row that is longer than `data.max_length`."""

    DROP = "drop"
    TRUNCATE = "truncate"


class BadRows(Enum):
    """What happens to a row that cannot be used."""

    REFUSE = "refuse"
    SKIP = "skip"


class Column(Enum):
    """Columns and keys of a data file that veneer reads."""

    MESSAGES = "messages"
    CONVERSATIONS = "conversations"
    PROMPT = "prompt"
    COMPLETION = "completion"
    INSTRUCTION = "instruction"
    INPUT = "input"
    OUTPUT = "output"
    TEXT = "text"
    SYSTEM = "system"
    TOOLS = "tools"


class Schedule(Enum):
    """How the learning rate moves after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class Dtype(Enum):
    """What activations and products are computed in."""

    AUTO = "auto"
    """bfloat16 where the processor multiplies it natively, float32 elsewhere."""
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class OptimizerName(Enum):
    """How gradients become steps."""

    ADAMW = "adamw"
    """Two float32 moments for each trained number."""
    ADAMW_8BIT = "adamw8bit"
    """The same in 8 bits, by blocks of 256."""
    PAGED_ADAMW = "paged_adamw"
    """adamw, whose state may leave a full card; on CUDA with bitsandbytes."""
    PAGED_ADAMW_8BIT = "paged_adamw8bit"
    """Both."""
    ADAFACTOR = "adafactor"
    """A matrix's mean squares by row and column alone."""
    LION = "lion"
    """The sign of a mean gradient."""
    SGD = "sgd"
    """The mean gradient itself."""


class Recompute(Enum):
    """What becomes of the activations between forward and backward."""

    AUTO = "auto"
    """Kept if they fit into the limit, else as LAYERS."""
    NEVER = "never"
    """Kept."""
    LAYERS = "layers"
    """Each layer keeps its input alone and is computed again in backward."""


class Products(Enum):
    """How a frozen base is multiplied with."""

    EXACT = "exact"
    """In the compute dtype."""
    INT8 = "int8"
    """In 8 bits both ways: faster on a CPU with AVX-512 VNNI, and not what an exact base computes."""


class Init(Enum):
    """How the factors of an adapter start."""

    KAIMING = "kaiming"
    """A uniform, B zero: nothing at first."""
    GAUSSIAN = "gaussian"
    """A normal with deviation 1 / rank, B zero."""
    ORTHOGONAL = "orthogonal"
    """A and B random in orthogonal halves of the rank, which must be even: nothing at first, to rounding."""
    PISSA = "pissa"
    """The largest singular values of the weight are what is trained."""
    PISSA_FAST = "pissa_fast"
    """The same by a randomised decomposition: seconds instead of minutes for large weights."""
    OLORA = "olora"
    """The first columns of the weight's QR decomposition are what is trained."""
    LOFTQ = "loftq"
    """What quantisation took from the weight, as far as the rank reaches; for a quantised base."""
    EVA = "eva"
    """A spans what the layer's inputs vary in most, on the run's own rows; B zero."""


class Variant(Enum):
    """What the update does to a weight."""

    LORA = "lora"
    """It is added."""
    DORA = "dora"
    """It turns the weight's rows, whose lengths are trained by themselves."""


class Scaling(Enum):
    """The factor of the update."""

    STANDARD = "standard"
    """alpha / rank."""
    RSLORA = "rslora"
    """alpha / √rank."""


class Factors(Enum):
    """Which factors of the update are trained."""

    BOTH = "both"
    B = "b"
    """A stays as it started (LoRA-FA): less is kept for backward."""


class Bias(Enum):
    """Which biases of the base are trained."""

    NONE = "none"
    ALL = "all"
    LORA_ONLY = "lora_only"
    """Those of the adapted layers."""
