"""The configuration of a run: typed sections, read from YAML strictly, written back resolved.

Each section goes to its own component and to nobody else. Values are checked where they are declared; what concerns
two sections is checked in `check`, which only raises. Nothing is changed after parsing: a value that the program
chooses itself (`auto`) is chosen by the component that uses it and recorded in the run's `config.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from difflib import get_close_matches
from operator import attrgetter
from reprlib import Repr
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from veneer.config_values import seconds_of
from veneer.enums import (
    Backend,
    BadRows,
    Bias,
    Check,
    Column,
    DpoLoss,
    Dtype,
    Factors,
    Init,
    Method,
    ObjectiveName,
    OptimizerName,
    OtherBase,
    Overlong,
    Products,
    Publish,
    Recompute,
    ReferencePolicy,
    Scaling,
    Schedule,
    Scheme,
    SplitBy,
    TokenCache,
    TrackerName,
    Variant,
)
from veneer.errors import ConfigError, listing, nearest
from veneer.migration import counterpart

_INSIDE: ContextVar[bool] = ContextVar("_INSIDE", default=False)
"""Whether a section is being read as a part of another, which then reports the problems of both."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, values: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        # However a section is made (by keyword, from a mapping, from a file), its problems are told in our words.
        if _INSIDE.get():
            return handler(values)
        token = _INSIDE.set(True)
        try:
            return handler(values)
        except ValidationError as error:
            where = info.context if isinstance(info.context, str) else cls.__name__
            raise ConfigError(f"{where} is not valid:\n{listing(_explain(error, _path(cls)))}") from error
        finally:
            _INSIDE.reset(token)


def _no_truth(value: Any) -> Any:
    # Python and pydantic take true for 1; in a configuration it is a slip of the line.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


_NUMBER = BeforeValidator(_no_truth)


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError("must be a power of two: 1, 2, 4, 8 and so on")
    return value


Fraction = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False), _NUMBER]
Count = Annotated[int, Field(ge=1, le=1_000_000_000), _NUMBER]
Rank = Annotated[int, Field(ge=1, le=65_536), _NUMBER]
"""The largest is beyond the sides of nearly all matrices; much larger ones take all memory before anything is said."""
Steps = Annotated[int, Field(ge=1, le=100_000_000), _NUMBER]
StepRows = Annotated[int, Field(ge=1, le=1_000_000), _NUMBER]
Threads = Annotated[int, Field(ge=1, le=1_024), _NUMBER]
"""torch ends the process where the system gives it no more threads."""
Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False), _NUMBER]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False), _NUMBER]
Name = Annotated[str, Field(min_length=1)]
Duration = Annotated[float, Field(gt=0.0, le=1e8, allow_inf_nan=False), BeforeValidator(seconds_of), _NUMBER]


