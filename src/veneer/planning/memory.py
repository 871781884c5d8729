"""Peak memory of a run, component by component.

On a CPU what counts is the resident memory of the process, as the system's out-of-memory killer counts it; on a GPU
what torch has allocated there. The sizes of tensors follow from the shapes exactly. What does not follow from them is
measured, and stands in the constants below with where it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from mmap import PAGESIZE
from pathlib import Path

from veneer.adapters.targets import HEAD, is_router
from veneer.enums import Method, Products, Variant
from veneer.losses import CHUNK_ROWS
from veneer.model.shape import DecoderSpec, Norm, Projections, QkNorm
from veneer.model.windowed import BLOCK_ROWS
from veneer.padding import PAD_TO_MULTIPLE_OF, pad_to_multiple
from veneer.planning.activations import kept_activations, largest_layer
from veneer.planning.mixture import beside_experts, block_width
from veneer.planning.optimizer import state_bytes
from veneer.planning.setup import BatchShape, Setup
from veneer.products import compiled
from veneer.quant.schemes import decode_scratch, packed_bytes

MB = 10**6
FIRST_USE = 36 * MB
"""What the process grows by on its first step, whatever the model: pages of torch's libraries that are touched for the
first time, buffers of its threads (measured with torch 2.13 on Linux)."""
FLOAT32_BUFFERS = 12 * MB
"""What the library of float32 products (MKL) keeps for itself."""
BACKWARD_IMPORTS = 37 * MB
"""What torch imports when a backward pass is started from a tensor of several elements, as recomputation does: sympy,
to compare two shapes."""
KERNEL = 600_000
"""Bytes of machine code and tables that oneDNN makes and keeps for one shape of a bfloat16 product (see `padding`)."""
KERNELS_KEPT = 1024
"""How many of those it keeps at most."""
TYPICAL_START = 265 * MB
"""Resident memory of a process that has imported what a run needs, where it cannot be asked (no /proc)."""
GPU_START = 600 * MB
"""Context of CUDA, its kernels and cuBLAS' workspace on a GPU: an estimate."""
MAPPED = 4 * MB
"""Pages of the model's file that loading may have mapped at a time (`veneer.io.gguf.reader.MAPPED_BYTES`)."""
HEAP_SHARE = {2: 0.36, 4: 0.42}
"""Holes in the heap, as a share of what a step allocates and frees, by the bytes of an activation: the most that
benchmarks/plan_grid.py met."""
HEAP_SHARE_RECOMPUTED = 0.52
"""The same with recomputation, where little is kept and most is allocated anew for every layer."""
HEAP_SHARE_FULL = 0.30
"""The same of full fine-tuning, whose gradients and optimiser stand still."""
HEAP_SHARE_FULL_RECOMPUTED, HEAP_SHARE_FULL_SUMMED = 0.48, 0.68
"""With recomputation; the second where a step has several micro-batches, whose gradients are summed."""
HEAP_SHARE_DORA = 0.3
"""The same with DoRA, which keeps one more large tensor for each layer."""
HEAP_SHARE_MIXTURE, HEAP_SHARE_MIXTURE_RECOMPUTED = 0.45, 1.3
"""The same of a mixture, whose experts have other numbers of rows in every step."""
FACTORS_SHARE = 0.2
"""Holes that the gradients of an adapter's factors leave, as a share of them: many small tensors among large ones."""
GPU_HEAP_SHARE = 0.1
"""The same of torch's allocator on a GPU: an estimate."""
QUANTISE_SCRATCH = 20 * MB
"""Working memory of the quantisation, which goes through a weight in chunks, and pages of torch that it touches."""
WIDE_ROWS = 4
"""Float32 tensors of its rows that a norm makes which is rounded once: rows, their gradients, and two products."""
SCORES_COPIES = 6
"""Float32 tensors of a block's scores in backward: scaled, capped, masked, their softmax, and gradients of these."""
ATTENTION_BLOCK = 32
"""Query rows that the attention kernel computes at a time (native/attention.h)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes by component. `peak` is the largest of the phases, not the sum of all components."""

    runtime: int
    """Interpreter, torch and what they load."""
    base: int
    """Weights as they are held: under full fine-tuning the trained ones."""
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    """Kept from forward to backward."""
    logits: int
    """Scores of a chunk of supervised tokens, and what stands beside them while the loss is formed."""
    workspace: int
    """Transient tensors of the widest layer's backward pass, decoded weights, the attention's scratch."""
    heap: int
    """What the allocator holds beyond the tensors."""
    loading: int
    """Beyond the weights, while they are read."""
    evaluation: int
    """A forward pass without gradients."""
    saving: int
    """Copies made while a checkpoint is written."""
    summing: int
    """Beside all gradients at the end of backward: those of a tied head and embedding, before they are added."""
    first_use: int
    """What of `runtime` comes with the first step."""
    forward_gradients: int
    """Those of `gradients` that stand already when activations are at their most."""

    @property
    def phases(self) -> dict[str, int]:
        """Resident bytes at the most of each phase."""
        held = self.runtime + self.base + self.adapters
        trained = held + self.optimizer
        forward = self.activations + max(self.logits, self.workspace) + self.forward_gradients
        end = self.gradients + self.summing
        return {
            "loading": held - self.first_use + self.loading,
            "training": trained + max(forward, end) + self.heap,
            "evaluation": trained + self.evaluation + self.heap,
            "saving": trained + self.saving + self.heap,
        }

    @property
    def peak(self) -> int:
        """Bytes at the most."""
        return max(self.phases.values())


