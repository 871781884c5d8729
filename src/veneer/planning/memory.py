"""The peak memory of a run, component by component.

On a CPU this is the resident memory of the process, as the system's out-of-memory killer counts it. On a GPU it is the
memory that torch has allocated. Sizes of tensors follow exactly from the shapes. Everything else is measured: the
constants below say where they come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

import torch

from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.enums import Method, Products, Variant
from veneer.gpu.parked import ON_CARD
from veneer.losses.scores import COMPARED_ROWS, chunk_rows
from veneer.model.shape import Norm, Projections, QkNorm
from veneer.planning.activations import (
    blocks_are_joined,
    has_kernels,
    kept_activations,
    kept_outside,
    largest_layer,
)
from veneer.planning.attention_scratch import attention_scratch, scratch_by_document
from veneer.planning.base import base_bytes
from veneer.planning.batch_shape import BatchShape
from veneer.planning.compiled_products import compiled_by_document, compiled_bytes
from veneer.planning.heap_holes import heap_holes
from veneer.planning.lanes import PART_FILE
from veneer.planning.mixture import beside_experts, block_width
from veneer.planning.optimizer import state_bytes
from veneer.planning.sampling import reference_bytes, sampling_bytes, scored_texts
from veneer.planning.setup import Setup, Teaching
from veneer.quant.schemes import decode_scratch
from veneer.widening import torch_multiplies, widened_rows

MB = 10**6
COMPARED_COPIES = 8
"""The most float32 tensors `[rows, vocab]` that a comparison with a teacher needs: 100 MB for 49,152 tokens."""
FIRST_USE = 36 * MB
"""Growth of the process in its first step, for any model: pages of torch's libraries that are first touched then, and
buffers of its threads (measured with torch 2.13 on Linux)."""
BACKWARD_IMPORTS = 37 * MB
"""Modules (sympy) that torch imports when a backward pass starts from a tensor of several elements, as recomputation
does."""
TYPICAL_START = 265 * MB
"""Resident memory of a process that has imported what a run needs, for systems without /proc."""
CUDA_LIBRARIES = 405 * MB
"""How much more memory `import torch` needs if torch is built for CUDA, with or without a card (torch 2.15 on
Linux)."""
PARTS_IMPORTS = 50 * MB
"""Modules that a run with weights in parts imports (FSDP2 and distributed checkpoints)."""
GPU_START = 600 * MB
"""Estimate of CUDA's context, its kernels and cuBLAS' workspace on a GPU."""
MAPPED = 4 * MB
"""Largest part of the model's file that loading maps at a time (`veneer.io.gguf.reader.MAPPED_BYTES`)."""
QUANTISE_SCRATCH = 20 * MB
"""Working memory of quantisation, which processes a weight in chunks, and pages of torch that it touches."""
WIDE_ROWS = 4
"""Number of float32 tensors of its rows that a `WideNorm` makes: rows, their gradients, and two products."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Memory in bytes by component. `peak` is that of the largest phase, not the sum of all components."""

    runtime: int
    """The interpreter, torch and the libraries that they load."""
    base: int
    """Weights of the base in memory; in full fine-tuning the trained weights."""
    adapters: int
    """The run's adapter, and those of its reward models."""
    teacher: int
    """A teacher that computes in the same process as the student, or its stored predictions."""
    gradients: int
    """Gradients, and their sums over lanes if there are several."""
    optimizer: int
    activations: int
    """Tensors kept from forward to backward."""
    logits: int
    """Logits of a chunk of supervised tokens, and other tensors of the loss."""
    workspace: int
    """Transient tensors of the widest layer's backward pass, decoded weights, and scratch memory of attention."""
    heap: int
    """Holes in the allocator's memory between tensors."""
    loading: int
    """Memory beyond the weights while they are read."""
    evaluation: int
    """Tensors of a forward pass without gradients."""
    saving: int
    """Copies made while a checkpoint is written."""
    summing: int
    """The two gradients of a tied head and embedding before they are added, at the end of backward."""
    teaching: int
    """A teacher that is asked before the student is loaded, with the memory that it computes in."""
    first_use: int
    """The part of `runtime` that comes with the first step."""
    forward_gradients: int
    """The part of `gradients` that exists already when activations are largest."""
    gradients_kept: int = 0
    """The part of `gradients` that keeps its place between steps, in full fine-tuning on a CPU."""
    decoded: int = 0
    """Quantised weights that are kept decoded, on a GPU that has room for them."""
    sampling: int = 0
    """Cache, workspace and scores of the answers that a step samples itself."""
    scoring: int = 0
    """Tensors of a forward pass of a reward model."""
    reference: int = 0
    """Copies of the trained weights, for a reference that the sampled answers are compared with."""
    rounded: int = 0
    """The adapter's factors in a compute dtype of 16 bits, if there is room for them."""
    gathered: int = 0
    """Weights that are gathered for computing, and gradients in transfer, if each process holds a part."""
    hosted: int = 0
    """The part of `base` that moves to the main memory once it is loaded, for a GPU that has no room for it."""
    parked: int = 0
    """The part of `activations` that is in the main memory until it is needed, for a GPU that has no room for it."""

    @property
    def phases(self) -> dict[str, int]:
        """Largest memory of each phase, in bytes."""
        loaded = self.runtime + self.base + self.adapters + self.teacher
        before = {"teaching": self.runtime + self.teacher + self.teaching} if self.teaching else {}
        trained = loaded + self.optimizer + self.decoded + self.rounded + self.reference + self.gathered - self.hosted
        between = trained + self.gradients_kept
        forward = self.activations - self.parked + max(self.logits, self.workspace) + self.forward_gradients
        end = self.gradients + self.summing
        return before | {
            "loading": loaded - self.first_use + self.loading,
            "training": trained + max(forward, end) + self.heap,
            **({"sampling": between + self.sampling + self.heap} if self.sampling else {}),
            **({"scoring": between + self.scoring + self.heap} if self.scoring else {}),
            "evaluation": between + self.evaluation + self.heap,
            "saving": between - self.gathered + self.saving + self.heap,
        }

    @property
    def peak(self) -> int:
        """Largest memory of all phases, in bytes."""
        return max(self.phases.values())