class LoraSection(_Section):
    """Settings of the adapter."""

    rank: Rank | Literal["auto"] = 16
    """The rank of the update: the inner dimension of B · A. `auto` takes the smallest rank that can hold what the
    rows have to teach."""
    alpha: Rate = 32.0
    """The numerator of the update's scale, which is alpha / rank."""
    dropout: Fraction = 0.0
    """The share of the adapter's inputs that is dropped at random during training."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """The modules that get an adapter: `all-linear`, a list of module names, or a regular expression for whole
    paths. `embed_tokens` and `lm_head` may be named too. In a mixture of experts, `all-linear` means the linear
    layers of the attention and all experts (`gate_up_proj`, `down_proj`); the router (`gate`, or `router`) must be
    named."""
    exclude_modules: str | tuple[str, ...] = ()
    """Modules that `target_modules` fits and that get no adapter: a list of names, or a regular expression."""
    layers_to_transform: tuple[Annotated[int, Field(ge=0), _NUMBER], ...] | None = None
    """The numbers of the decoder layers that get an adapter, from 0; all layers by default."""
    rank_pattern: dict[str, Rank] = Field(default={})
    """Other ranks for modules whose path ends in the key, for example `{down_proj: 32}`."""
    alpha_pattern: dict[str, Rate] = Field(default={})
    """Other alphas for modules whose path ends in the key."""
    scaling: Scaling = Scaling.STANDARD
    """The scale of the update: `standard` is alpha / rank, `rslora` (rank-stabilised LoRA) is alpha / √rank."""
    variant: Variant = Variant.LORA
    """The kind of update: `lora` adds B · A to the weight. `dora` (DoRA) also trains the length of each row of the
    weight apart from its direction."""
    init: Init = Init.KAIMING
    """How A and B are initialised. Whatever is chosen, the base model stays as it is, and a plain adapter for it is
    saved."""
    factors: Factors = Factors.BOTH
    """Which of the two matrices are trained: `both`, or `b` alone, which leaves A as it started (LoRA-FA)."""
    bias: Bias = Bias.NONE
    """Which biases of the base model are trained as well: `none`, `all`, or `lora_only` (those of modules with an
    adapter)."""
    modules_to_save: tuple[Name, ...] = ()
    """Modules that are trained in full, in float32, and saved with the adapter: names or ends of paths (`lm_head`)."""
    trainable_tokens: tuple[Annotated[int, Field(ge=0), _NUMBER], ...] = ()
    """Ids of tokens whose rows in the embedding and in the head are trained."""
    new_tokens: tuple[Name, ...] = ()
    """Texts that become new tokens. The vocabulary grows by them, their rows are trained, and the tokenizer that
    knows them is saved with the adapter."""


class QuantSection(_Section):
    """Settings of QLoRA's quantised base model."""

    scheme: Scheme = Scheme.NF4
    """The format of the quantised weights: `nf4` and `fp4` take 4 bits a weight, `int8` takes 8 bits, with one
    scale for every output. Activations and matrix products stay in the compute dtype."""
    block: Literal[32, 64, 128, 256, 512, 1024, 2048, 4096] = 64
    """The number of weights that share one scale (4-bit formats)."""
    double_quant: bool = True
    """Whether the scales are quantised too, in blocks of 256 (4-bit formats)."""
    skip_modules: tuple[Name, ...] = ()
    """Linear layers that are not quantised, each a whole path or the end of one (`down_proj`). The embedding and
    the head never are."""


class SplitSection(_Section):
    """How the rows that are held out are chosen."""

    by: SplitBy = SplitBy.ROW
    """What decides which rows are held out. `row`: each row by itself. `group`: rows with the same value in `column`
    stay on one side. `label`: each label (the answer, or the value in `column`) has the share of its rows held out.
    `time`: the latest rows by `column`, which holds numbers or dates. `near-duplicates`: rows that are nearly the same
    stay on one side."""
    column: Name | None = None
    """The column or key of the file that rows are split by."""


class SourceSection(_Section):
    """One of several sources of training rows."""

    file: Name
    """A file, a pattern or a dataset, as in `data.file`."""
    weight: Rate = 1.0
    """How often an epoch holds each row: of n rows it has round(weight · n)."""


