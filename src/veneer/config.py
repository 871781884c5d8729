"""The configuration of a run: typed sections, read from YAML strictly, written back resolved.

Each section goes to its own component and to nobody else. Values are checked where they are declared; what concerns
two sections is checked in `check`, which only raises. Nothing is changed after parsing: a value that the program
chooses itself (`auto`) is chosen by the component that uses it and recorded in the run's `config.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from veneer.enums import (
    Backend,
    BadRows,
    Bias,
    Column,
    Dtype,
    Factors,
    Init,
    Method,
    OptimizerName,
    Overlong,
    Products,
    Recompute,
    Scaling,
    Schedule,
    Scheme,
    Variant,
)
from veneer.errors import ConfigError, listing, nearest


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _no_truth(value: Any) -> Any:
    # Python and pydantic take true for 1; in a configuration it is a slip of the line.
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


_NUMBER = BeforeValidator(_no_truth)
Fraction = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False), _NUMBER]
Count = Annotated[int, Field(ge=1), _NUMBER]
Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False), _NUMBER]
Name = Annotated[str, Field(min_length=1)]


class LoraSection(_Section):
    """The adapter."""

    rank: Count | Literal["auto"] = 16
    """Inner dimension of the update; `auto` takes the smallest that can hold what the rows have to teach."""
    alpha: Rate = 32.0
    """The update is scaled by alpha / rank."""
    dropout: Fraction = 0.0
    """Share of the update's inputs dropped while training."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """`all-linear`, a list of layer names, or a regular expression for whole paths. `embed_tokens` and `lm_head` may be
    named too. Of a mixture `all-linear` means the attention's layers and all experts (`gate_up_proj`, `down_proj`); its
    router (`gate`, or `router`) must be named."""
    exclude_modules: str | tuple[str, ...] = ()
    """Names or an expression for what is left out of them."""
    layers_to_transform: tuple[Annotated[int, Field(ge=0), _NUMBER], ...] | None = None
    """Numbers of the decoder layers that are adapted; by default all."""
    rank_pattern: dict[str, Count] = Field(default={})
    """Other ranks for layers whose path ends in the key, e.g. `{down_proj: 32}`."""
    alpha_pattern: dict[str, Rate] = Field(default={})
    """Other alphas, likewise."""
    scaling: Scaling = Scaling.STANDARD
    """`standard` scales the update by alpha / rank, `rslora` by alpha / √rank."""
    variant: Variant = Variant.LORA
    """`dora` trains the length of each of the weight's rows apart from its direction."""
    init: Init = Init.KAIMING
    """How A and B start. Whatever is chosen, the base stays as it is, and what is saved is a plain adapter for it."""
    factors: Factors = Factors.BOTH
    """`b` leaves A as it started (LoRA-FA)."""
    bias: Bias = Bias.NONE
    """Which biases of the base are trained as well."""
    modules_to_save: tuple[Name, ...] = ()
    """Modules that are trained whole, in float32, and saved with the adapter: names or ends of paths (`lm_head`)."""
    trainable_tokens: tuple[Annotated[int, Field(ge=0), _NUMBER], ...] = ()
    """Token ids whose rows of the embedding and of the head are trained."""
    new_tokens: tuple[Name, ...] = ()
    """Texts that become tokens of their own: the vocabulary grows by them, their rows are trained, and the tokenizer
    that knows them is saved with the adapter."""


class QuantSection(_Section):
    """The quantised base of QLoRA."""

    scheme: Scheme = Scheme.NF4
    """What weights are held in: `nf4` and `fp4` take 4 bits, `int8` 8 with a scale for every output. Activations and
    products stay in the compute dtype."""
    block: Literal[32, 64, 128, 256, 512, 1024, 2048, 4096] = 64
    """Weights that share one scale, in 4 bits."""
    double_quant: bool = True
    """Quantise the scales too, in blocks of 256, in 4 bits."""
    skip_modules: tuple[Name, ...] = ()
    """Linear layers to keep in the compute dtype, each a whole path or the end of one (`down_proj`); embedding and head
    always are."""


