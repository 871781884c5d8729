"""A causal language model of transformers behind the face of veneer's own (`veneer.model.language.LanguageModel`).

The architecture's class computes; its linear layers and its head are veneer's (dense or quantised base linears), under
transformers' paths, so that adapters stand on them as on the own decoder and PEFT knows their names.

Documents of similar length are padded behind their ends into one batch, which the causal mask makes exact: no token
sees what stands behind it. Scores are made by the class's own forward, over hidden states that are given, so that what
it does beside the product (a scale, a soft cap, a bias) is in the loss; where it does nothing beside, the head's weight
is handed out and the loss never holds all scores.

The base computes as in evaluation, in training too: nothing of it is dropped or jittered at random, since it is frozen
and a step must be repeatable.
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
from veneer.model.decoder import plain_weight
from veneer.model.hf_decoding import Anew, Cached, called
from veneer.model.hf_skeleton import HfSpec, Skeleton
from veneer.model.language import Decoding
from veneer.model.leaves import DenseLinear
from veneer.model.recompute import Recomputation

PROBE_ROWS = 4
PROBE_SCALE = 30.0
"""Of the hidden states with which the head is asked what it does: wide enough that a soft cap shows."""


class HfWeights(Protocol):
    """Makes the leaves of a skeleton; called once for every path."""

    def linear(self, path: str, in_features: int, out_features: int, *, bias: bool) -> nn.Module:
        """A base linear for `{path}.weight`, whatever way round it is stored, and `{path}.bias`."""
        ...

    def parameter(self, path: str, shape: tuple[int, ...]) -> nn.Parameter:
        """A tensor of its own under its full name."""
        ...

    def buffer(self, path: str) -> Tensor | None:
        """A buffer that is stored, in the dtype that it is stored in, or None where it is not."""
        ...


def build(bones: Skeleton, weights: HfWeights, dtype: torch.dtype, device: torch.device) -> HfModel:
    """Fill a skeleton, leaf by leaf; it becomes the model. Ask it (`HfModel.check`) before it is believed.

    Args:
        bones: changed in place.
        weights: makes the leaves.
        dtype: of activations and products.
        device: where the buffers go that the class has computed.
    """
    module, spec = bones.module, bones.spec
    made: dict[int, nn.Parameter] = {}
    lines = {line.path: line for line in spec.linears}
    for path, part in list(module.named_modules()):
        if path in lines:
            line = lines[path]
            _put(module, path, weights.linear(path, line.inputs, line.outputs, bias=line.bias))
            continue
        for name, parameter in list(part.named_parameters(recurse=False)):
            # A tied weight is met twice and is one.
            if id(parameter) not in made:
                made[id(parameter)] = weights.parameter(_joined(path, name), tuple(parameter.shape))
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
    """The model.

    Args:
        module: of transformers, its linear layers replaced.
        spec: what is known about it.
        dtype: of activations and products.
        device: where the model computes.
    """

    def __init__(self, module: Any, spec: HfSpec, dtype: torch.dtype, device: torch.device):
        self.spec, self.dtype, self.device = spec, dtype, device
        self.training = False
        self._module = module
        self._base = module.get_submodule(spec.base)
        self._takes = _taken(self._base.forward)
        self._uncached = {"use_cache": False} if "use_cache" in self._takes else {}
        self._theirs = list(module.modules())
        self._recomputing: list[Any] = []

    @property
    def flat(self) -> bool:
        """False; see `LanguageModel`."""
        return False

    @property
    def fan_in_fan_out(self) -> bool:
        """Whether any linear layer is transformers' Conv1D."""
        return any(line.transposed for line in self.spec.linears)

    @property
    def embedding(self) -> nn.Module:
        """The token embedding."""
        return cast(nn.Module, self._module.get_input_embeddings())

    @property
    def lm_head(self) -> nn.Module:
        """The head where it is a product with one weight, else the class's own way from hidden states to scores."""
        return self.get_submodule(self.spec.head) if self._plain else self._scores

    @property
    def head_weight(self) -> Tensor | None:
        """`[vocab_size, dim]` where the scores are the hidden states' product with it and nothing else."""
        return plain_weight(self.lm_head)

    @cached_property
    def _scores(self) -> _Scores:
        return _Scores(self._module, self.spec, self._returned)

    @cached_property
    def _plain(self) -> bool:
        """Whether the class does nothing beside the product, asked of some hidden states."""
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
        """Ask the model whether a token's state depends on earlier tokens alone.

        Raises:
            ModelError: it does not.
        """
        assert self._returned is not None
        return self

    @cached_property
    def _returned(self) -> type[Any]:
        """What its body returns, asked together with whether it is causal."""
        texts = torch.tensor([[1, 2, 3, 4], [1, 2, 4, 3]], device=self.device).remainder_(self.spec.vocab_size)
        with torch.no_grad():
            found = called(self._base, {"input_ids": texts} | self._uncached)
        states = found.last_hidden_state[:, :2].float()
        if not torch.allclose(states[0], states[1], rtol=1e-2, atol=1e-2 * float(states.abs().max())):
            raise ModelError(
                f"model_type {self.spec.model_type!r} lets tokens see later ones: it is no causal language model as "
                "its config.json sets it up (is_decoder?)"
            )
        return type(found)

    def documents(self, tokens: Tensor, positions: Tensor, lengths: Sequence[int], shared: int = 0) -> Tensor:
        """Hidden states `[tokens, dim]`; see `LanguageModel`. Positions follow from the documents."""
        places = _places(lengths, shared, tokens.device)
        found, where = [], []
        for group in similar_groups([len(place) for place in places]):
            rows = nn.utils.rnn.pad_sequence([places[number] for number in group], batch_first=True, padding_value=-1)
            real = rows >= 0
            states = self._states(tokens[rows.clamp(min=0)], None if bool(real.all()) else real.long())
            for line, number in enumerate(group):
                # What all begin with is taken from the first.
                first = shared if number else 0
                own = places[number][first:]
                found.append(states[line, first : first + len(own)])
                where.append(own)
        result = found[0].new_empty(len(tokens), found[0].shape[-1])
        return result.index_copy(0, torch.cat(where), torch.cat(found))

    def _states(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Hidden states `[rows, length, dim]` of a batch without a cache."""
        arguments: dict[str, Any] = {"input_ids": tokens} | self._uncached
        if mask is not None and "attention_mask" in self._takes:
            arguments["attention_mask"] = mask
        return cast(Tensor, called(self._base, arguments).last_hidden_state)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, `[rows, dim]` to `[rows, vocab_size]`."""
        return cast(Tensor, self.lm_head(hidden))

    def decoding(self, rows: int, capacity: int) -> Decoding:
        """Room for `rows` rows; with transformers' cache where that is exact, else each step anew."""
        return Cached(self._base, self._takes) if self._caches else Anew(self.documents)

    @cached_property
    @torch.no_grad()
    def _caches(self) -> bool:
        """Whether the class takes a cache, and makes of a prompt with padding in front what it makes of it alone: some
        count positions by columns."""
        if not {"past_key_values", "attention_mask"} <= self._takes:
            return False
        tokens = torch.tensor([1, 2, 3, 4, 5, 4, 3, 2], device=self.device).remainder_(self.spec.vocab_size)
        both = Cached(self._base, self._takes).prefill(tokens, [5, 3])[1].float()
        alone = Cached(self._base, self._takes).prefill(tokens[5:], [3])[0].float()
        tolerance = 1e-3 if self.dtype is torch.float32 else 3e-2
        return torch.allclose(both, alone, rtol=tolerance, atol=tolerance * float(alone.abs().max()))

    def row_bytes(self, capacity: int) -> int:
        """An estimate: keys and values as wide as two hidden states each."""
        return 4 * self.spec.num_layers * self.spec.hidden_size * capacity * self.dtype.itemsize

    def recompute(self, how: Recomputation | None) -> None:
        """Compute layers again in backward, by transformers' own checkpoints, or keep their activations."""
        if how is None:
            self._recomputing = []
            return
        with warnings.catch_warnings():
            # The name that every version of transformers 5 has; the newest calls it deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            self._module.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": how.contexts}
            )
        self._recomputing = [part for part in self._theirs if getattr(part, "gradient_checkpointing", False)]
        self.train(self.training)

    def put_tables(self, embedding: nn.Module, head: nn.Module, vocab_size: int) -> None:
        """Keep what there is.

        Raises:
            AdapterError: others are given.
        """
        if embedding is not self.embedding or head is not self.lm_head:
            raise AdapterError(
                f"the vocabulary cannot be changed over a model that transformers computes (backend hf); it has "
                f"{self.spec.vocab_size} tokens"
            )

    def train(self, mode: bool = True) -> HfModel:
        """Let adapters know that they are trained; transformers' own modules compute as ever, but for recomputation."""
        self.training = mode
        self._module.train(mode)
        for part in self._theirs:
            part.training = False
        for part in self._recomputing:
            part.training = mode
        return self

    def eval(self) -> HfModel:
        """The same as `train(False)`."""
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
        return [line.path for line in self.spec.adaptable]


