"""The systems that benchmarks/serve.py compares, each in a process of its own, and the adapters that they serve."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving_load import Server

RANK, WEIGHTS = 16, 8
"""The rank of the adapters, and how many of them have weights of their own on the disk; see `make_adapters`."""
DEVIATION = 0.01


def make_large(model: str, folder: Path) -> str:
    """Random weights in Llama 3.2 1B's shape, with the tokenizer and the vocabulary of `model`; returns the folder.

    What is answered means nothing. What a token takes depends on the shape alone.
    """
    import torch
    from gpu_shapes import SIZES, random_tensor
    from safetensors.torch import save_file

    from veneer.io.checkpoint import open_checkpoint
    from veneer.loading.expected import linear_shapes, norm_shapes
    from veneer.model.families.choose import spec_from_hf

    checkpoint = open_checkpoint(model)
    tokenizer = checkpoint.tokenizer()
    vocabulary = int(checkpoint.config["vocab_size"])
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    config = {**SIZES["1b"], **ends, "vocab_size": vocabulary}
    spec = spec_from_hf(config)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, spec.hidden_size)}
    shapes |= {f"{path}.weight": (outputs, inputs) for path, (inputs, outputs, _) in linear_shapes(spec).items()}
    torch.manual_seed(0)
    tensors = {name: random_tensor(shape, torch.device("cpu")) for name, shape in (shapes | norm_shapes(spec)).items()}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(folder)
    return str(folder)


def make_adapters(model: str, folder: Path, count: int, *, gguf: bool, dora: bool = False) -> None:
    """Random adapters of rank 16 on all linear layers, as PEFT writes them; the first ones also as GGUF files (`gguf`).

    With `dora` they also have magnitudes: the norms of the base's own rows.
    `WEIGHTS` of them have files of weights of their own; the others link to these, under another `lora_alpha`, so that
    a thousand need no 20 GB. Each has another content, is read from its own folder and takes its own memory.
    """
    import torch

    from veneer.adapters.adapter import remove
    from veneer.adapters.files.store import CONFIG_FILE, WEIGHTS_FILE, save_adapter
    from veneer.adapters.inject import inject
    from veneer.adapters.layers.dora import MAGNITUDE
    from veneer.adapters.spec import LoraSpec
    from veneer.enums import Variant
    from veneer.exports.gguf_adapter import write_gguf_adapter
    from veneer.io.checkpoint import open_checkpoint
    from veneer.loading.how import Loading
    from veneer.loading.load import load_model

    checkpoint = open_checkpoint(model)
    loaded = load_model(checkpoint, Loading(dtype=torch.float32))
    for number in range(min(count, WEIGHTS)):
        variant = Variant.DORA if dora else Variant.LORA
        adapter = inject(loaded, LoraSpec(rank=RANK, alpha=float(RANK), variant=variant))
        generator = torch.Generator().manual_seed(number)
        for name, parameter in adapter.named_parameters().items():
            if not name.endswith(MAGNITUDE):
                parameter.data.normal_(std=DEVIATION, generator=generator)
        own = folder / "adapters" / name_of(number)
        own.mkdir(parents=True)
        save_adapter(own, adapter, base="owner/base")
        if gguf:
            write_gguf_adapter(folder / f"{name_of(number)}.gguf", adapter, checkpoint.config)
        remove(loaded, adapter)
    for number in range(WEIGHTS, count):
        source, own = (folder / "adapters" / name_of(index) for index in (number % WEIGHTS, number))
        own.mkdir()
        os.link(source / WEIGHTS_FILE, own / WEIGHTS_FILE)
        config = json.loads((source / CONFIG_FILE).read_text())
        (own / CONFIG_FILE).write_text(json.dumps({**config, "lora_alpha": RANK + number / 1000}))


def name_of(number: int) -> str:
    """The name of an adapter."""
    return f"adapter-{number:04}"


@contextmanager
def veneer_server(
    model: str,
    adapters: Path | None,
    threads: int,
    *,
    adapter_mb: int = 1000,
    cache_mb: int = 1000,
    variant: str | None = None,
    options: Sequence[str] = (),
    log: Path | None = None,
) -> Iterator[Server]:
    """`veneer serve` with a base in NF4, adapters in bfloat16, and more options; `log` gets what it says.

    `variant`: the kernels, by default the best that the processor runs.
    """
    program = ["-m", "veneer"] if variant is None else [str(Path(__file__).with_name("held.py")), variant]
    command = [sys.executable, *program, "serve", "--model", model, "--name", "base", "--method", "qlora"]
    command += ["--dtype", "bfloat16", "--port", "0", "--json", "--adapter-dtype", "bfloat16"]
    command += ["--adapter-memory", str(adapter_mb), "--cache-memory", str(cache_mb)]
    command += [] if adapters is None else ["--adapters", str(adapters)]
    with _process([*command, *options], threads, log=log) as (process, first):
        port = int(first["url"].rpartition(":")[2])
        yield Server("veneer NF4", "127.0.0.1", port, process.pid, "base", lambda number: {"model": name_of(number)})


@contextmanager
def llama_server(name: str, model: Path, adapters: list[Path], threads: int, parallel: int) -> Iterator[Server]:
    """llama.cpp's server (xllamacpp) with its own defaults, and a place for every client."""
    command = [sys.executable, __file__]
    order = {
        "model": str(model),
        "adapters": [str(path) for path in adapters],
        "threads": threads,
        "parallel": parallel,
    }
    with _process(command, threads, json.dumps(order)) as (process, first):
        host, _, port = first["address"].rpartition("://")[2].rpartition(":")
        yield Server(name, host, int(port.strip("/")), process.pid, "base", _llama_fields)