def resident() -> int:
    """Bytes of this process that are in memory now."""
    try:
        fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return TYPICAL_START
    return int(fields[1]) * PAGESIZE


def base_bytes(setup: Setup) -> int:
    """Bytes of all weights as the method holds them."""
    size = 4 if setup.full else setup.dtype.itemsize
    total = setup.other_weights * size
    for linear in chain.from_iterable(layer.values() for layer in setup.linears):
        if linear.experts:
            continue
        if setup.products is Products.INT8 and not is_router(linear.path):
            total += 2 * linear.weights + 8 * (linear.inputs + linear.outputs)
        elif linear.path in setup.dense:
            total += linear.weights * size
        else:
            total += packed_bytes(linear.outputs, linear.inputs, setup.quant)
    return total


def memory(setup: Setup, cut: BatchShape, *, recompute: bool, start: int | None = None) -> Memory:
    """What a run takes at its peak.

    Args:
        setup: model and method.
        cut: the largest micro-batch.
        recompute: whether backward computes each layer again.
        start: bytes that the process takes before the model is loaded; by default as much as this one has now.
    """
    gradients = 4 * setup.trained_weights
    activations = kept_activations(setup, cut, recompute=recompute)
    workspace = _workspace(setup, cut)
    if recompute:
        workspace += largest_layer(setup, cut)
    logits = _logits(setup, cut)
    cpu = setup.device == "cpu"
    compiled_bytes = _compiled(setup, cut) + _compiled_by_document(setup, cut)
    first_use = FIRST_USE + compiled_bytes + (BACKWARD_IMPORTS if recompute else 0) if cpu else 0
    runtime = GPU_START
    if cpu:
        runtime = (resident() if start is None else start) + first_use
    return Memory(
        runtime=runtime,
        base=base_bytes(setup),
        adapters=4 * setup.adapter_weights,
        gradients=gradients,
        optimizer=state_bytes(setup),
        activations=activations,
        logits=logits,
        workspace=workspace,
        heap=_heap(setup, cut, activations + max(workspace, logits), recompute=recompute),
        loading=_loading(setup),
        evaluation=_evaluation(setup, cut),
        saving=2 * 4 * setup.head_weights if setup.full else 0,
        summing=2 * 4 * setup.head_weights if setup.full and setup.spec.tied_head else 0,
        first_use=first_use,
        forward_gradients=gradients if cut.micro_batches > 1 else 0,
    )


def _logits(setup: Setup, cut: BatchShape) -> int:
    """The loss: hidden states and the supervised ones of them, scores of a chunk.

    Under full fine-tuning also a chunk's share of the head's gradient; in bfloat16 beside it the rounded head, and that
    share once more in float32, since an addition of two dtypes converts one of them as a whole.
    """
    spec, size = setup.spec, setup.dtype.itemsize
    total = (cut.tokens + cut.supervised) * spec.hidden_size * size
    total += min(CHUNK_ROWS, cut.supervised) * spec.vocab_size * size
    if not spec.scores.plain:
        # In float32: what is scaled; where it is capped, tanh of it too.
        copies = 1 if spec.scores.softcap is None else 2
        total += copies * 4 * min(CHUNK_ROWS, cut.supervised) * spec.vocab_size
    if setup.trained_head:
        total += setup.head_weights * (4 if size == 4 else 2 * size + 4)
    if setup.scored:
        # The scores' gradient, and what they were before an update or rows of their own, stand beside them.
        copies = 3 if setup.trained_tokens or HEAD in setup.lora.trainable_tokens else 2
        total += copies * min(CHUNK_ROWS, cut.supervised) * spec.vocab_size * size
        if HEAD in setup.updated and setup.lora.variant is Variant.DORA:
            total += 2 * 4 * setup.head_weights
    return total