def _taken(forward: Callable[..., Any]) -> frozenset[str]:
    """What a body takes by name. Of those that take anything, all know whether to keep a cache."""
    parameters = inspect.signature(forward).parameters
    named = frozenset(parameters)
    anything = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return named | {"use_cache"} if anything else named


def _places(lengths: Sequence[int], shared: int, device: torch.device) -> list[Tensor]:
    """Where the tokens of each document lie, the shared ones included."""
    ends = torch.tensor(lengths).cumsum(0).add(shared).tolist()
    front = torch.arange(shared, device=device)
    own = [torch.arange(end - length, end, device=device) for length, end in zip(lengths, ends, strict=True)]
    return [torch.cat((front, place)) for place in own] if shared else own


class _Scores(nn.Module):
    """The class's own way from hidden states to scores.

    Its forward runs in a copy of the outermost module, whose body is a stand-in that returns the given states: all
    other modules, the head among them, are the same objects.
    """

    def __init__(self, module: Any, spec: HfSpec, returned: type[Any]):
        super().__init__()
        # In a tuple: the model is no part of this one.
        self._whole = (module,)
        self._spec, self._returned = spec, returned

    def forward(self, hidden: Tensor) -> Tensor:
        """`[rows, dim]` to `[rows, vocab_size]`."""
        given = _Given(self._returned(last_hidden_state=hidden[None]))
        shell = _with(self._whole[0], self._spec.base.split("."), given)
        tokens = torch.zeros((1, len(hidden)), dtype=torch.int64, device=hidden.device)
        return cast(Tensor, shell(input_ids=tokens, return_dict=True).logits[0])


def _with(module: Any, path: Sequence[str], part: nn.Module) -> Any:
    """A copy of a module with another part at a path; what is not on the way there is the same."""
    if not path:
        return part
    changed = copy.copy(module)
    changed._modules = {**module._modules, path[0]: _with(module._modules[path[0]], path[1:], part)}
    return changed


class _Given(nn.Module):
    """Stands in for a body: what it returns is there already."""

    def __init__(self, given: Any):
        super().__init__()
        self._given = given

    def forward(self, *_: Any, **rest: Any) -> Any:
        """That, whatever the body would be called with."""
        return self._given
