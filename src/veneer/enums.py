"""Settings that are a choice between names, and what each name means. The choices within formulas of objectives are in
`veneer.formulas`."""

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
        name: the argument's name in the error.

    Raises:
        ConfigError: there is no such value; the message lists all values.
    """
    for member in kind:
        if value in (member, member.value):
            return member
    known = [str(member.value) for member in kind]
    raise ConfigError(f"{name}: {value!r} is unknown{nearest(str(value), known)}; possible are {', '.join(known)}")


class Method(Enum):
    """What is trained, and the form of the base model."""

    LORA = "lora"
    """An adapter beside the base model in the compute dtype."""
    QLORA = "qlora"
    """An adapter beside the base model, quantised as the section `quant` says."""
    FULL = "full"
    """Every weight of the model, in float32."""


class Task(Enum):
    """What an adapter computes from a text, in PEFT's words (`task_type`)."""

    CAUSAL_LM = "CAUSAL_LM"
    """Its next token."""
    SEQ_CLS = "SEQ_CLS"
    """A score: the adapter has a head of its own, and is a reward model."""


class RowKind(Enum):
    """What a row of a run's data holds."""

    ANSWERS = "answers"
    """A conversation, a prompt with its completion, or a text."""
    PAIRS = "pairs"
    """A prompt with a chosen and a rejected answer."""
    LABELLED = "labelled"
    """An answer, and whether it is desirable."""
    TEXTS = "texts"
    """A plain text."""
    PROMPTS = "prompts"
    """A prompt without an answer, with any other columns."""


class ObjectiveName(Enum):
    """What a step minimises."""

    SFT = "sft"
    """Cross-entropy of the supervised tokens (supervised fine-tuning)."""
    PRETRAINING = "pretraining"
    """Cross-entropy of all tokens of plain texts (continued pretraining)."""
    DPO = "dpo"
    """Direct preference optimisation, on pairs of a chosen and a rejected answer."""
    ORPO = "orpo"
    """Odds ratio preference optimisation, on pairs, without a reference."""
    CPO = "cpo"
    """Contrastive preference optimisation, on pairs, without a reference."""
    SIMPO = "simpo"
    """Simple preference optimisation, on pairs, without a reference."""
    KTO = "kto"
    """Kahneman-Tversky optimisation, on answers that are desirable or not."""
    DISTILLATION = "distillation"
    """The divergence from a teacher's predictions of the answers."""
    REWARD = "reward"
    """A score for whole texts that ranks the chosen answer of a pair above the rejected one."""
    GRPO = "grpo"
    """Group relative policy optimisation, on answers that the model samples and rewards judge."""

    @property
    def imitates(self) -> bool:
        """Whether it is the cross-entropy of what is in the rows, and nothing else."""
        return self in (ObjectiveName.SFT, ObjectiveName.PRETRAINING)

    @property
    def loss_unit(self) -> str:
        """The unit of its loss; empty if the loss is a formula without one."""
        return "nats per supervised token" if self.imitates else ""

    @property
    def rows(self) -> RowKind:
        """The kind of rows that it needs."""
        match self:
            case ObjectiveName.SFT | ObjectiveName.DISTILLATION:
                return RowKind.ANSWERS
            case ObjectiveName.KTO:
                return RowKind.LABELLED
            case ObjectiveName.PRETRAINING:
                return RowKind.TEXTS
            case ObjectiveName.GRPO:
                return RowKind.PROMPTS
            case _:
                return RowKind.PAIRS


class OnRewardError(Enum):
    """What happens if a reward raises, ends or takes too long on an answer."""

    END = "end"
    """The run ends; the checkpoint of the last step stays."""
    SKIP_ROW = "skip_row"
    """The answer is left out of its step."""
    SKIP_GROUP = "skip_group"
    """All answers to its prompt are left out of the step."""