def libraries() -> int:
    """Bytes that a process with torch needs at its start beyond one whose torch is built only for CPUs."""
    return CUDA_LIBRARIES if torch.version.cuda is not None else 0


def resident() -> int:
    """The resident bytes of this process now."""
    try:
        fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return TYPICAL_START
    return int(fields[1]) * PAGESIZE


def memory(setup: Setup, batch: BatchShape, *, recompute: bool, start: int) -> Memory:
    """The memory of a run by component.

    Args:
        setup: model and method.
        batch: shape of the largest micro-batch.
        recompute: whether backward computes each layer again.
        start: resident bytes of the process before the model is loaded.
    """
    spread = setup.spread
    sums = 4 * setup.trained_weights * spread.gradient_sums
    gradients = spread.part(4 * setup.trained_weights) + sums
    activations = kept_activations(setup, batch, recompute=recompute)
    workspace = _workspace(setup, batch)
    if recompute:
        workspace += largest_layer(setup, batch)
    logits = _logits(setup, batch)
    teacher = setup.live_teacher
    if teacher is not None:
        logits = max(logits, _evaluation(teacher, batch))
    cpu = setup.device == "cpu"
    models = [setup] if teacher is None else [setup, teacher]
    machine_code = sum(compiled_bytes(model, batch) for model in models) + compiled_by_document(setup, batch)
    machine_code += sum(compiled_bytes(one, scored_texts(batch)) for one in setup.reward_models)
    first_use = FIRST_USE + machine_code + (BACKWARD_IMPORTS if recompute else 0) if cpu else 0
    runtime = GPU_START
    if cpu:
        runtime = start + first_use + (PARTS_IMPORTS if spread.in_parts else 0)
    return Memory(
        runtime=runtime,
        base=spread.part(base_bytes(setup)),
        adapters=4 * sum(one.adapter_weights for one in (setup, *setup.reward_models)),
        rounded=0 if setup.dtype.itemsize == 4 else setup.adapter_weights * setup.dtype.itemsize,
        teacher=0 if setup.teaching is None else teacher_bytes(setup.teaching),
        gradients=gradients,
        optimizer=spread.part(state_bytes(setup)),
        activations=activations,
        logits=logits,
        workspace=workspace,
        heap=heap_holes(setup, activations + max(workspace, logits), recompute=recompute),
        loading=max(map(_loading, models)) + (4 * setup.head_weights if spread.in_parts else 0),
        evaluation=max(_evaluation(model, batch) for model in models) + _compared(setup, batch),
        teaching=_teaching(setup, batch),
        saving=_saving(setup),
        summing=2 * 4 * setup.head_weights if setup.full and setup.spec.tied_head else 0,
        first_use=first_use,
        gathered=_gathered(setup),
        forward_gradients=gradients if batch.micro_batches > 1 else sums,
        gradients_kept=gradients if _keeps_gradients(setup, batch) else 0,
        sampling=sampling_bytes(setup, batch),
        scoring=max((_evaluation(one, scored_texts(batch)) for one in setup.reward_models), default=0),
        reference=reference_bytes(setup),
    )


