"""A step of a decoder as a program for the compiled library, made from the operations of the decoder's modules.

A step computes tokens of any sequences, each a row: next tokens, and tokens of prompts. They are multiplied in the
dtype of the model if the processor is fast at that, otherwise in float32. If pairs of bfloat16 multiply them, prompts
have a kernel of their own, since they have many rows. So the kernel of a row depends only on whether its token belongs
to a prompt. The order of its operations does not depend on other rows and adapters, and its bits depend only on its own
sequence and adapter.

A model with parts that the library does not know (experts, updates of the head, weights on another device) has no
program; its steps then go through the modules themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from veneer.model.attention import TextLengths
from veneer.model.layers import (
    DecoderLayer,
    Mlp,
    ParallelLayer,
    PerHeadNorm,
    PostNormLayer,
    PreNormLayer,
    SandwichLayer,
    SelfAttention,
)
from veneer.model.leaves import NormModule, RmsNorm, WideNorm
from veneer.model.rope import Angles
from veneer.model.shape import Activation, DecoderSpec, RopeLayout
from veneer.native.factors import Site
from veneer.native.functions import KernelProducts, Kernels
from veneer.native.library import kernels
from veneer.native.program import CacheBlocks, Gate, NormKind, Pairs, Program, Segment, Slot
from veneer.native.stored import HoldsStored, StoredLinear

CACHE_DTYPES = (torch.float32, torch.bfloat16)
GATES = {Activation.SILU: Gate.SILU, Activation.GELU_TANH: Gate.GELU_TANH}
ROPE_PAIRS = {RopeLayout.HALVES: Pairs.HALVES, RopeLayout.NEIGHBOURS: Pairs.NEIGHBOURS}
ANGLE_CHUNK = 256
"""The number of positions whose angles are computed together, in fixed blocks, so that an angle's bits never change."""