def _workspace(setup: Setup, cut: BatchShape) -> int:
    """The most that backward holds for a moment, in the feed-forward block or in attention.

    Feed-forward: three tensors as wide as the block (the gradients of gate, up and their product), or two beside a
    decoded weight; and those of the residual stream. Attention: its float32 scratch [2, tokens, heads, dim] with the
    gradients of q, k and v; by then gate and up of this layer are no longer kept.
    """
    spec, size, tokens = setup.spec, setup.dtype.itemsize, cut.tokens
    wide, inner = tokens * spec.hidden_size * size, tokens * block_width(spec) * size
    queries, keys = tokens * spec.num_heads * spec.head_dim, tokens * spec.num_kv_heads * spec.head_dim
    matrix = _decoded(setup)
    if setup.full:
        # A weight's gradient in the compute dtype, and as float32; the head's, scaled.
        matrix += setup.largest_matrix * ((size if size < 4 else 0) + 4) + 4 * setup.head_weights
    elif setup.lora.variant is Variant.DORA:
        matrix += 2 * 4 * setup.largest_matrix  # the weight, and with the update, when its rows are measured
    feed_forward = max(3 * inner, 2 * inner + matrix) + 3 * wide
    if setup.lora.variant is Variant.DORA and not setup.full:
        feed_forward += 2 * 4 * tokens * block_width(spec)  # a gradient and its product with the outputs, in float32
    if spec.mixture is not None:
        feed_forward = 3 * inner + matrix + 3 * wide + beside_experts(spec, tokens, size)
    if spec.projections is Projections.FUSED:
        feed_forward += 2 * inner  # the gradients of gate and up, joined
    if spec.norm is not Norm.RMS:
        feed_forward += WIDE_ROWS * 4 * tokens * spec.hidden_size
    width = -(-cut.longest // ATTENTION_BLOCK) * ATTENTION_BLOCK
    per_thread = (7 * width * spec.head_dim + 4 * ATTENTION_BLOCK * (spec.head_dim + width)) * 4
    scratch = 8 * (queries + cut.shared * cut.documents * spec.num_heads * spec.head_dim)
    attention = scratch + (2 * queries + 2 * keys) * size + 3 * wide + per_thread * setup.threads - 2 * inner
    if spec.qk_norm is not QkNorm.NONE:
        attention += WIDE_ROWS * 4 * (queries + keys)
    attention += _by_document(spec, cut, 4 * keys)
    return max(feed_forward, attention)


def _by_document(spec: DecoderSpec, cut: BatchShape, keys: int) -> int:
    """Where scores are capped, heads have sinks, or a window ends before a document does: a block's scores and what
    autograd makes of them, and sums of the keys' and values' gradients in float32."""
    seen = _longest_seen(spec, cut)
    rows = min(BLOCK_ROWS, cut.shared + cut.longest)
    return SCORES_COPIES * 4 * spec.num_heads * pad_to_multiple(rows) * pad_to_multiple(seen) + 2 * keys if seen else 0


def _longest_seen(spec: DecoderSpec, cut: BatchShape) -> int:
    """Keys of a block of queries at the most, where torch's own products make the attention; 0 where none does."""
    longest = cut.shared + cut.longest
    seen = [
        longest if attention_spec.window is None else min(longest, attention_spec.window + BLOCK_ROWS)
        for attention_spec in {layer.attention_spec for layer in spec.layers}
        if spec.sinks
        or attention_spec.softcap is not None
        or (attention_spec.window is not None and attention_spec.window < longest)
    ]
    return max(seen, default=0)


def _decoded(setup: Setup) -> int:
    """Bytes of the largest weight, decoded for a product, and of its scales."""
    if setup.products is Products.INT8:
        return 0
    return setup.largest_packed * setup.dtype.itemsize + decode_scratch(setup.largest_packed, setup.quant, setup.device)


def _evaluation(setup: Setup, cut: BatchShape) -> int:
    """A layer's tensors without gradients, a decoded weight, and scores of a chunk."""
    spec, size = setup.spec, setup.dtype.itemsize
    by_token = 3 * (spec.hidden_size + block_width(spec)) * size
    scores = min(CHUNK_ROWS, cut.supervised) * spec.vocab_size * size
    tokens = max(cut.tokens, cut.evaluated)
    return tokens * by_token + beside_experts(spec, tokens, size) + _decoded(setup) + scores


def _compiled(setup: Setup, cut: BatchShape) -> int:
    """What libraries of products keep. oneDNN: a kernel for each shape of product and each number of tokens."""
    if setup.dtype.itemsize == 4:
        return FLOAT32_BUFFERS  # MKL compiles nothing
    if not setup.full and compiled():
        return 0
    products: set[tuple[str, int, int]] = set()
    for linear in setup.linears[0].values():
        products |= {("forward", linear.inputs, linear.outputs), ("backward", linear.outputs, linear.inputs)}
        if setup.full:
            products.add(("gradient", linear.outputs, linear.inputs))
        if linear.rank:
            products |= {("x A", linear.inputs, linear.rank), ("B", linear.rank, linear.outputs)}
            products |= {("dy B", linear.outputs, linear.rank), ("A", linear.rank, linear.inputs)}
            products |= {("dA", linear.rank, linear.inputs), ("dB", linear.outputs, linear.rank)}
    chunks = 3 * min(8, cut.shapes)
    # Of a mixture every expert has a number of rows of its own.
    shapes = cut.shapes if setup.spec.mixture is None else max(cut.shapes, cut.tokens // PAD_TO_MULTIPLE_OF)
    return KERNEL * min(KERNELS_KEPT, shapes * len(products) + chunks)


def _compiled_by_document(setup: Setup, cut: BatchShape) -> int:
    """The same for attention in torch's own products: six of them, which meet about half the numbers of queries and of
    keys that a block can have (`veneer.model.windowed`)."""
    seen = _longest_seen(setup.spec, cut)
    if setup.dtype.itemsize == 4 or not seen:
        return 0
    rows = min(BLOCK_ROWS, cut.shared + cut.longest)
    return KERNEL * 3 * (pad_to_multiple(rows) + pad_to_multiple(seen)) // PAD_TO_MULTIPLE_OF


def _loading(setup: Setup) -> int:
    """Mapped pages of the file, the largest tensor beside its packed form, and the packing's own memory."""
    whole = setup.linear_weights + setup.other_weights
    mapped = (
        min(MAPPED + setup.file_bytes * setup.head_weights, setup.file_bytes * whole) if setup.device == "cpu" else 0
    )
    if setup.spec.mixture is not None:
        # An expert's gate and up together, and turned, where the file holds them so.
        mapped += 4 * setup.largest_matrix * setup.dtype.itemsize
    if setup.stored:
        return mapped
    if setup.method is Method.QLORA:
        return mapped + setup.largest_matrix * (setup.dtype.itemsize + 4) + QUANTISE_SCRATCH
    return mapped


def _heap(setup: Setup, cut: BatchShape, moving: int, *, recompute: bool) -> int:
    """What the allocator holds beyond the tensors.

    glibc takes blocks of up to 32 MB from one heap once a block of that size has been freed, and what is freed in the
    middle of the heap stays resident: between the tensors that are kept for backward lie the holes of those that were
    not. A hole is filled by the next tensor that is not larger, whose rest is a smaller hole; after the rehearsal and
    two steps the heap has grown to where it stays.
    """
    if setup.device != "cpu":
        return int(moving * GPU_HEAP_SHARE)
    if setup.full:
        recomputed = HEAP_SHARE_FULL_SUMMED if cut.micro_batches > 1 else HEAP_SHARE_FULL_RECOMPUTED
        return int(moving * (recomputed if recompute else HEAP_SHARE_FULL))
    if setup.spec.mixture is not None:
        share = HEAP_SHARE_MIXTURE_RECOMPUTED if recompute else HEAP_SHARE_MIXTURE
    elif recompute:
        share = HEAP_SHARE_RECOMPUTED
    else:
        share = HEAP_SHARE_DORA if setup.lora.variant is Variant.DORA else HEAP_SHARE[setup.dtype.itemsize]
    factors = 4 * sum(linear.factors for linear in chain.from_iterable(layer.values() for layer in setup.linears))
    return int(moving * share + factors * FACTORS_SHARE)
