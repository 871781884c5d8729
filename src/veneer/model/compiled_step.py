"""A decoder's decoding step, laid out for the compiled library: which operations a layer is, read off its modules.

What the library does not know (experts, DoRA, several adapters at once, weights on another device) leaves a model
without a program; its steps then go through the modules themselves.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from veneer.model.attention import Attention
from veneer.model.cache import KVCache
from veneer.model.layers import (
    DecoderLayer,
    Mlp,
    ParallelLayer,
    PerHeadNorm,
    PostNormLayer,
    SandwichLayer,
    SelfAttention,
)
from veneer.model.leaves import RmsNorm, WideNorm
from veneer.model.rope import Angles
from veneer.model.shape import Activation, DecoderSpec, RopeLayout
from veneer.native.functions import Kernels
from veneer.native.library import kernels
from veneer.native.program import Gate, NormKind, Pairs, Program, Slot
from veneer.native.stored import StoredLayer, StoredLinear

CACHE_DTYPES = (torch.float32, torch.bfloat16)
GATES = {Activation.SILU: Gate.SILU, Activation.GELU_TANH: Gate.GELU_TANH}
PAIRS = {RopeLayout.HALVES: Pairs.HALVES, RopeLayout.NEIGHBOURS: Pairs.NEIGHBOURS}


class Body(Protocol):
    """The decoder without its head (`veneer.model.decoder.Decoder`)."""

    layers: nn.ModuleList
    norm: RmsNorm

    def embedded(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        """What the first layer reads, `[tokens, dim]` in `dtype`."""
        ...

    def angles(self, positions: Tensor, attention: Attention) -> list[Angles | None]:
        """By what each layer turns its queries and keys."""
        ...


class CompiledStep:
    """A decoding step of one model; the model's weights must neither change nor move while this is in use.

    Args:
        native: the compiled library.
        program: leaves the head's products in `scores`, from what stands in `x`.
        body: of the model.
        spec: of the model.
        dtype: of the model's embedding.
        head: of the model.
    """

    def __init__(
        self,
        native: Kernels,
        program: Program,
        body: Body,
        spec: DecoderSpec,
        dtype: torch.dtype,
        x: Slot,
        scores: Slot,
        head: StoredLinear,
    ):
        self._native, self._program, self._body, self._dtype = native, program, body, dtype
        self._x, self._scores, self._head = x, scores, head
        self._layer_of = [next(n for n, one in enumerate(spec.layers) if one.rope == rope) for rope in spec.ropes]

    def run(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """The head's products for one more token a row, float32 `[rows, vocab_size]`: memory that the next run
        overwrites. `tokens` is int64 `[rows]`; the cache advances."""
        rows, positions = len(tokens), cache.lengths
        self._program.view(self._x, rows).copy_(self._body.embedded(tokens, self._dtype))
        turned = self._body.angles(positions, cache.step())
        angles = [_read(turned[layer]) for layer in self._layer_of]
        self._program.run(self._native, rows, cache.keys, cache.values, cache.lengths, angles)
        return self._program.view(self._scores, rows)

    def head(self, hidden: Tensor) -> Tensor:
        """The head's products for hidden states `[rows, dim]`, float32 `[rows, vocab_size]`."""
        return self._native.rows_product(hidden.float().contiguous(), self._head.weight, self._head.bias)


def compile_step(body: Body, head: nn.Module, spec: DecoderSpec, dtype: torch.dtype, rows: int) -> CompiledStep | None:
    """The step of a model for at most `rows` rows; None where the library does not know one of its modules."""
    native, stored_head = kernels(), _stored_or_none(head)
    if native is None or stored_head is None or stored_head.update is not None or dtype not in CACHE_DTYPES:
        return None
    program = Program(rows)
    x, scores = program.slot(spec.hidden_size), program.slot(spec.vocab_size)
    layout = _Layout(program, spec, x)
    try:
        for layer in body.layers:
            layout.layer(layer)
        layout.norm(body.norm, x, layout.normed)
    except _Unknown:
        return None
    program.linear(layout.normed, [(stored_head, scores)])
    return CompiledStep(native, program, body, spec, dtype, x, scores, stored_head)


class _Unknown(Exception):
    """A module that the library has no operation for."""