def _keeps_gradients(setup: Setup, batch: BatchShape) -> bool:
    """Whether gradients keep their place between steps (`veneer.training.memory_use.kept_gradients`).

    If a step has a single micro-batch, its gradients appear as its activations are freed, and reserved places would
    need more memory. Several lanes and processes have buffers for all of their gradients.
    """
    alone = not (setup.spread.in_parts or setup.spread.gradient_sums)
    return setup.full and setup.device == "cpu" and batch.micro_batches > 1 and alone


def _saving(setup: Setup) -> int:
    """Copies made while a checkpoint is written: of the embedding, or of the tensors for a file of a process's part."""
    if setup.spread.in_parts:
        return 2 * max(PART_FILE, setup.spread.part(4 * setup.head_weights))
    return 2 * 4 * setup.head_weights if setup.full else 0


def _gathered(setup: Setup) -> int:
    """Bytes that a process gathers if the weights are in parts, including their gradients.

    Outside the layers these are all weights and their gradients. Two layers are gathered at a time, since the next one
    is in transfer while one is computed. In addition there are the buffer that a layer arrives in, the layer's
    gradients, and the buffer that these are sent from, which is as long as the weights outside the layers if these are
    larger.
    """
    if not setup.spread.in_parts:
        return 0
    ends, layer = 4 * setup.end_weights, 4 * setup.layer_weights
    return 2 * ends + 4 * layer + max(ends, layer)


def _logits(setup: Setup, batch: BatchShape) -> int:
    """Tensors of the loss: hidden states, those of supervised tokens among them, and logits of a chunk.

    In full fine-tuning there is also the head's gradient, and in bfloat16 a chunk's share of it and the rounded head.
    In float32 that share exists too; by measurement it fits into holes.
    """
    spec, size = setup.spec, setup.dtype.itemsize
    if setup.scores_texts:
        # Hidden states, their gradient, and those of last tokens in float32 and in a formula.
        return 2 * batch.tokens * spec.hidden_size * size + batch.documents * (spec.hidden_size * (size + 8) + 256)
    chunk = min(chunk_rows(setup.device), batch.supervised)
    total = (batch.tokens + batch.supervised) * spec.hidden_size * size
    total += chunk * spec.vocab_size * size + _widened(setup, chunk, spec.hidden_size + spec.vocab_size)
    if not spec.scores.plain:
        # Scaled logits in float32; if they are capped, their tanh too.
        copies = 1 if spec.scores.softcap is None else 2
        total += copies * 4 * chunk * spec.vocab_size
    if setup.trained_head:
        share = 4 if _widens(setup) else size
        total += setup.head_weights * (4 if size == 4 else size + share + 4)
    if setup.head_is_adapted:
        # The gradient of the logits, and the logits before an update or before trained rows.
        copies = 3 if setup.trained_tokens or HEAD in setup.lora.trainable_tokens else 2
        total += copies * chunk * spec.vocab_size * size
        if HEAD in setup.updated and setup.lora.variant is Variant.DORA:
            total += 2 * 4 * setup.head_weights
    if setup.row_losses:
        # The hidden states of supervised tokens together with their gradient, and a chunk's gradient in float32. For a
        # head that is a module also a chunk's scores in float32, and for a trained head its rounded form, made again.
        total += batch.supervised * spec.hidden_size * size
        total += 2 * 4 * chunk * spec.hidden_size
        total += 3 * 4 * chunk * spec.vocab_size * setup.head_is_adapted
        total += size * setup.head_weights * setup.trained_head
    return total + _compared(setup, batch)