class DataSection(_Section):
    """Settings of the rows for training and evaluation."""

    sources: tuple[SourceSection, ...] = ()
    """Several sources of training rows in place of `file`, each with a weight: `[{file: a.jsonl, weight: 2}, {file:
    b.jsonl}]`. Of n rows with weight w an epoch holds round(w · n): those beyond whole passes change from epoch to
    epoch."""
    file: Name | None = Field(default=None, validate_default=True)
    """The file of training rows, which a run without `sources` needs: JSONL, JSON, CSV or Parquet; a pattern for
    several of them (`corpus/*.jsonl`); or a dataset of the hub (`hub:owner/name[split]`)."""
    eval_file: Name | None = None
    """The file of rows for the evaluation loss, given as `file`."""
    held_out: Fraction = 0.0
    """The share of `file` that is kept for the evaluation loss and not trained, if there is no `eval_file`."""
    split: SplitSection = SplitSection()
    """How these rows are chosen: `{by: group, column: customer}`."""
    max_length: Annotated[int, Field(ge=2, le=1_000_000_000), _NUMBER] = 2048
    """The length of the longest row that is trained, in tokens."""
    overlong: Overlong = Overlong.DROP
    """What happens to rows that are longer than `max_length`: `drop` leaves them out, `truncate` cuts their end,
    `split` cuts those of `text` into pieces and leaves others out. They are counted and reported whatever happens."""
    bad_rows: BadRows = BadRows.REFUSE
    """What happens to rows that cannot be used: `refuse` names all of them and ends the run, `skip` leaves them out.
    They are counted and reported either way."""
    checks: tuple[Check, ...] = (
        Check.NOTHING_TRAINED,
        Check.END_UNTRAINED,
        Check.CONTENT_LOST,
        Check.TOOL_CALL_LOST,
        Check.DOUBLED_BOS,
    )
    """The rules of `veneer data` under which a row is refused (docs/data.md). What other rules find in single rows is
    reported. `[]` refuses nothing."""
    cache: TokenCache = TokenCache.AUTO
    """Whether rows are encoded once into files that are mapped into memory, instead of being held in it: `auto` from
    100 MB of rows on, `always`, `never`. The result is the same."""
    cache_dir: Name | None = None
    """The folder of these files; `~/.cache/veneer/tokens` by default."""
    columns: dict[Column, Name] = Field(default={})
    """The file's name of a column or key, where it is not veneer's: `{prompt: text, completion: category}`. No other
    columns are used then."""

    @field_validator("file")
    @classmethod
    def _given(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and not info.data.get("sources"):
            raise PydanticCustomError("missing", "required, but not given")
        return value

    @property
    def training(self) -> tuple[SourceSection, ...]:
        """The sources of training rows: those given, or `file` as the only one."""
        return self.sources if self.file is None else (SourceSection(file=self.file),)

    @property
    def training_name(self) -> str:
        """What the training rows are called where a person reads it: the files, each with its weight if it has one."""
        return ", ".join(
            source.file if source.weight == 1.0 else f"{source.file} × {source.weight:g}" for source in self.training
        )


class TrainSection(_Section):
    """Settings of the optimisation."""

    examples_per_step: StepRows | Literal["auto"] | None = None
    """The number of rows in one optimiser step: 8, unless `tokens_per_step` is given. `auto` takes fewer if the run
    would have less than 100 steps."""
    tokens_per_step: Annotated[int, Field(ge=1, le=100_000_000), _NUMBER] | None = None
    """The number of tokens in one optimiser step, in place of `examples_per_step`."""
    epochs: Annotated[float, Field(gt=0.0, le=1e6, allow_inf_nan=False), _NUMBER] | None = None
    """The number of passes over the rows; fractions are allowed. 1, unless `steps` is given."""
    steps: Steps | None = None
    """The number of optimiser steps, in place of `epochs`."""
    time_limit: Duration | None = None
    """The time that the whole run may take, with loading and evaluation: seconds, or `90s`, `10m`, `1h30m`. The steps
    that fit, out of those of `epochs` or `steps`, are fixed before the first one from times measured here. They are
    recorded as `steps`."""
    from_adapter: Name | None = None
    """The folder of an adapter that the run starts from. Rank, alpha, targets and kind are the adapter's, so that they
    are left out. It is read only."""
    other_base: OtherBase = OtherBase.REFUSE
    """Whether `from_adapter` may have been trained beside another base model than the run's: `refuse`, or `allow` with
    a warning."""
    learning_rate: Rate | Literal["auto"] = "auto"
    """The learning rate at its peak. `auto` takes it from the model's width and the method, and prints the reason."""
    lora_plus_ratio: Annotated[float, Field(ge=1.0, allow_inf_nan=False), _NUMBER] = 1.0
    """The learning rate of B as a multiple of A's, which is `learning_rate` (LoRA+)."""
    optimizer: OptimizerName = OptimizerName.ADAMW
    """The optimiser. Its state takes, for each trained parameter, 8 bytes (`adamw`), 2 (`adamw8bit`), 4 (`lion`,
    `sgd`) or nearly none (`adafactor`). The paged ones may move their state out of the memory of a full GPU."""
    schedule: Schedule = Schedule.COSINE
    """How the learning rate moves after the warm-up."""
    warmup: Fraction = 0.03
    """The share of the steps during which the learning rate rises from 0."""
    min_rate: Fraction = 0.0
    """The learning rate at the end of `cosine` and `linear`, as a share of the peak."""
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False), _NUMBER] = 0.0
    """The decoupled weight decay of matrices, per step and unit of learning rate."""
    beta1: Fraction = 0.9
    """The decay rate of the mean gradient in AdamW and Lion, and the momentum of SGD."""
    beta2: Fraction | Literal["auto"] = "auto"
    """The decay rate of the mean squared gradient in AdamW, and of the mean that Lion keeps. `auto` is 0.999 for
    AdamW and 0.99 for Lion."""
    clip: Annotated[float, Field(ge=0.0, allow_inf_nan=False), _NUMBER] = 1.0
    """The largest norm of the whole gradient (gradient clipping); 0 clips nothing."""
    skip_bad_steps: bool = False
    """Whether a bad step is left out and counted: its loss or gradient norm is not finite, or far above those of the
    last 128 steps (six standard deviations). Three in a row end the run. By default the first step that is not finite
    does, and others are made."""
    seed: Annotated[int, Field(ge=0, lt=2**31), _NUMBER] = 0
    """The seed of the adapter's initialisation, of the order of the rows and of dropout."""
    lanes: Annotated[int, Field(ge=1, le=4096), AfterValidator(_power_of_two), _NUMBER] | Literal["auto"] = "auto"
    """The number of lanes, a power of two: the parts that the rows of a step are dealt out to. They are computed one
    after another, or on as many processes at most, and their gradients are added in one fixed order, so that the
    number of processes does not change the result. `auto` is 1 for a single process, and else the number of processes,
    rounded up to a power of two."""
    eval_every: Count | None = None
    """The number of steps between evaluations; a tenth of the run by default."""
    save_every: Count | None = None
    """The number of steps between checkpoints; by default there is one at every evaluation."""
    keep: Count = 2
    """The number of checkpoints that are kept, besides the one with the best evaluation loss."""
    samples_every: Count | None = None
    """The number of steps between samples: a few prompts are answered, for the log and the report. Samples wait or are
    cut short where they would take more than 3 % of the run's time, and no byte of the result depends on them. By
    default there are none."""
    sample_prompts: tuple[Name, ...] = ()
    """The prompts of the samples; by default those of the first evaluation rows, or else of the first training rows."""
    patience: Count | None = None
    """The number of evaluations in a row without a new lowest loss after which the run ends (early stopping); by
    default it never ends before its last step."""
    publish: Publish = Publish.LAST
    """The weights that become the result: those after the `last` step, or the `best` by evaluation loss, which are
    those of a checkpoint."""


