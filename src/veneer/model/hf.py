"""A causal language model that transformers computes, as a `veneer.model.language.LanguageModel`.

The class of transformers computes the architecture. Its linear layers and its head are replaced by veneer's base
linears (dense or quantised) under transformers' paths: adapters work on them as on veneer's own decoder, and PEFT knows
their names.

Documents of similar length become one batch, padded on the right. The causal mask makes this exact: no token sees the
padding after it. If rotary angles depend on a text's length, only texts with equal angles share a batch
(`veneer.model.hf_lengths`).

The class's own forward computes the logits from given hidden states, so that a scale, a soft cap or a bias of the
architecture is part of the loss. If the logits are the plain product with the head's weight, the loss gets that weight,
and never holds all logits.

The base model is in evaluation mode, also in training. It has no dropout and no random jitter, since it is frozen and a
step must be repeatable.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from veneer.errors import AdapterError, ModelError
from veneer.model.attention import similar_groups
from veneer.model.compiled_step import CompiledStep
from veneer.model.decoder import plain_weight
from veneer.model.hf_decoding import HfCachedDecoding, HfDecodingByLength, HfUncachedDecoding, call_body
from veneer.model.hf_lengths import DynamicRotaries
from veneer.model.hf_skeleton import HfSpec, Skeleton
from veneer.model.language import Decoding
from veneer.model.leaves import DenseLinear
from veneer.model.recompute import Recomputation

PROBE_ROWS = 4
PROBE_SCALE = 30.0
"""Scale of the random hidden states that probe the head. It is large enough to make a soft cap visible."""


class HfWeights(Protocol):
    """Makes the linear layers, parameters and buffers of a skeleton. Each path is requested once."""

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        """A base linear for `{path}.weight` (stored `[out, in]` or `[in, out]`) and `{path}.bias`."""
        ...

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        """A parameter of any other module, by its full name."""
        ...

    def buffer(self, path: str) -> Tensor | None:
        """A buffer in the dtype of the files, or None if the files do not have it."""
        ...


def build(skeleton: Skeleton, weights: HfWeights, dtype: torch.dtype, device: torch.device) -> HfModel:
    """Fill a skeleton with weights, module by module, and return it as a model. Call `HfModel.check` before using it.

    Args:
        skeleton: the model without weights, which is changed in place.
        weights: makes the modules that hold weights.
        dtype: dtype of activations and products.
        device: device of the buffers that the class has computed.
    """
    module, spec, tied = skeleton.module, skeleton.spec, skeleton.tied
    made: dict[int, nn.Parameter] = {}
    linears = {linear.path: linear for linear in spec.linears}
    for path, part in list(module.named_modules()):
        if path in linears:
            shape = linears[path]
            _put(module, path, weights.linear(path, shape.inputs, shape.outputs, bias=shape.bias))
            continue
        for name, parameter in list(part.named_parameters(recurse=False)):
            # A tied weight is met twice and is one. It may be met first under a name that files do not have.
            if id(parameter) not in made:
                own = _joined(path, name)
                made[id(parameter)] = weights.parameter(tied.get(own, own), tuple(parameter.shape))
            setattr(part, name, made[id(parameter)])
        for name, buffer in list(part.named_buffers(recurse=False)):
            stored = None if name in part._non_persistent_buffers_set else weights.buffer(_joined(path, name))
            setattr(part, name, buffer.to(device) if stored is None else stored.to(device, buffer.dtype))
    head = module.get_submodule(spec.head)
    if type(head) is nn.Linear:
        _put(module, spec.head, DenseLinear(cast(nn.Parameter, head.weight), cast("nn.Parameter | None", head.bias)))
    return HfModel(module, spec, dtype, device)


def _put(module: nn.Module, path: str, part: nn.Module) -> None:
    above, _, leaf = path.rpartition(".")
    setattr(module.get_submodule(above), leaf, part)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


class HfModel:
    """A model of transformers.

    Args:
        module: the model of transformers, with its linear layers replaced.
        spec: sizes and paths of the model.
        dtype: dtype of activations and products.
        device: device that the model computes on.
    """

    def __init__(self, module: Any, spec: HfSpec, dtype: torch.dtype, device: torch.device):
        self.spec, self.dtype, self.device = spec, dtype, device
        self.training = False
        self._module = module
        self._base = module.get_submodule(spec.base)
        self._accepted = _parameter_names(self._base.forward)
        self._uncached = {"use_cache": False} if "use_cache" in self._accepted else {}
        self._dynamic = DynamicRotaries(self._base)
        self._original_modules = list(module.modules())
        self._recomputing: list[Any] = []

    @property
    def flat(self) -> bool:
        """False: transformers computes batches. See `LanguageModel.flat`."""
        return False

    @property
    def fan_in_fan_out(self) -> bool:
        """Whether any linear layer is transformers' Conv1D."""
        return any(linear.transposed for linear in self.spec.linears)

    @property
    def embedding(self) -> nn.Module:
        """The token embedding."""
        return cast(nn.Module, self._module.get_input_embeddings())

    @property
    def lm_head(self) -> nn.Module:
        """The head if the logits are its plain product, otherwise a module that runs the class's own forward."""
        return self.get_submodule(self.spec.head) if self._plain else self._scores

    @cached_property
    def _scores(self) -> _Logits:
        return _Logits(self._module, self.spec, self._output_type)

    @cached_property
    def _plain(self) -> bool:
        """Whether the logits are the plain product with the head's weight, tested on random hidden states."""
        head = self.get_submodule(self.spec.head)
        weight = plain_weight(head)
        if weight is None:
            return False
        generator = torch.Generator().manual_seed(0)
        hidden = PROBE_SCALE * torch.randn(PROBE_ROWS, weight.shape[1], generator=generator)
        hidden = hidden.to(self.device, self.dtype)
        with torch.no_grad():
            product, scores = head(hidden).float(), self._scores(hidden).float()
        return scores.shape == product.shape and torch.allclose(scores, product, rtol=1e-4, atol=1e-4)

    def check(self) -> HfModel:
        """Test that the model is causal: the state of a token depends only on earlier tokens.

        Raises:
            ModelError: the model is not causal.
        """
        # Found now and kept: under an adapter in training the two texts would differ by their dropout.
        _ = self._output_type
        return self

    @cached_property
    def _output_type(self) -> type[Any]:
        """The class of the body's output, found by comparing two texts that differ at their end."""
        texts = torch.tensor([[1, 2, 3, 4], [1, 2, 4, 3]], device=self.device).remainder_(self.spec.vocab_size)
        with torch.no_grad():
            output = self._body({"input_ids": texts} | self._uncached)
        states = output.last_hidden_state[:, :2].float()
        if not torch.allclose(states[0], states[1], rtol=1e-2, atol=1e-2 * float(states.abs().max())):
            raise ModelError(
                f"model_type {self.spec.model_type!r} lets tokens see later ones: with this config.json it is not a "
                "causal language model (is_decoder?)"
            )
        return type(output)

    def documents(self, tokens: Tensor, positions: Tensor, lengths: Sequence[int], shared: int = 0) -> Tensor:
        """Hidden states `[tokens, dim]`; see `LanguageModel.documents`. `positions` follow from the lengths."""
        places = _places(lengths, shared, tokens.device)
        states_of, where = [], []
        for group in self._batches([len(place) for place in places]):
            rows = nn.utils.rnn.pad_sequence([places[number] for number in group], batch_first=True, padding_value=-1)
            real = rows >= 0
            states = self._states(tokens[rows.clamp(min=0)], None if bool(real.all()) else real.long())
            for row, number in enumerate(group):
                # The shared tokens are taken from the first document.
                first = shared if number else 0
                own = places[number][first:]
                states_of.append(states[row, first : first + len(own)])
                where.append(own)
        result = states_of[0].new_empty(len(tokens), states_of[0].shape[-1])
        return result.index_copy(0, torch.cat(where), torch.cat(states_of))

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices into `lengths` of the texts that are computed together."""
        for alike in self.spec.angles.alike(lengths):
            for group in similar_groups([lengths[number] for number in alike]):
                yield [alike[place] for place in group]

    def _states(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Hidden states `[rows, length, dim]` of a batch, computed without a cache."""
        arguments: dict[str, Any] = {"input_ids": tokens} | self._uncached
        if mask is not None and "attention_mask" in self._accepted:
            arguments["attention_mask"] = mask
        return cast(Tensor, self._body(arguments).last_hidden_state)

    def _body(self, arguments: dict[str, Any]) -> Any:
        self._dynamic.forget(self.device)
        return call_body(self._base, arguments)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the next token, `[rows, dim]` to `[rows, vocab_size]`."""
        return cast(Tensor, self.lm_head(hidden))

    def decoding(self, rows: int, capacity: int) -> Decoding:
        """A decoding with transformers' cache if that is exact, otherwise one that computes all tokens in each step."""
        if not self._caches:
            return HfUncachedDecoding(self.documents, self.logits, capacity)

        def begin() -> HfCachedDecoding:
            return HfCachedDecoding(self._body, self._accepted, self.logits, capacity)

        angles = self.spec.angles
        return HfDecodingByLength(begin, angles, capacity) if angles.differ else begin()

    @cached_property
    def _caches(self) -> bool:
        """Whether continuing a row from the class's cache equals computing the whole row, as in training."""
        try:
            return self._continues()
        except torch.OutOfMemoryError:
            raise
        except (ModelError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
            return False  # its cache cannot drop rows, like that of MiniMax, or is of another kind

    @torch.no_grad()
    def _continues(self) -> bool:
        """The answer of `_caches`, or an error of the class if its cache cannot be used in this way.

        The row has padding in front, and another row of the batch is dropped. Classes that count positions by columns
        fail this, and so do state-space models, whose states have seen the padding. Classes such as RoBERTa, whose
        positions begin after the padding token's id, fail it because a decoding counts from 0.
        """
        from transformers import Cache

        needed = {"cache", "attention_mask"} | ({"position_ids"} if self.spec.by_length else set())
        if not needed <= self._accepted:
            return False
        tokens = torch.tensor([1, 2, 3, 4, 5, 4, 3, 2, 1], device=self.device).remainder_(self.spec.vocab_size)
        # Hidden states are compared, without the head.
        rows = HfCachedDecoding(self._body, self._accepted, lambda hidden: hidden, len(tokens))
        rows.prefill(tokens[:8], [5, 3])
        if not isinstance(rows.cache, Cache):
            return False
        rows.keep(torch.tensor([1], device=self.device))
        both, alone = rows.step(tokens[8:])[0].float(), self._states(tokens[5:][None], None)[0, -1].float()
        tolerance = 1e-3 if self.dtype is torch.float32 else 3e-2
        return torch.allclose(both, alone, rtol=tolerance, atol=tolerance * float(alone.abs().max()))

    def compiled_step(self, rows: int) -> CompiledStep | None:
        """None: transformers computes this model."""
        return None

    def row_bytes(self, capacity: int) -> int:
        """The estimated size of one row's cache in bytes, if keys and values are each two hidden states wide."""
        return 4 * self.spec.num_layers * self.spec.hidden_size * capacity * self.dtype.itemsize

    def recompute(self, how: Recomputation | None) -> None:
        """Use transformers' gradient checkpointing, or keep the activations of all layers (None)."""
        if how is None:
            self._recomputing = []
            return
        with warnings.catch_warnings():
            # Every version of transformers 5 has this name; the newest calls it deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            self._module.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": how.contexts}
            )
        self._recomputing = [part for part in self._original_modules if getattr(part, "gradient_checkpointing", False)]
        self.train(self.training)

    def set_embeddings(self, embedding: nn.Module, head: nn.Module, vocab_size: int) -> None:
        """Accept only the model's own modules.

        Raises:
            AdapterError: other modules are given.
        """
        if embedding is not self.embedding or head is not self.lm_head:
            raise AdapterError(
                f"the vocabulary cannot be changed over a model that transformers computes (backend hf); it has "
                f"{self.spec.vocab_size} tokens"
            )

    def train(self, mode: bool = True) -> HfModel:
        """Set the mode of the adapters. transformers' own modules are always in evaluation mode."""
        self.training = mode
        self._module.train(mode)
        for part in self._original_modules:
            part.training = False
        for part in self._recomputing:
            part.training = mode
        return self

    def eval(self) -> HfModel:
        """Equal to `train(False)`."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> HfModel:
        """Give gradients to every parameter, or to none."""
        self._module.requires_grad_(requires_grad)
        return self

    def modules(self) -> Iterator[nn.Module]:
        """All modules."""
        return cast("Iterator[nn.Module]", self._module.modules())

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """All modules by transformers' paths."""
        return cast("Iterator[tuple[str, nn.Module]]", self._module.named_modules())

    def get_submodule(self, target: str) -> nn.Module:
        """The module at a path."""
        return cast(nn.Module, self._module.get_submodule(target))

    def linear_paths(self) -> list[str]:
        """Paths of the linear layers that can carry an adapter."""
        return [linear.path for linear in self.spec.adaptable]


