"""Healthy exports pass: random models of every family, adapters, rows and types, read by every program.

`python tests/faults/test_exports.py 200` makes as many exports and says what each reader was off by and allowed.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from helpers.gguf.models import CASES, saved_model
from helpers.models.tiny import rows, write_model, write_rows
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.config import ComputeSection
from veneer.enums import Dtype
from veneer.exports.record import ExportRecord
from veneer.exports.request import StoredDtype, Target
from veneer.exports.run import export
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model

FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32, threads=1)
IN_SUITE = 24
GGUF = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m")
MIXTURES = {"mixtral", "qwen3 moe", "gpt-oss"}


def drawn_export(seed: int, folder: Path) -> ExportRecord:
    """One export, everything in it drawn from `seed`. Raises ParityError where its certificate does not pass."""
    draw = random.Random(seed)
    case = draw.choice(sorted(CASES))
    base, adapter = folder / "base", folder / "adapter"
    saved_model(CASES[case](), base, seed)
    write_model(folder / "tokenizer")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / "tokenizer" / file, base / file)
    if case.startswith("qwen2"):
        # transformers normalises the texts of this family, whatever the file says.
        file = base / "tokenizer.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "normalizer": {"type": "NFC"}}))
    model = load_model(open_checkpoint(base), Loading(dtype=torch.float32))
    rank = draw.choice((1, 4, 16))
    targets = {"target_modules": ("q_proj", "v_proj", "o_proj")} if case in MIXTURES else {}
    trained = inject(model, LoraSpec(rank=rank, alpha=2.0 * rank, **targets))
    generator = torch.Generator().manual_seed(seed)
    size = draw.choice((0.01, 0.05, 0.2))
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    adapter.mkdir()
    save_adapter(adapter, trained, base=str(base))
    data = write_rows(folder / "rows.jsonl", rows(draw.choice((2, 5, 9)), seed))
    target = draw.choice((Target.GGUF, Target.GGUF, Target.GGUF, Target.GGUF_ADAPTER, Target.MERGED))
    quant = {Target.GGUF: draw.choice(GGUF), Target.GGUF_ADAPTER: draw.choice(("f32", "f16", "bf16", "q8_0"))}
    dtype = draw.choice((StoredDtype.FLOAT32, StoredDtype.BFLOAT16, StoredDtype.FLOAT16))
    dtype = dtype if target is Target.MERGED else StoredDtype.AUTO
    return export(
        adapter, folder / "out", to=target, quant=quant.get(target), dtype=dtype, data=data, compute=FLOAT32
    )  # fmt: skip


def passes(seed: int, folder: Path) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp is the reader")
    record = drawn_export(seed, folder)
    assert record.parity is not None
    assert record.parity.passed


@pytest.mark.slow
@pytest.mark.scenario(number=34)
@pytest.mark.parametrize("seed", range(IN_SUITE))
def test_a_healthy_export_passes(seed: int, tmp_path: Path) -> None:
    passes(seed, tmp_path)


@pytest.mark.long
@pytest.mark.scenario(number=34)
@pytest.mark.parametrize("seed", range(IN_SUITE, 200))
def test_many_more_healthy_exports_pass(seed: int, tmp_path: Path) -> None:
    passes(seed, tmp_path)


def main(seeds: range) -> int:
    """Make an export of each seed; the number of false alarms is the exit code."""
    failed = 0
    for seed in seeds:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            try:
                record = drawn_export(seed, folder)
            except Exception as error:
                failed += 1
                print(f"{seed:4} FAILED {type(error).__name__}: {error}", flush=True)
                continue
            kind = json.loads((folder / "base" / "config.json").read_text())["model_type"]
            assert record.parity is not None
            said = ", ".join(
                f"{one.reader} {one.beside_expected:.1e}/{one.allowed:.1e}" for one in record.parity.readers
            )
            print(f"{seed:4} {kind:10} {record.to:12} {record.format:9} {said}", flush=True)
    print(f"{failed} false alarms in {len(seeds)} exports")
    return failed


if __name__ == "__main__":
    sys.exit(main(range(*map(int, sys.argv[1:]))))