class DpoSection(_Section):
    """Settings of `objective: dpo`."""

    loss: DpoLoss = DpoLoss.SIGMOID
    """The formula: `sigmoid` (DPO), `robust`, `hinge`, `ipo`, or `sigmoid_norm` (docs/objectives.md)."""
    beta: Rate = 0.1
    """β, how strongly the policy is held to the reference: a smaller one lets it go further. The τ of `ipo`."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5, allow_inf_nan=False), _NUMBER] = 0.0
    """The share of pairs that are taken to be swapped, for `sigmoid` (conservative DPO) and `robust`."""
    nll: NotNegative = 0.0
    """The weight of the chosen answers' mean cross-entropy a token, which is added (RPO)."""
    reference: ReferencePolicy = ReferencePolicy.START
    """The model that the policy is compared with: the one that the run starts from (`start`), or the base with the
    adapter off (`base`). Its log-probabilities are computed once, before the first step, and it takes no memory."""


class OrpoSection(_Section):
    """Settings of `objective: orpo`."""

    beta: Rate = 0.1
    """β, the weight of the odds ratio beside the chosen answers' cross-entropy (the paper's λ)."""


class CpoSection(_Section):
    """Settings of `objective: cpo`."""

    beta: Rate = 0.1
    """β, the factor of the difference of log-probabilities."""
    nll: NotNegative = 1.0
    """The weight of the chosen answers' mean cross-entropy a token, which is added."""


class SimpoSection(_Section):
    """Settings of `objective: simpo`."""

    beta: Rate = 2.5
    """β, the factor of the mean log-probabilities a token."""
    gamma: NotNegative = 1.375
    """γ, the margin that the chosen answer's reward is to have."""
    nll: NotNegative = 0.0
    """The weight of the chosen answers' mean cross-entropy a token, which is added."""


class KtoSection(_Section):
    """Settings of `objective: kto`."""

    beta: Rate = 0.1
    """β, how strongly the policy is held to the reference."""
    desirable_weight: Rate = 1.0
    """λ_D, the weight of desirable answers."""
    undesirable_weight: Rate = 1.0
    """λ_U, the weight of the others. The paper advises weights that make λ_D · n_D over λ_U · n_U lie between 1 and
    4/3."""
    reference: ReferencePolicy = ReferencePolicy.START
    """The model that the policy is compared with, as `dpo.reference`."""