def _llama_fields(number: int) -> dict[str, Any]:
    return {"lora": [{"id": number, "scale": 1.0}]}


@contextmanager
def _process(
    command: list[str], threads: int, order: str = "", *, log: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (
        (log or Path(os.devnull)).open("w") as said,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=environment
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(order + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{' '.join(command[:4])}: ended before it served")
            yield process, json.loads(line)
        finally:
            process.terminate()


def peft_rate(model: Path, folders: list[Path], prompts: list[str], tokens: int, threads: int) -> dict[str, float]:
    """Tokens a second of transformers with PEFT's mixed batches, each prompt under its own adapter, by dtype."""
    import time

    import torch
    import transformers
    from peft import PeftModel

    torch.set_num_threads(threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        wrapped = PeftModel.from_pretrained(base, folders[0], adapter_name="0")
        for number, folder in enumerate(folders[1:], 1):
            wrapped.load_adapter(folder, adapter_name=str(number))
        wrapped.eval()
        names = [str(number % len(folders)) for number in range(len(prompts))]
        best = 0.0
        for _ in range(2):
            begun = time.perf_counter()
            with torch.no_grad():
                made = wrapped.generate(
                    **inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, adapter_names=names
                )
            count = (made.shape[1] - inputs["input_ids"].shape[1]) * len(prompts)
            best = max(best, count / (time.perf_counter() - begun))
        found[str(dtype).removeprefix("torch.")] = best
    return found


def hf_folder(model: str, folder: Path) -> Path:
    """The model as a Hugging Face directory, for transformers."""
    script = Path(__file__).parent / "peers" / "make_model.py"
    subprocess.run([sys.executable, str(script), model, str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


def free_disk(folder: Path) -> int:
    """Bytes that are free there."""
    return shutil.disk_usage(folder).free


def main() -> None:
    """The process of llama.cpp's server: its order comes on standard input, and it ends with that."""
    import xllamacpp as x

    order = json.loads(sys.stdin.readline())
    params = x.CommonParams()
    params.model.path, params.port = order["model"], 0
    params.n_parallel, params.n_ctx = order["parallel"], 1024 * order["parallel"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = order["threads"]
    params.ui, params.verbosity = False, 1
    loras = []
    for path in order["adapters"]:
        info = x.CommonAdapterLoraInfo()
        info.path, info.scale = path, 0.0
        loras.append(info)
    params.lora_adapters = loras
    server = x.Server(params)
    print(json.dumps({"address": server.listening_address}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
