"""A model of transformers without memory for its weights: its sizes and its linear layers.

The class of transformers makes the model from its config.json. Its matrices take no memory; norms and other tensors
that a class fills with numbers are small. Buffers that follow from the configuration (rotary frequencies, masks) are
computed. The class also defines which modules are linear layers. No code of a model's repository is ever run.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from veneer.bounds import check_numbers
from veneer.errors import ModelError
from veneer.model.hf_lengths import ALWAYS_EQUAL, AnglesByLength, angles_by_length
from veneer.model.mixture import MixtureSpec
from veneer.products import PLAIN_SCORES, Scores
from veneer.text.strict_json import FLOAT_TAG

EXTRA = "pip install 'veneer[hf]'"
CONTEXTS = ("max_position_embeddings", "max_seq_len", "seq_length", "max_sequence_length", "n_ctx")
"""Names that configurations have for the longest context: most the first, MPT and BLOOM the next two."""
UNBOUNDED_CONTEXT = 2**20
"""The context of a model whose configuration names none, such as a state-space model."""


@dataclass(frozen=True, slots=True)
class HfLinear:
    """Path and sizes of one linear layer."""

    path: str
    inputs: int
    outputs: int
    bias: bool
    transposed: bool
    """Whether its weight is stored `[in, out]` (transformers' Conv1D)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HfSpec:
    """Sizes of the architecture (`veneer.model.language.ModelSpec`), and paths of its modules."""

    model_type: str
    vocab_size: int
    hidden_size: int
    tied_head: bool
    max_positions: int
    num_layers: int
    linears: tuple[HfLinear, ...]
    """Linear layers in model order, the head left out."""
    head: str
    """Path of the head."""
    base: str
    """Path of the body, which computes the hidden states."""
    weights: int
    """Elements of all weights. A tied weight counts once."""
    recomputable: bool
    """Whether transformers offers gradient checkpointing for it."""

    scores: Scores = PLAIN_SCORES
    """Always plain: `HfModel.lm_head` includes everything that the class does in addition to the head's product."""
    angles: AnglesByLength = ALWAYS_EQUAL
    """Lengths of texts at which the rotary angles differ."""
    mixture: MixtureSpec | None = None
    """Always None: experts are computed by transformers, and carry no adapter."""
    experts: frozenset[str]
    """Last names of experts' layers in files, if transformers holds all experts as one tensor."""

    @property
    def by_length(self) -> bool:
        """Whether a token's state depends on how long its whole text is."""
        return self.angles.differ

    @property
    def adaptable(self) -> tuple[HfLinear, ...]:
        """Linear layers that can carry an adapter.

        Layers whose last name is also that of experts in files are left out: PEFT (0.21) takes that name only for the
        experts, and could not open the adapter.
        """
        return tuple(linear for linear in self.linears if linear.path.rpartition(".")[2] not in self.experts)

    @property
    def others(self) -> int:
        """Elements outside of the linear layers' weights."""
        return self.weights - sum(linear.inputs * linear.outputs for linear in self.linears)


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A model whose weights take no memory."""

    module: Any
    """A `transformers.PreTrainedModel`."""
    spec: HfSpec

    @property
    def tied(self) -> Mapping[str, str]:
        """Names of the weights that are others of the model, each with the other's: the head's with the embedding's."""
        return dict(self.module.all_tied_weights_keys or {})


class _EmptyOnMeta(TorchFunctionMode):
    """Within it `torch.empty`, which creates the weights, takes no memory. Every other function works as usual."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is torch.empty and named.get("device") is None:
            named["device"] = "meta"
        return func(*args, **named)


def make_skeleton(config: Mapping[str, Any], dtype: torch.dtype) -> Skeleton:
    """Make the model that a config.json describes, without memory for its weights.

    Args:
        config: content of config.json.
        dtype: dtype of the weights.

    Raises:
        ModelError: transformers is not installed, has no such causal language model, or the configuration has
            impossible values.
    """
    check_numbers(config)
    transformers = _transformers(str(config.get("model_type")))
    own = _config(transformers, config)
    try:
        with _quiet(), _EmptyOnMeta():
            module = transformers.AutoModelForCausalLM.from_config(own, dtype=dtype, trust_remote_code=False)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"transformers {transformers.__version__} cannot make model_type {config.get('model_type')!r} as a causal "
            f"language model from its configuration: {error}"
        ) from error
    module.tie_weights()
    module.requires_grad_(False).eval()
    return Skeleton(module, _spec(module))


def _transformers(model_type: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            f"model_type {model_type!r} is not one that veneer's own decoder knows; transformers computes it "
            f"(backend hf), and is not installed: {EXTRA}"
        ) from error
    return transformers


def _config(transformers: Any, config: Mapping[str, Any]) -> Any:
    """transformers' configuration without dropout: the base is frozen, and a step must be repeatable."""
    name = str(config.get("model_type"))
    known = transformers.CONFIG_MAPPING
    if name not in known:
        if "auto_map" in config:
            raise ModelError(
                f"model_type {name!r} is not part of transformers {transformers.__version__}: its repository has its "
                "own code (auto_map), but veneer never runs such code; trust_remote_code is never enabled. Use "
                "a model whose architecture transformers has."
            )
        raise ModelError(
            f"model_type {name!r} is known neither to veneer's own decoder nor to transformers "
            f"{transformers.__version__}; a newer transformers may have it"
        )
    left_out = ("auto_map", "quantization_config", "model_type")
    values = {key: _decoded(value) for key, value in config.items() if key not in left_out}
    own = known[name].from_dict(values)
    for key, value in vars(own).items():
        if "drop" in key and isinstance(value, float):
            setattr(own, key, 0.0)
    if type(own) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"model_type {name!r} is not a causal language model in transformers {transformers.__version__}"
        )
    return own