class ComputeSection(_Section):
    """Settings of the device and of the computation."""

    device: str = "auto"
    """The device: `auto`, `cpu`, `cuda` or `cuda:N`."""
    dtype: Dtype = Dtype.AUTO
    """The dtype of activations and matrix products. Adapters are always float32, and so is the optimiser's state,
    unless `train.optimizer` says otherwise."""
    products: Products = Products.EXACT
    """How the frozen base model is multiplied with its inputs and gradients: `exact` in the compute dtype. `int8`
    rounds both factors to 8 bits, which is faster and loses precision, for lora and qlora on a CPU with AVX-512
    VNNI; the base then takes as much memory as in bfloat16, under qlora too."""
    threads: Threads | None = None
    """The number of CPU threads of each process; torch's choice by default. Two runs give the same bytes only with the
    same number."""
    rank_timeout: Duration = 600.0
    """The time after which a run on several processes ends because one of them does not answer: seconds, or `90s`,
    `10m`."""
    memory_limit_mb: Count | None = None
    """The largest peak memory of the run, in MB (10⁶ bytes); by default four fifths of the device's memory, whether
    it is free at the moment or not."""
    micro_batch_tokens: Count | Literal["auto"] = "auto"
    """The number of tokens in a micro-batch. It decides memory and speed; the result does not depend on it beyond
    rounding. `auto` takes the smallest number that is about as fast as a larger one, within the memory limit."""
    recompute: Recompute = Recompute.AUTO
    """Whether the backward pass computes each layer's activations again (gradient checkpointing): `auto` only if
    they do not fit into the memory limit, `layers` always, `never` not at all. It takes a fraction of the memory,
    and half as much work again beside a frozen base (a third under method full)."""


class RunConfig(_Section):
    """Settings of a training run.

    It is made by keyword (`RunConfig(model=…, output=…, data={"file": …})`), from a mapping
    (`RunConfig.model_validate`) or from a YAML file (`parse(read_yaml(path), where=…)`). A section is given as a
    section or as a mapping.

    Raises:
        ConfigError: naming every unknown key (with veneer's name for it), missing key and bad value.
    """

    model: Name
    """The base model: a directory, a GGUF file or a hub id."""
    revision: str | None = None
    """The branch, tag or commit of a hub id."""
    output: Name
    """The folder of the run, which is made."""
    method: Method = Method.QLORA
    """What is trained: an adapter beside the base model (`lora`), an adapter beside the quantised base model
    (`qlora`), or every weight (`full`)."""
    objective: ObjectiveName = ObjectiveName.SFT
    """What a step minimises: the cross-entropy of answers (`sft`) or of plain texts
    (`pretraining`), a loss of pairs of a chosen and a rejected answer
    (`dpo`, `orpo`, `cpo`, `simpo`), or one of single answers that are desirable or not (`kto`). docs/objectives.md has
    the formulas and the rows that each takes."""
    backend: Backend = Backend.AUTO
    """What computes the model: veneer's own decoder (`veneer`), or transformers (`hf`, for lora and qlora only) for
    architectures that the decoder does not know. `auto` takes the own decoder if it knows the architecture."""
    track: tuple[TrackerName, ...] = ()
    """Trackers that are told of the run: `[tensorboard]` writes `tensorboard/` in its folder. A tracker that fails or
    is slow changes nothing of the run."""
    data: DataSection
    lora: LoraSection = LoraSection()
    quant: QuantSection = QuantSection()
    train: TrainSection = TrainSection()
    dpo: DpoSection = DpoSection()
    orpo: OrpoSection = OrpoSection()
    cpo: CpoSection = CpoSection()
    simpo: SimpoSection = SimpoSection()
    kto: KtoSection = KtoSection()
    compute: ComputeSection = ComputeSection()

    @property
    def reference(self) -> ReferencePolicy:
        """The reference of the run's objective."""
        return self.kto.reference if self.objective is ObjectiveName.KTO else self.dpo.reference


OBJECTIVE_SECTIONS = (
    ObjectiveName.DPO,
    ObjectiveName.ORPO,
    ObjectiveName.CPO,
    ObjectiveName.SIMPO,
    ObjectiveName.KTO,
)
"""The objectives that have a section of settings, which is called as they are."""

ALTERNATIVES = (
    ("train.examples_per_step", "train.tokens_per_step", "what a step is; give one"),
    ("train.epochs", "train.steps", "how long to train; give one (the other is null)"),
    ("data.eval_file", "data.held_out", "what to evaluate on; give one"),
    ("data.file", "data.sources", "what to train on; give one"),
)
"""Pairs of settings of which a run has one at most, what both of them say, and the remedy."""