class OtherBase(Enum):
    """What happens if an adapter was trained on a base model other than the given one."""

    REFUSE = "refuse"
    """It is an error."""
    ALLOW = "allow"
    """It is a warning."""


class JobCode(Enum):
    """Whether a studio's jobs may contain rewards that are Python or programs, which may do everything that its user
    may."""

    REFUSE = "refuse"
    RUN = "run"


class Backend(Enum):
    """What computes the model."""

    AUTO = "auto"
    """VENEER if it knows the architecture, else HF."""
    VENEER = "veneer"
    """Veneer's own decoder."""
    HF = "hf"
    """transformers (`pip install 'veneer[hf]'`): every architecture that it has, by LoRA and QLoRA."""


class Scheme(Enum):
    """The format of a quantised base model's weights."""

    NF4 = "nf4"
    """NormalFloat: 4 bits, with levels at the quantiles of a normal distribution."""
    FP4 = "fp4"
    """A floating-point number of 4 bits."""
    INT8 = "int8"
    """LLM.int8's storage: 8 bits, with one scale for every output. Products are not computed in 8 bits (`Products`)."""


class Overlong(Enum):
    """What happens to a row that is longer than `data.max_length`."""

    DROP = "drop"
    TRUNCATE = "truncate"
    SPLIT = "split"
    """A plain text is cut into pieces; other rows are left out."""


class TokenCache(Enum):
    """Whether the tokens of a run's rows are kept on the disk instead of in memory."""

    AUTO = "auto"
    """On the disk if the files of rows have 100 MB or more together."""
    ALWAYS = "always"
    NEVER = "never"


class Check(Enum):
    """Rules of `veneer data` under which a run can refuse rows."""

    NOTHING_TRAINED = "nothing-trained"
    END_UNTRAINED = "end-untrained"
    CONTENT_LOST = "content-lost"
    TOOL_CALL_LOST = "tool-call-lost"
    DOUBLED_BOS = "doubled-bos"
    EMPTY_TURN = "empty-turn"
    TURN_ORDER = "turn-order"
    BOILERPLATE_TRAINED = "boilerplate-trained"
    OLD_THOUGHTS_LOST = "old-thoughts-lost"
    DAMAGED_ENCODING = "damaged-encoding"
    SECRET = "secret"


class SplitBy(Enum):
    """What decides which rows are held out for evaluation."""

    ROW = "row"
    """Each row by itself."""
    GROUP = "group"
    """Rows with the same value in a column stay on one side."""
    LABEL = "label"
    """Each label has the same share of its rows held out."""
    TIME = "time"
    """The latest rows are held out."""
    NEAR_DUPLICATES = "near-duplicates"
    """Rows that are nearly the same stay on one side."""


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
    CHOSEN = "chosen"
    REJECTED = "rejected"
    LABEL = "label"
    MARGIN = "margin"


class Publish(Enum):
    """Which weights of a run become its result."""

    LAST = "last"
    """Those after the last step."""
    BEST = "best"
    """Those of the best evaluation, by `train.best_metric`."""


class TrackerName(Enum):
    """A program that records and draws the events of a run."""

    TENSORBOARD = "tensorboard"
    """Files for TensorBoard in the run's folder, by tensorboardX."""
    WANDB = "wandb"
    """Weights & Biases."""
    MLFLOW = "mlflow"
    """MLflow, by mlflow-skinny."""
    TRACKIO = "trackio"
    """Trackio's database on this machine."""


class TrackingMode(Enum):
    """Whether trackers send anything."""

    OFFLINE = "offline"
    """Files are written on this machine."""
    ONLINE = "online"
    """The library sends to the server that it is set up for."""