def _parameter_names(forward: Callable[..., Any]) -> frozenset[str]:
    """Names of the arguments that a body accepts. A body that takes any keyword also knows `use_cache`."""
    parameters = inspect.signature(forward).parameters
    named = frozenset(parameters)
    anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return named | {"use_cache"} if anything else named


def _places(lengths: Sequence[int], shared: int, device: torch.device) -> list[Tensor]:
    """Indices of each document's tokens, with the shared ones in front."""
    ends = torch.tensor(lengths).cumsum(0).add(shared).tolist()
    front = torch.arange(shared, device=device)
    own = [torch.arange(end - length, end, device=device) for length, end in zip(lengths, ends, strict=True)]
    return [torch.cat((front, place)) for place in own] if shared else own


class _Logits(nn.Module):
    """Hidden states to logits, by the class's own forward.

    The forward runs in a shallow copy of the outermost module. In the copy a `_FixedOutput` replaces the body and
    returns the given states. All other modules, the head among them, are the original objects.
    """

    def __init__(self, module: Any, spec: HfSpec, output_type: type[Any]):
        super().__init__()
        # In a tuple, so that the model is not a submodule of this one.
        self._whole = (module,)
        self._spec, self._output_type = spec, output_type

    def forward(self, hidden: Tensor) -> Tensor:
        """`[rows, dim]` to `[rows, vocab_size]`."""
        (whole,) = self._whole
        body = whole.get_submodule(self._spec.base)
        given = _FixedOutput(body, self._output_type(last_hidden_state=hidden[None]))
        shell = _with_module(whole, self._spec.base.split("."), given)
        tokens = torch.zeros((1, len(hidden)), dtype=torch.int64, device=hidden.device)
        return cast(Tensor, shell(input_ids=tokens, return_dict=True).logits[0])


def _with_module(module: Any, path: Sequence[str], part: nn.Module) -> Any:
    """A shallow copy of a module with `part` at a path. Modules off that path are shared with the original."""
    if not path:
        return part
    changed = copy.copy(module)
    changed._modules = {**module._modules, path[0]: _with_module(module._modules[path[0]], path[1:], part)}
    return changed


class _FixedOutput(nn.Module):
    """Replaces a body and returns the hidden states given at construction. A class may read other attributes of its
    body, such as Falcon-H1's scale of the logits; these are the body's own."""

    def __init__(self, body: Any, given: Any):
        super().__init__()
        # In a tuple, so that the body is not a submodule of this one.
        self._body = (body,)
        self._given = given

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body[0], name)

    def forward(self, *_: Any, **rest: Any) -> Any:
        """The given output, for any arguments."""
        return self._given