def check(config: RunConfig) -> None:
    """Refuse combinations of settings that contradict each other, all at once.

    Raises:
        ConfigError: naming every contradiction.
    """
    problems = [
        f"{one} and {other} both say {what}" for one, other, what in ALTERNATIVES if all(attrgetter(one, other)(config))
    ]
    problems += split_problems(config.data)
    if not (config.data.eval_file or config.data.held_out):
        asked = [
            ("train.patience", config.train.patience),
            ("train.publish best", config.train.publish is Publish.BEST),
        ]
        problems += [
            f"{name} goes by the evaluation loss, and the run has no rows for it; give data.held_out or data.eval_file"
            for name, given in asked
            if given
        ]
    if config.train.sample_prompts and config.train.samples_every is None:
        problems.append("train.sample_prompts are answered every train.samples_every steps, which is not given")
    if config.compute.products is Products.INT8 and config.method is Method.FULL:
        problems.append(
            "compute.products int8 is for a frozen base and method full trains it; take method lora or qlora, or "
            "compute.products exact"
        )
    if config.train.optimizer is OptimizerName.SGD and config.train.learning_rate == "auto":
        problems.append(
            "train.learning_rate auto knows no rate for train.optimizer sgd, whose steps grow with the gradient; give "
            "a number"
        )
    if config.train.lora_plus_ratio != 1.0 and config.method is Method.FULL:
        problems.append(
            "train.lora_plus_ratio is for an adapter's B and method full has none; take lora or qlora, or 1"
        )
    if config.train.from_adapter is not None and config.method is Method.FULL:
        problems.append("train.from_adapter is an adapter and method full trains none; take lora or qlora")
    if config.lora.new_tokens and config.method is Method.FULL:
        problems.append("lora.new_tokens are trained with an adapter and method full has none; take lora or qlora")
    if config.train.time_limit is not None and config.lora.init is Init.EVA and config.method is not Method.FULL:
        problems.append(
            "train.time_limit fixes the steps after lora.init eva has looked at their rows; give train.steps, or "
            "another init"
        )
    problems += quant_problems(config.quant)
    problems += objective_problems(config)
    if config.train.eval_every and not (config.data.eval_file or config.data.held_out):
        problems.append("train.eval_every needs rows to evaluate on: give data.eval_file or data.held_out")
    if problems:
        raise ConfigError(f"the configuration contradicts itself:\n{listing(problems)}")


def split_problems(data: DataSection) -> list[str]:
    """What contradicts itself in how rows are held out."""
    by, column = data.split.by, data.split.column
    problems = []
    if by is not SplitBy.ROW and not data.held_out:
        problems.append(f"data.split.by {by.value} says which rows are held out and data.held_out is 0; give a share")
    if by in (SplitBy.GROUP, SplitBy.TIME) and column is None:
        problems.append(f"data.split.by {by.value} needs data.split.column, the column that rows are split by")
    if by in (SplitBy.ROW, SplitBy.NEAR_DUPLICATES) and column is not None:
        problems.append(f"data.split.column is for group, label or time and data.split.by is {by.value}; leave one out")
    return problems


def quant_problems(quant: QuantSection) -> list[str]:
    """What contradicts itself in the section `quant`."""
    if quant.scheme is not Scheme.INT8:
        return []
    default = QuantSection()
    given = [name for name in ("block", "double_quant") if getattr(quant, name) != getattr(default, name)]
    return [
        f"quant.{name} is of the 4-bit schemes, and int8 has one float32 scale for every output; leave it out, or take "
        "quant.scheme nf4"
        for name in given
    ]