class Schedule(Enum):
    """How the learning rate moves after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class Dtype(Enum):
    """The dtype of activations and matrix products."""

    AUTO = "auto"
    """BFLOAT16 if the processor multiplies it natively; on a GPU that multiplies only float16 so (Volta, Turing)
    FLOAT16; else FLOAT32."""
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    """Its largest number is 65,504, so that the loss is scaled in training. Larger activations end the run."""
    FLOAT32 = "float32"


class OptimizerName(Enum):
    """The optimiser: how gradients become steps."""

    ADAMW = "adamw"
    """AdamW with two float32 moments for each trained parameter."""
    ADAMW_8BIT = "adamw8bit"
    """AdamW with moments of 8 bits, in blocks of 256."""
    PAGED_ADAMW = "paged_adamw"
    """ADAMW, whose state may leave the memory of a full GPU (CUDA, with bitsandbytes)."""
    PAGED_ADAMW_8BIT = "paged_adamw8bit"
    """ADAMW_8BIT, whose state may leave the memory of a full GPU (CUDA, with bitsandbytes)."""
    ADAFACTOR = "adafactor"
    """Adafactor: the mean squares of a matrix's rows and columns alone."""
    LION = "lion"
    """Lion: every step is the sign of a mean gradient."""
    SGD = "sgd"
    """Gradient descent with momentum."""


class Recompute(Enum):
    """Whether activations are kept between forward and backward, or computed again."""

    AUTO = "auto"
    """NEVER if the activations fit into the memory limit, else LAYERS."""
    NEVER = "never"
    """All activations are kept."""
    LAYERS = "layers"
    """Each layer keeps its input alone, and is computed again in backward."""

    @property
    def tried(self) -> tuple[bool, ...]:
        """What a plan may choose, the preferred way first: True means that layers are computed again."""
        match self:
            case Recompute.AUTO:
                return False, True
            case Recompute.NEVER:
                return (False,)
            case Recompute.LAYERS:
                return (True,)


class Sharding(Enum):
    """Which processes of a run hold what is trained, its gradients and the optimiser's state."""

    NONE = "none"
    """Each process holds all of them."""
    FULL = "full"
    """Each process holds a part of every tensor (FSDP2)."""


class Products(Enum):
    """How the products of a frozen base model are computed."""

    EXACT = "exact"
    """In the compute dtype."""
    INT8 = "int8"
    """In 8 bits, forward and backward: faster on a CPU with AVX-512 VNNI, and less precise."""


class Init(Enum):
    """How A and B of an adapter are initialised."""

    KAIMING = "kaiming"
    """A is uniform and B is zero, so that the update is zero at first."""
    GAUSSIAN = "gaussian"
    """A is normal with standard deviation 1 / rank, and B is zero."""
    ORTHOGONAL = "orthogonal"
    """A and B are random in orthogonal halves of the rank, which must be even; the update is zero at first."""
    PISSA = "pissa"
    """A and B are the part of the weight with the largest singular values (PiSSA)."""
    PISSA_FAST = "pissa_fast"
    """PISSA by a randomised decomposition, which takes seconds instead of minutes for large weights."""
    OLORA = "olora"
    """A and B are the first columns and rows of the weight's QR decomposition (OLoRA)."""
    LOFTQ = "loftq"
    """A and B correct the error of quantisation, as far as the rank allows; for a quantised base."""
    EVA = "eva"
    """A spans the directions in which the layer's inputs vary most, on the run's own rows; B is zero."""


class Variant(Enum):
    """The kind of update."""

    LORA = "lora"
    """The update is added to the weight."""
    DORA = "dora"
    """The update changes the direction of the weight's rows; their lengths are trained separately."""


class Scaling(Enum):
    """The scale of the update."""

    STANDARD = "standard"
    """alpha / rank."""
    RSLORA = "rslora"
    """alpha / √rank."""


class Factors(Enum):
    """Which of the matrices A and B are trained."""

    BOTH = "both"
    B = "b"
    """B only; A stays as it started (LoRA-FA), and less is kept for backward."""


class Bias(Enum):
    """Which biases of the base model are trained."""

    NONE = "none"
    ALL = "all"
    LORA_ONLY = "lora_only"
    """The biases of the modules that have an adapter."""