class Body(Protocol):
    """The decoder without its head (`veneer.model.decoder.Decoder`)."""

    layers: nn.ModuleList
    norm: NormModule

    def embedded(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """What the first layer reads, `[tokens, dim]` in `dtype`."""
        ...

    def angles(self, positions: Tensor, attention: TextLengths) -> list[Angles | None]:
        """The angles by which each layer turns its queries and keys; None for a layer without any."""
        ...


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers whose keys and values share blocks, because they see equally far back."""

    window: int | None
    """Keys that a token sees, its own included; None is all."""
    layers: tuple[int, ...]

    def block_shape(self, spec: DecoderSpec, tokens: int) -> tuple[int, ...]:
        """`[layers, 2 (keys, values), kv_heads, tokens, head_dim]`, see `CacheBlocks.block_tokens`."""
        return len(self.layers), 2, spec.num_kv_heads, tokens, spec.head_dim


def layer_groups(spec: DecoderSpec) -> tuple[LayerGroup, ...]:
    """The layers of a model by their windows."""
    windows = dict.fromkeys(layer.attention_spec.window for layer in spec.layers)
    return tuple(
        LayerGroup(window, tuple(n for n, layer in enumerate(spec.layers) if layer.attention_spec.window == window))
        for window in windows
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsOfStep:
    """The tokens of a step, one per row; the fields about rows have a number for each of them."""

    tokens: Sequence[int]
    positions: Sequence[int]
    """Keys and values of all earlier positions are in the cache, or come with this step."""
    lengths: Sequence[int]
    """The length of the whole text of each row's sequence so far. LongRoPE needs it."""
    blocks: CacheBlocks
    segments: Sequence[Segment]
    """The rows under adapters, in order."""
    wanted: Sequence[int]
    """The rows whose logits are wanted."""
    first_prompt: int
    """The rows from there on are tokens of prompts, those before it next tokens."""


class CompiledStep:
    """A step of one model; the model's weights must neither change nor move while this is in use.

    Args:
        native: the compiled library.
        program: computes the head's inputs from the embeddings.
        body: the model's decoder without its head.
        spec: the model's specification.
        dtype: the dtype of the model's embedding, and of the cache.
        x: the program's slot of the embeddings.
        normed: the program's slot of the head's inputs.
        head: the model's head.
        finish: computes logits from the head's products.
    """

    def __init__(
        self,
        native: Kernels,
        program: Program,
        body: Body,
        spec: DecoderSpec,
        dtype: torch.dtype,
        x: Slot,
        normed: Slot,
        head: StoredLinear,
        finish: Callable[[Tensor], Tensor],
    ):
        self._native, self._program, self._body, self.dtype = native, program, body, dtype
        self._x, self._normed, self._head, self._finish = x, normed, head, finish
        self.spec = spec
        self._layer_of = [next(n for n, layer in enumerate(spec.layers) if layer.rope == rope) for rope in spec.ropes]
        self._angles: list[tuple[Tensor, Tensor]] = []

    @property
    def products(self) -> KernelProducts:
        """The kind of products that multiply the rows.

        With `KernelProducts.PAIRS` a token has other bits in a prompt than as a next token.
        """
        return self._native.step_products(self.dtype)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The linear layers that adapters may update, in the order of their factors."""
        return tuple(self._program.sites)

    @torch.no_grad()
    def run(self, step: RowsOfStep) -> Tensor:
        """The logits of the wanted rows, float32 `[wanted, vocab_size]`; all rows' keys and values are cached."""
        rows = len(step.tokens)
        self._program.view(self._x, rows).copy_(self._body.embedded(torch.tensor(step.tokens), self.dtype))
        # Angles that depend on the text's length are computed for each row; others are in a table by position.
        by_row = self.spec.by_length
        angles = (
            self._turned(torch.tensor(step.positions), torch.tensor(step.lengths))
            if by_row
            else self._table(max(step.positions))
        )
        self._program.run(
            self._native,
            blocks=step.blocks,
            seen=[place + 1 for place in step.positions],
            angles=angles,
            segments=step.segments,
            places=None if by_row else step.positions,
            products=self.products,
            first_prompt=step.first_prompt,
        )
        hidden = self._program.view(self._normed, rows)
        if list(step.wanted) != list(range(rows)):
            hidden = hidden.index_select(0, torch.tensor(step.wanted, dtype=torch.int64))
        return self._finish(self._native.rows_product(hidden, self._head.weight, self._head.bias, self.products))

    def likeliest(self, logits: Tensor, rows: Sequence[int]) -> list[int]:
        """The first token with the largest logit, of each of some rows of logits `[.., vocab_size]`."""
        return self._native.likeliest(logits, rows)

    def _table(self, most: int) -> list[tuple[Tensor, Tensor]]:
        """Cosines and sines by number, float32 `[positions, turned / 2]`, of all positions up to `most`."""
        known = len(self._angles[0][0]) if self._angles else 0
        while self._layer_of and known <= most:
            chunk = torch.arange(known, known + ANGLE_CHUNK)
            more = self._turned(chunk, chunk)
            if known:
                pairs = zip(self._angles, more, strict=True)
                more = [(torch.cat((old[0], new[0])), torch.cat((old[1], new[1]))) for old, new in pairs]
            self._angles = more
            known += ANGLE_CHUNK
        return self._angles

    def _turned(self, positions: Tensor, lengths: Tensor) -> list[tuple[Tensor, Tensor]]:
        turned = self._body.angles(positions, _Lengths(lengths))
        return [_read(turned[layer]) for layer in self._layer_of]


@dataclass(frozen=True, slots=True)
class _Lengths:
    """The rows' texts according to an attention layout."""

    lengths: Tensor

    def text_lengths(self) -> Tensor:
        return self.lengths


def compile_step(
    body: Body,
    head: nn.Module,
    spec: DecoderSpec,
    dtype: torch.dtype,
    rows: int,
    finish: Callable[[Tensor], Tensor],
) -> CompiledStep | None:
    """The step of a model for at most `rows` rows; None if the library does not know one of its modules."""
    native, stored_head = kernels(), _stored_or_none(head)
    if native is None or stored_head is None or stored_head.update is not None or dtype not in CACHE_DTYPES:
        return None
    program = Program(rows)
    x = program.slot(spec.hidden_size)
    layout = _Layout(program, spec, x)
    try:
        for number, layer in enumerate(body.layers):
            layout.layer(layer, f"model.layers.{number}")
        layout.norm(body.norm, x, layout.normed)
    except _Unknown:
        return None
    return CompiledStep(native, program, body, spec, dtype, x, layout.normed, stored_head, finish)


class _Unknown(Exception):
    """A module that the library has no operation for."""


class _Layout:
    """Lays out the operations of layers; one layer's slots are the next one's too."""

    def __init__(self, program: Program, spec: DecoderSpec, x: Slot):
        self._program, self._spec, self._x = program, spec, x
        groups = layer_groups(spec)
        self._places = {
            layer: (place, number) for place, group in enumerate(groups) for number, layer in enumerate(group.layers)
        }
        inner, inner_kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        self.normed = program.slot(spec.hidden_size)
        self._qkv = program.slot(inner + 2 * inner_kv)
        self._mixed = program.slot(inner)
        self._attended, self._fed = program.slot(spec.hidden_size), program.slot(spec.hidden_size)
        self._gate_up = program.slot(2 * spec.intermediate_size)
        self._gated = program.slot(spec.intermediate_size)

    def layer(self, layer: nn.Module, path: str) -> None:
        """Add all operations of the layer at a path to the program.

        Raises:
            _Unknown: the library has no operation for a module of it.
        """
        x, normed, scale = self._x, self.normed, self._spec.residual_scale
        if type(layer) is PreNormLayer:
            self.norm(layer.input_layernorm, x, normed)
            self._attention(layer, normed, path)
            self.norm(layer.post_attention_layernorm, x, normed, added=(self._attended, scale))
            self._feed_forward(layer, normed, path)
        elif type(layer) is SandwichLayer:
            self.norm(layer.input_layernorm, x, normed)
            self._attention(layer, normed, path)
            self.norm(layer.post_attention_layernorm, self._attended, self._attended)
            self.norm(layer.pre_feedforward_layernorm, x, normed, added=(self._attended, scale))
            self._feed_forward(layer, normed, path)
            self.norm(layer.post_feedforward_layernorm, self._fed, self._fed)
        elif type(layer) is PostNormLayer:
            self._attention(layer, x, path)
            self.norm(layer.post_attention_layernorm, self._attended, self._attended)
            self._program.add(x, self._attended, scale)
            self._feed_forward(layer, x, path)
            self.norm(layer.post_feedforward_layernorm, self._fed, self._fed)
        elif type(layer) is ParallelLayer:
            self.norm(layer.input_layernorm, x, normed)
            self._attention(layer, normed, path)
            self._feed_forward(layer, normed, path)
            self._program.add(x, self._attended, scale)
        else:
            raise _Unknown
        self._program.add(x, self._fed, scale)

    def norm(
        self, module: nn.Module, source: Slot, to: Slot, *, heads: int = 1, added: tuple[Slot, float] | None = None
    ) -> None:
        """One norm, over each of `heads` parts of a row apart. Raises _Unknown."""
        if isinstance(module, PerHeadNorm):
            parts = [norm for norm in module.norms if type(norm) is WideNorm]
            if len(parts) != heads or any(norm.bias is not None or not norm.centred for norm in parts):
                raise _Unknown
            weight = torch.cat([norm.weight.detach().float() + norm.offset for norm in parts])
            kind = NormKind.CENTRED | NormKind.BY_HEAD
            self._program.norm(source, to, weight, None, parts[0].eps, kind, heads)
        elif type(module) is RmsNorm:
            self._program.norm(source, to, module.weight, None, module.eps, _by_head(module), heads, added)
        elif type(module) is WideNorm:
            kind = _by_head(module) | (NormKind.CENTRED if module.centred else NormKind.PLAIN)
            weight = module.weight.detach().float() + module.offset
            self._program.norm(source, to, weight, module.bias, module.eps, kind, heads, added)
        else:
            raise _Unknown

    def _linear(self, source: Slot, layers: Sequence[tuple[str, nn.Module, Slot]]) -> None:
        """The outputs of layers that read the same input, with the additions of adapters. Raises _Unknown."""
        self._program.adapted(source, [(path, _stored(module), to) for path, module, to in layers])

    def _attention(self, layer: DecoderLayer, source: Slot, path: str) -> None:
        module, spec, program = layer.self_attn, self._spec, self._program
        if type(module) is not SelfAttention:
            raise _Unknown
        inner, inner_kv = module.widths
        queries, keys = self._qkv.part(0, inner), self._qkv.part(inner, inner_kv)
        values = self._qkv.part(inner + inner_kv, inner_kv)
        own = f"{path}.self_attn"
        if module.fused:
            self._linear(source, [(f"{own}.qkv_proj", module.qkv_proj, self._qkv)])
        else:
            slots = {"q_proj": queries, "k_proj": keys, "v_proj": values}
            self._linear(source, [(f"{own}.{name}", module.get_submodule(name), to) for name, to in slots.items()])
        for slot, heads, name in zip((queries, keys), (spec.num_heads, spec.num_kv_heads), module.norms, strict=True):
            if module.normed:
                self.norm(module.get_submodule(name), slot, slot, heads=heads if module.norms_by_head else 1)
        rope, attention = spec.layers[module.layer].rope, spec.layers[module.layer].attention_spec
        if rope is not None:
            number, turned = spec.ropes.index(rope), rope.turned(spec.head_dim)
            for slot in (queries, keys):
                program.rotate(slot, spec.head_dim, turned, number, ROPE_PAIRS[rope.layout])
        program.attend(
            *self._places[module.layer], queries, keys, values, self._mixed, spec.head_dim,
            scale=attention.of(spec.head_dim), window=attention.window, softcap=attention.softcap, sinks=module.sinks,
        )  # fmt: skip
        self._linear(self._mixed, [(f"{own}.o_proj", module.o_proj, self._attended)])

    def _feed_forward(self, layer: DecoderLayer, source: Slot, path: str) -> None:
        module, inner = layer.mlp, self._spec.intermediate_size
        if type(module) is not Mlp:
            raise _Unknown
        gate, up = self._gate_up.part(0, inner), self._gate_up.part(inner, inner)
        own = f"{path}.mlp"
        if module.fused:
            self._linear(source, [(f"{own}.gate_up_proj", module.gate_up_proj, self._gate_up)])
        else:
            layers = (f"{own}.gate_proj", module.gate_proj, gate), (f"{own}.up_proj", module.up_proj, up)
            self._linear(source, layers)
        self._program.gate(gate, up, self._gated, GATES[self._spec.activation])
        self._linear(self._gated, [(f"{own}.down_proj", module.down_proj, self._fed)])


def _by_head(module: NormModule) -> NormKind:
    return NormKind.BY_HEAD if module.weight.dim() == 2 else NormKind.PLAIN


def _stored_or_none(module: nn.Module) -> StoredLinear | None:
    return module.stored() if isinstance(module, HoldsStored) else None


def _stored(module: nn.Module) -> StoredLinear:
    stored = _stored_or_none(module)
    if stored is None:
        raise _Unknown
    return stored


def _read(angles: Angles | None) -> tuple[Tensor, Tensor]:
    assert angles is not None
    return angles.cosine.contiguous(), angles.sine.contiguous()