def _decoded(value: Any) -> Any:
    """A value of config.json, with `{"__float__": "Infinity"}` as the number that transformers means by it."""
    if isinstance(value, Mapping):
        text = value.get(FLOAT_TAG)
        return {key: _decoded(part) for key, part in value.items()} if text is None else float(text)
    return [_decoded(part) for part in value] if isinstance(value, list) else value


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' warnings about token ids and class names of a configuration, which are not used here."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _spec(module: Any) -> HfSpec:
    config, name = module.config, type(module).__name__
    embedding, head = module.get_input_embeddings(), module.get_output_embeddings()
    paths = {id(part): path for path, part in module.named_modules()}
    base, width = paths.get(id(_body(module, embedding))), getattr(config, "hidden_size", None)
    if head is None or embedding is None or not base or width is None:
        raise ModelError(f"{name} has no embedding, head and body of the kind that transformers' causal models have")
    linears = tuple(find_linears(module, paths[id(head)]))
    return HfSpec(
        model_type=str(config.model_type),
        vocab_size=int(embedding.weight.shape[0]),
        hidden_size=int(width),
        tied_head=head.weight is embedding.weight,
        max_positions=_context(module),
        num_layers=int(config.num_hidden_layers),
        linears=linears,
        head=paths[id(head)],
        base=base,
        weights=sum(prod(parameter.shape) for parameter in module.parameters()),
        recomputable=bool(module.supports_gradient_checkpointing),
        experts=frozenset(_expert_names(module)),
        angles=angles_by_length(module.get_submodule(base).config),
    )


def _body(module: Any, embedding: Any) -> Any:
    """The part that computes hidden states from tokens; None if the embedding is in no such part.

    The decoder of a class may be its head, as in ModernBERT.
    """
    return next((part for part in (module.get_decoder(), module.base_model) if embedding in part.modules()), None)


def _context(module: Any) -> int:
    """Tokens of the longest text. Classes such as RoBERTa count their positions from after the padding token's id."""
    most = int(next((value for name in CONTEXTS if (value := getattr(module.config, name, None))), UNBOUNDED_CONTEXT))
    skipped = (
        part.padding_idx + 1
        for path, part in module.named_modules()
        if path.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None
    )
    return most - max(skipped, default=0)


def _expert_names(module: Any) -> Iterator[str]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    for rule in get_model_conversion_mapping(module):
        if isinstance(rule, WeightConverter):
            # As in `mlp.experts.*.gate_proj.weight`.
            several = [pattern for pattern in rule.source_patterns if ".*." in pattern]
            yield from (pattern.removesuffix(".weight").rpartition(".")[2] for pattern in several)


def find_linears(module: nn.Module, head: str) -> Iterator[HfLinear]:
    """Linear layers in model order, without the head (PEFT's rule for `all-linear`).

    A class that derives from torch's `Linear` counts if it computes what `Linear` computes.
    """
    from transformers.pytorch_utils import Conv1D

    computes: dict[type[nn.Module], bool] = {}
    for path, part in module.named_modules():
        if path == head or not isinstance(part, nn.Linear | Conv1D):
            continue
        kind = type(part)
        if kind not in computes:
            computes[kind] = kind in (nn.Linear, Conv1D) or _as_linear(part)
        if computes[kind]:
            transposed = isinstance(part, Conv1D)
            first, second = part.weight.shape
            inputs, outputs = (first, second) if transposed else (second, first)
            yield HfLinear(path, inputs, outputs, part.bias is not None, transposed)


def _as_linear(part: nn.Module) -> bool:
    """Whether the class of a layer computes x Wᵀ + b, tested on a small layer of that class."""
    generator = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(size, generator=generator) for size in ((3, 5), (3,), (2, 5)))
    small = copy.copy(part)
    small._parameters = {"weight": nn.Parameter(weight), "bias": nn.Parameter(bias)}
    try:
        with torch.no_grad():
            found = small(x)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return False  # it needs more than a weight, as routers do
    expected = nn.functional.linear(x, weight, bias)
    return isinstance(found, Tensor) and found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5)