def objective_problems(config: RunConfig) -> list[str]:
    """What contradicts itself in the objective's settings, or is of another objective."""
    problems = []
    for own in OBJECTIVE_SECTIONS:
        section = getattr(config, own.value)
        given = [key for key, info in type(section).model_fields.items() if getattr(section, key) != info.default]
        if own is not config.objective:
            problems += [
                f"{own.value}.{key} is a setting of objective {own.value} and objective is {config.objective.value}; "
                f"leave it out, or set objective: {own.value}"
                for key in given
            ]
    if config.objective.imitates:
        return problems
    name = config.objective.value
    if config.data.cache is TokenCache.ALWAYS:
        problems.append(f"data.cache always keeps rows of objective sft, and objective is {name}; leave it out")
    if config.data.overlong is not Overlong.DROP:
        problems.append(
            f"data.overlong {config.data.overlong.value} cuts answers, which objective {name} compares; take drop, and "
            "raise data.max_length"
        )
    if config.lora.init is Init.EVA and config.method is not Method.FULL:
        problems.append(f"lora.init eva is measured on supervised rows, and objective is {config.objective.value}; "
                        "take another init")  # fmt: skip
    if config.objective is ObjectiveName.KTO and config.train.time_limit is not None:
        problems.append(
            "train.time_limit counts the steps that fit after objective kto has computed its reference for all of "
            "them; give train.steps"
        )
    if config.dpo.label_smoothing and config.dpo.loss not in (DpoLoss.SIGMOID, DpoLoss.ROBUST):
        problems.append(
            f"dpo.label_smoothing is for dpo.loss sigmoid and robust, and it is {config.dpo.loss.value}; leave it out"
        )
    if config.dpo.loss is DpoLoss.ROBUST and not config.dpo.label_smoothing:
        problems.append(
            "dpo.loss robust needs dpo.label_smoothing, the share of pairs that are swapped; without it, it is sigmoid"
        )
    if config.reference is ReferencePolicy.BASE and config.method is Method.FULL:
        problems.append(f"{name}.reference base is the base with the adapter off and method full has none; take start")
    return problems


def known_keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Every dotted key of the configuration."""
    keys = []
    for name, info in section.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += known_keys(info.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def parse(values: Mapping[str, Any], *, where: str) -> RunConfig:
    """A checked configuration from nested values.

    Args:
        values: sections and keys, as a YAML file has them.
        where: what to call the source in an error.

    Raises:
        ConfigError: naming every unknown key (with the nearest known one), missing key and bad value.
    """
    config = RunConfig.model_validate(values, context=where)
    check(config)
    return config


def _path(section: type[BaseModel], inside: type[BaseModel] | None = None) -> list[str]:
    """The names of the sections that lead to a section; empty for the whole configuration."""
    for name, info in (inside or RunConfig).model_fields.items():
        if info.annotation is section:
            return [name]
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            below = _path(section, info.annotation)
            if below:
                return [name, *below]
    return []


def _explain(error: ValidationError, above: list[str]) -> list[str]:
    """One line for each key that is wrong (pydantic reports a union once for every branch).

    `above` is the path of what was read (`_path`).
    """
    known = known_keys()
    lines: dict[str, list[str]] = {}
    met: dict[str, str] = {}
    for problem in error.errors():
        parts = above + [str(part) for part in problem["loc"]]
        # The names of a union's branches stand in `loc` behind the key; the key itself is the longest known prefix.
        key = ".".join(parts)
        while key and key not in known and problem["type"] not in ("extra_forbidden", "missing"):
            key = key.rpartition(".")[0]
        key = key or ".".join(parts)
        if problem["type"] == "extra_forbidden":
            text = f"unknown key{_hint(key, known)}"
        elif problem["type"] == "missing":
            text = "required, but not given"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            text = f"{message[0].lower()}{message[1:]}"
            met[key] = f", got {_SHORT.repr(problem['input'])}"
        lines.setdefault(key, []).append(text)
    return [f"{key}: {'; or '.join(dict.fromkeys(texts))}{met.get(key, '')}" for key, texts in lines.items()]


_SHORT = Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlevel = 80, 80, 2


def _hint(key: str, known: list[str]) -> str:
    """What an unknown key is called here: by other programs' names first, then by the nearest spelling.

    The nearest is the known key that is closest as a whole, or whose last word is closest.
    """
    if meant := counterpart(key.split(".")):
        return f"; {meant.sentence()}"
    leaf = key.rpartition(".")[2]
    known = [*known, *dict.fromkeys(name.partition(".")[0] for name in known if "." in name)]
    homes = {name.rpartition(".")[2]: name for name in reversed(known)}
    if leaf in homes:
        return f" (did you mean {homes[leaf]!r}?)"
    close = get_close_matches(leaf, homes, n=1, cutoff=0.6)
    return nearest(key, known) or (f" (did you mean {homes[close[0]]!r}?)" if close else "")


def to_yaml(config: RunConfig) -> str:
    """The configuration as YAML that `parse` reads back to an equal one."""
    values = config.model_dump(mode="json")
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if all(character.isprintable() or character == "\n" for character in text):
        return text
    # Line separators and halves of characters, as odd file names have them, survive as escapes only.
    return str(yaml.safe_dump(values, sort_keys=False))