def _compared(setup: Setup, batch: BatchShape) -> int:
    """Tensors of the comparison with a teacher: a chunk's predictions, and the teacher's hidden states."""
    if setup.teaching is None:
        return 0
    chunk = min(COMPARED_ROWS, batch.supervised) * setup.spec.vocab_size
    total = chunk * (4 * COMPARED_COPIES + 3 * setup.dtype.itemsize)
    if setup.live_teacher is not None:
        total += (batch.tokens + batch.supervised) * setup.live_teacher.spec.hidden_size * setup.dtype.itemsize
    return total


def teacher_bytes(teaching: Teaching) -> int:
    """Bytes that a teacher needs while its student trains: its weights, or its stored predictions."""
    if teaching.top_k is not None:
        return teaching.kept
    own = 4 * teaching.setup.adapter_weights if teaching.adapted else 0
    return own if teaching.shared else own + base_bytes(teaching.setup)


def _teaching(setup: Setup, batch: BatchShape) -> int:
    """A teacher that is asked before training: its weights, and the larger of loading it and of a forward pass."""
    if setup.teaching is None or setup.teaching.top_k is None:
        return 0
    teacher = setup.teaching.setup
    passing = _evaluation(teacher, batch) + _compared(setup, batch)
    own = base_bytes(teacher) + (4 * teacher.adapter_weights if setup.teaching.adapted else 0)
    return own + max(_loading(teacher), passing + heap_holes(teacher, passing, recompute=False))


def _workspace(setup: Setup, batch: BatchShape) -> int:
    """The largest transient memory of backward, in the feed-forward block or in attention.

    Feed-forward has three tensors as wide as the block (gradients of gate, up and their product), or two and a decoded
    weight; and those of the residual stream. Attention has its float32 scratch [2, tokens, heads, dim] and the
    gradients of q, k and v. Gate and up of this layer are no longer kept at that point.
    """
    spec, size, tokens = setup.spec, setup.dtype.itemsize, batch.tokens
    wide, inner = tokens * spec.hidden_size * size, tokens * block_width(spec) * size
    queries, keys = tokens * spec.num_heads * spec.head_dim, tokens * spec.num_kv_heads * spec.head_dim
    matrix = _decoded(setup)
    if setup.full:
        # A weight's gradient in the compute dtype, and as float32; the head's, scaled.
        matrix += setup.largest_matrix * ((size if size < 4 else 0) + 4) + 4 * setup.head_weights
    elif setup.lora.variant is Variant.DORA and not has_kernels(setup):
        # The weight, and the weight with its update, when its rows are measured; the kernel reads the weight as it is
        # stored.
        matrix += 2 * 4 * setup.largest_matrix
    feed_forward = (
        max(3 * inner, 2 * inner + matrix) + 3 * wide + _widened(setup, tokens, spec.hidden_size + block_width(spec))
    )
    if setup.lora.variant is Variant.DORA and not setup.full:
        # torch needs a gradient and its product with the outputs, in float32. The kernels need neither, but leave holes
        # of about that size (with recomputation, on Zen 4: without this the plan was 0.5 % below the peak).
        feed_forward += 2 * 4 * tokens * block_width(spec)
    if spec.mixture is not None:
        feed_forward = 3 * inner + matrix + 3 * wide + beside_experts(spec, tokens, size)
    if spec.projections is Projections.FUSED:
        feed_forward += 2 * inner  # the gradients of gate and up, joined
    if spec.norm is not Norm.RMS:
        feed_forward += WIDE_ROWS * 4 * tokens * spec.hidden_size
    attention = attention_scratch(setup, batch) + (2 * queries + 2 * keys) * size + 3 * wide - 2 * inner
    if spec.qk_norm is not QkNorm.NONE:
        attention += WIDE_ROWS * 4 * (queries + keys)
    attention += scratch_by_document(setup, batch, 4 * keys)
    if blocks_are_joined(setup, batch):
        attention += 2 * (queries + 2 * keys) * size  # the gradients of the blocks, before they are joined
    return max(feed_forward, attention)