class DataSection(_Section):
    """What is trained and evaluated on."""

    file: Name
    """JSONL, JSON, CSV or Parquet."""
    eval_file: Name | None = None
    """Rows for the evaluation loss."""
    held_out: Fraction = 0.0
    """Share of `file` kept for the evaluation loss where there is no `eval_file`."""
    max_length: Annotated[int, Field(ge=2), _NUMBER] = 2048
    """Longest row, in tokens."""
    overlong: Overlong = Overlong.DROP
    """What happens to longer rows; they are counted and reported either way."""
    bad_rows: BadRows = BadRows.REFUSE
    """What happens to rows that cannot be used: `refuse` names them all and ends; `skip` leaves them out, counted and
    reported."""
    columns: dict[Column, Name] = Field(default={})
    """The file's name of a column or key, where it is not veneer's: `{prompt: text, completion: category}`. Then no
    other columns are used."""


class TrainSection(_Section):
    """The optimisation."""

    examples_per_step: Count | Literal["auto"] | None = None
    """Rows that make one optimiser step (8 unless `tokens_per_step` is given); `auto` takes fewer where that would make
    less than 100 steps."""
    tokens_per_step: Count | None = None
    """Tokens that make one optimiser step, in place of `examples_per_step`."""
    epochs: Annotated[float, Field(gt=0.0, le=1e6, allow_inf_nan=False), _NUMBER] | None = None
    """Passes over the rows, fractions allowed (1 unless `steps` is given)."""
    steps: Count | None = None
    """Number of steps, in place of `epochs`."""
    learning_rate: Rate | Literal["auto"] = "auto"
    """Peak rate; `auto` takes it from the model's width and the method, and says why (`veneer.training.recommend`)."""
    lora_plus_ratio: Annotated[float, Field(ge=1.0, allow_inf_nan=False), _NUMBER] = 1.0
    """LoRA+: the rate of B as a multiple of A's, which is `learning_rate`."""
    optimizer: OptimizerName = OptimizerName.ADAMW
    """What makes steps of gradients. Bytes of state for each trained number: adamw 8, adamw8bit 2, lion and sgd 4,
    adafactor next to none. The paged ones may move their state out of a full card."""
    schedule: Schedule = Schedule.COSINE
    """How the rate falls after the warm-up."""
    warmup: Fraction = 0.03
    """Share of the steps over which the rate rises from 0."""
    min_rate: Fraction = 0.0
    """Where cosine and linear end, as a share of the peak."""
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False), _NUMBER] = 0.0
    """Decoupled decay of matrices, per step and unit of learning rate."""
    beta1: Fraction = 0.9
    """Memory of the gradient, of AdamW and Lion; the momentum of SGD."""
    beta2: Fraction | Literal["auto"] = "auto"
    """AdamW's memory of its square, Lion's of the mean that it keeps; `auto` is 0.999 for AdamW and 0.99 for Lion."""
    clip: Annotated[float, Field(ge=0.0, allow_inf_nan=False), _NUMBER] = 1.0
    """Largest norm of the whole gradient; 0 leaves it as it is."""
    seed: Annotated[int, Field(ge=0, lt=2**31), _NUMBER] = 0
    """Of the adapter's start, the order of rows and dropout."""
    eval_every: Count | None = None
    """Steps between evaluations; by default ten in a run."""
    save_every: Count | None = None
    """Steps between checkpoints; by default at every evaluation."""
    keep: Count = 2
    """Checkpoints kept, besides the best by evaluation loss."""


class ComputeSection(_Section):
    """Where and how it is computed."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    dtype: Dtype = Dtype.AUTO
    """Of activations and products; adapters are always float32, and so is what is kept of gradients, unless
    `train.optimizer` says otherwise."""
    products: Products = Products.EXACT
    """Of the frozen base with its inputs and gradients. `int8` rounds both factors to 8 bits: faster and lossy, for
    lora and qlora on a CPU with AVX-512 VNNI; the base then takes as much memory as in bfloat16, under qlora too."""
    threads: Count | None = None
    """CPU threads; by default torch's choice. Part of what makes two runs equal to the byte."""
    memory_limit_mb: Count | None = None
    """What the run may take at its peak, in MB (10⁶ bytes); by default four fifths of the device's memory, whatever of
    it is free at the moment."""
    micro_batch_tokens: Count | Literal["auto"] = "auto"
    """Tokens computed at a time. A matter of memory: the result does not depend on it beyond rounding. `auto`: the
    fewest that cost no speed worth naming, within the limit."""
    recompute: Recompute = Recompute.AUTO
    """Whether backward computes each layer's activations again: a fraction of the memory, for half as much work again
    beside a frozen base (a third where everything is trained)."""