class _Layout:
    """Lays out the operations of layers; one layer's slots are the next one's too."""

    def __init__(self, program: Program, spec: DecoderSpec, x: Slot):
        self._program, self._spec, self._x = program, spec, x
        inner, inner_kv = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        self.normed = program.slot(spec.hidden_size)
        self._qkv = program.slot(inner + 2 * inner_kv)
        self._mixed = program.slot(inner)
        self._attended, self._fed = program.slot(spec.hidden_size), program.slot(spec.hidden_size)
        self._gate_up = program.slot(2 * spec.intermediate_size)
        self._gated = program.slot(spec.intermediate_size)

    def layer(self, layer: nn.Module) -> None:
        """All of one layer. Raises _Unknown."""
        x, normed, scale = self._x, self.normed, self._spec.residual_scale
        if type(layer) is DecoderLayer:
            self.norm(layer.input_layernorm, x, normed)
            self._attention(layer, normed)
            self.norm(layer.post_attention_layernorm, x, normed, added=(self._attended, scale))
            self._feed_forward(layer, normed)
        elif type(layer) is SandwichLayer:
            self.norm(layer.input_layernorm, x, normed)
            self._attention(layer, normed)
            self.norm(layer.post_attention_layernorm, self._attended, self._attended)
            self.norm(layer.pre_feedforward_layernorm, x, normed, added=(self._attended, scale))
            self._feed_forward(layer, normed)
            self.norm(layer.post_feedforward_layernorm, self._fed, self._fed)
        elif type(layer) is PostNormLayer:
            self._attention(layer, x)
            self.norm(layer.post_attention_layernorm, self._attended, self._attended)
            self._program.add(x, self._attended, scale)
            self._feed_forward(layer, x)
            self.norm(layer.post_feedforward_layernorm, self._fed, self._fed)
        elif type(layer) is ParallelLayer:
            self.norm(layer.input_layernorm, x, normed)
            self._attention(layer, normed)
            self._feed_forward(layer, normed)
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

    def _attention(self, layer: DecoderLayer, source: Slot) -> None:
        module, spec, program = layer.self_attn, self._spec, self._program
        if type(module) is not SelfAttention:
            raise _Unknown
        inner, inner_kv = module.widths
        queries, keys = self._qkv.part(0, inner), self._qkv.part(inner, inner_kv)
        values = self._qkv.part(inner + inner_kv, inner_kv)
        if module.fused:
            program.linear(source, [(_stored(module.qkv_proj), self._qkv)])
        else:
            layers = (module.q_proj, queries), (module.k_proj, keys), (module.v_proj, values)
            program.linear(source, [(_stored(one), to) for one, to in layers])
        for slot, heads, name in zip((queries, keys), (spec.num_heads, spec.num_kv_heads), module.norms, strict=True):
            if module.normed:
                self.norm(module.get_submodule(name), slot, slot, heads=heads if module.norms_by_head else 1)
        one, how = spec.layers[module.layer], spec.layers[module.layer].attention_spec
        if one.rope is not None:
            number, turned = spec.ropes.index(one.rope), one.rope.turned(spec.head_dim)
            for slot in (queries, keys):
                program.rotate(slot, spec.head_dim, turned, number, PAIRS[one.rope.layout])
        program.attend(
            module.layer, queries, keys, values, self._mixed, spec.head_dim,
            scale=how.of(spec.head_dim), window=how.window, softcap=how.softcap, sinks=module.sinks,
        )  # fmt: skip
        program.linear(self._mixed, [(_stored(module.o_proj), self._attended)])

    def _feed_forward(self, layer: DecoderLayer, source: Slot) -> None:
        module, inner = layer.mlp, self._spec.intermediate_size
        if type(module) is not Mlp:
            raise _Unknown
        gate, up = self._gate_up.part(0, inner), self._gate_up.part(inner, inner)
        if module.fused:
            self._program.linear(source, [(_stored(module.gate_up_proj), self._gate_up)])
        else:
            layers = (module.gate_proj, gate), (module.up_proj, up)
            self._program.linear(source, [(_stored(one), to) for one, to in layers])
        self._program.gate(gate, up, self._gated, GATES[self._spec.activation])
        self._program.linear(self._gated, [(_stored(module.down_proj), self._fed)])


def _by_head(module: RmsNorm) -> NormKind:
    return NormKind.BY_HEAD if module.weight.dim() == 2 else NormKind.PLAIN


def _stored_or_none(module: nn.Module) -> StoredLinear | None:
    return module.stored() if isinstance(module, StoredLayer) else None


def _stored(module: nn.Module) -> StoredLinear:
    found = _stored_or_none(module)
    if found is None:
        raise _Unknown
    return found


def _read(angles: Angles | None) -> tuple[Tensor, Tensor]:
    assert angles is not None
    return angles.cosine.contiguous(), angles.sine.contiguous()