def _decoded(setup: Setup) -> int:
    """Bytes of the largest weight when it is decoded for a product, with its scales."""
    if setup.products is Products.INT8:
        return 0
    return setup.largest_packed * setup.dtype.itemsize + decode_scratch(setup.largest_packed, setup.quant, setup.device)


def hosted_bytes(setup: Setup) -> int:
    """Bytes of an embedding on a GPU that can be in the main memory instead: no part of it is trained, no reward model
    looks it up, and it is not the head."""
    if (
        setup.reward_models
        or setup.device == "cpu"
        or setup.spec.tied_head
        or setup.trains_before_layers
        or EMBEDDING in setup.updated
    ):
        return 0
    return setup.head_weights * setup.dtype.itemsize


def parked_bytes(setup: Setup, batch: BatchShape) -> int:
    """Bytes of the inputs of recomputed layers on a GPU that can be in the main memory (`veneer.gpu.parked`), if the
    base is frozen."""
    if setup.device == "cpu" or setup.full:
        return 0
    one = batch.tokens * setup.spec.hidden_size * setup.dtype.itemsize
    inputs = kept_activations(setup, batch, recompute=True) - kept_outside(setup, batch)
    return max(0, inputs - ON_CARD * one)


def _evaluation(setup: Setup, batch: BatchShape) -> int:
    """Memory of evaluation: a layer's tensors without gradients, a decoded weight, and logits of a chunk."""
    spec, size = setup.spec, setup.dtype.itemsize
    by_token = 3 * (spec.hidden_size + block_width(spec)) * size
    scores = min(chunk_rows(setup.device), max(batch.supervised, batch.evaluated)) * spec.vocab_size * size
    tokens = max(batch.tokens, batch.evaluated)
    widened = _widened(setup, tokens, spec.hidden_size + max(block_width(spec), spec.vocab_size))
    return tokens * by_token + beside_experts(spec, tokens, size) + _decoded(setup) + scores + widened


def _widens(setup: Setup) -> bool:
    """Whether products are computed in float32 and rounded (`veneer.widening`)."""
    return setup.device == "cpu" and not torch_multiplies(setup.dtype) and has_kernels(setup)


def _widened(setup: Setup, rows: int, width: int) -> int:
    """Bytes of the inputs and outputs that are widened at a time, of rows with `width` numbers of both together."""
    return 4 * widened_rows(rows, width) * width if _widens(setup) else 0


def _loading(setup: Setup) -> int:
    """Memory of loading: mapped pages of the file, the largest tensor with its packed form, and packing itself."""
    whole = setup.linear_weights + setup.other_weights
    mapped = (
        min(MAPPED + setup.file_bytes * setup.head_weights, setup.file_bytes * whole) if setup.device == "cpu" else 0
    )
    if setup.spec.mixture is not None:
        # An expert's gate and up together, and transposed, if the file holds them so.
        mapped += 4 * setup.largest_matrix * setup.dtype.itemsize
    if setup.stored:
        return mapped
    if setup.method is Method.QLORA:
        return mapped + setup.largest_matrix * (setup.dtype.itemsize + 4) + QUANTISE_SCRATCH
    return mapped