class RunConfig(_Section):
    """Everything that a training run is told."""

    model: Name
    """A directory, a GGUF file or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    output: Name
    """The folder of the run; made if absent."""
    method: Method = Method.QLORA
    """lora, qlora or full."""
    backend: Backend = Backend.AUTO
    """Who computes the model: `veneer`, its own decoder; `hf`, transformers, for architectures that the decoder does
    not know (lora and qlora only). `auto` takes the own decoder where it knows the architecture."""
    data: DataSection
    lora: LoraSection = LoraSection()
    quant: QuantSection = QuantSection()
    train: TrainSection = TrainSection()
    compute: ComputeSection = ComputeSection()


def check(config: RunConfig) -> None:
    """Refuse combinations of settings that contradict each other, all at once.

    Raises:
        ConfigError: naming every contradiction.
    """
    problems = []
    if config.train.examples_per_step and config.train.tokens_per_step:
        problems.append("train.examples_per_step and train.tokens_per_step both say what a step is; give one")
    if config.train.epochs and config.train.steps:
        problems.append("train.epochs and train.steps both say how long to train; give one (the other is null)")
    if config.data.eval_file and config.data.held_out:
        problems.append("data.eval_file and data.held_out both say what to evaluate on; give one")
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
    if config.lora.new_tokens and config.method is Method.FULL:
        problems.append("lora.new_tokens are trained with an adapter and method full has none; take lora or qlora")
    problems += quant_problems(config.quant)
    if config.train.eval_every and not (config.data.eval_file or config.data.held_out):
        problems.append("train.eval_every needs rows to evaluate on: give data.eval_file or data.held_out")
    if problems:
        raise ConfigError(f"the configuration contradicts itself:\n{listing(problems)}")


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
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where} is not a valid configuration:\n{listing(_explain(error))}") from error
    check(config)
    return config


def _explain(error: ValidationError) -> list[str]:
    """One line for each key that is wrong (pydantic reports a union once for every branch)."""
    known = known_keys()
    lines: dict[str, list[str]] = {}
    met: dict[str, str] = {}
    for problem in error.errors():
        parts = [str(part) for part in problem["loc"]]
        # The names of a union's branches stand in `loc` behind the key; the key itself is the longest known prefix.
        key = ".".join(parts)
        while key and key not in known and problem["type"] not in ("extra_forbidden", "missing"):
            key = key.rpartition(".")[0]
        key = key or ".".join(parts)
        if problem["type"] == "extra_forbidden":
            text = f"unknown key{_nearest_key(key, known)}"
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


def _nearest_key(key: str, known: list[str]) -> str:
    """A hint naming the known key that is closest as a whole, or whose last word is closest."""
    leaf = key.rpartition(".")[2]
    known = [*known, *dict.fromkeys(name.partition(".")[0] for name in known if "." in name)]
    homes = {name.rpartition(".")[2]: name for name in reversed(known)}
    if leaf in homes:
        return f" (did you mean {homes[leaf]!r}?)"
    close = get_close_matches(leaf, homes, n=1, cutoff=0.6)
    return nearest(key, known) or (f" (did you mean {homes[close[0]]!r}?)" if close else "")


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice, which SafeLoader lets the last one win."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise ConfigError(
            f"line {node.start_mark.line + 1}: key given twice: {', '.join(twice)}; each key may stand once"
        )
    return dict(loader.construct_mapping(node, deep=True))


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: it cannot be read, is not YAML, or holds no mapping.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds a {type(values).__name__}; it must hold keys and values, as `model: DIR`")
    return values


def override(values: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with `key=value` assignments (dotted keys, YAML values) laid over it.

    Raises:
        ConfigError: an assignment has no `=`, its value is not YAML, or its key leads through a plain value.
    """
    result = _copy(values)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {assignment!r}: write it as key=value, for example train.epochs=2")
        try:
            value = yaml.load(text, Loader=_StrictLoader) if text.strip() else None
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError(f"--set {assignment!r}: the value is not valid YAML: {error}") from error
        put(result, key.strip(), value)
    return result


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in nested values."""
    *sections, leaf = key.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key}: {section!r} is a value, not a section")
    values[leaf] = value


def _copy(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in values.items()}


def to_yaml(config: RunConfig) -> str:
    """The configuration as YAML that `parse` reads back to an equal one."""
    values = config.model_dump(mode="json")
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if all(character.isprintable() or character == "\n" for character in text):
        return text
    # Line separators and halves of characters, as odd file names have them, survive as escapes only.
    return str(yaml.safe_dump(values, sort_keys=False))
