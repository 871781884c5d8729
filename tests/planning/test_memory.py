"""The peak is the sum of its parts, and at most a tenth below what is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from helpers.models.planned_models import base_planned_and_held
from helpers.training.plan_setups import GB, LLAMA_7B, LLAMA_65B, SMOLLM2, START, peak, setup
from veneer.adapters.spec import LoraSpec
from veneer.config import QuantSection
from veneer.enums import Method, Products
from veneer.io.checkpoint import Checkpoint
from veneer.planning.base import base_bytes
from veneer.planning.batch_shape import BatchShape
from veneer.planning.lanes import Spread
from veneer.planning.memory import MB, memory
from veneer.products import compiled
from veneer.widening import WIDENED

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUANT: tuple[dict[str, Any], ...] = (
    {}, {"double_quant": False}, {"scheme": "fp4", "block": 32}, {"scheme": "int8"},
    {"scheme": "fp4", "block": 4096, "double_quant": False},
    {"skip_modules": ("o_proj", "model.layers.1.mlp.down_proj")}, {"scheme": "int8", "skip_modules": ("q_proj",)},
)  # fmt: skip


@pytest.mark.parametrize("settings", QUANT)
@pytest.mark.parametrize("method", Method)
def test_the_base_takes_what_its_tensors_take(method: Method, settings: dict[str, Any], checkpoint: Checkpoint) -> None:
    planned, held = base_planned_and_held(checkpoint, method, QuantSection.model_validate(settings))
    assert planned == held


def test_a_base_in_8_bits_takes_two_bytes_a_weight() -> None:
    exact, int8 = base_bytes(setup()), base_bytes(setup(products=Products.INT8))
    assert exact < int8 < 1.02 * exact


def test_the_peak_is_that_of_the_largest_phase_and_phases_are_sums() -> None:
    for method, recompute in product(Method, (False, True)):
        found = memory(setup(method=method), BatchShape.of_rows(256, 1024, 8), recompute=recompute, start=START)
        held = found.runtime + found.base + found.adapters
        trained = held + found.optimizer + found.rounded
        assert found.phases["loading"] == held - found.first_use + found.loading
        step = found.activations + max(found.logits, found.workspace) + found.forward_gradients
        assert found.phases["training"] == trained + max(step, found.gradients + found.summing) + found.heap
        assert found.phases["saving"] == trained + found.gradients_kept + found.saving + found.heap
        assert found.peak == max(found.phases.values())
        assert all(size >= 0 for size in asdict(found).values())


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("recompute", [False, True])
def test_more_tokens_ranks_and_layers_take_more_memory(method: Method, recompute: bool) -> None:
    of = setup(method=method)
    cuts = [BatchShape.of_rows(length, 2048, 8) for length in (64, 128, 256)]
    cuts += [BatchShape(tokens=tokens, longest=256, supervised=200) for tokens in (256, 512, 4096, 5000)]
    cuts += [BatchShape(tokens=5000, longest=5000, supervised=supervised) for supervised in (200, 4000)]
    sizes = [peak(of, cut, recompute=recompute) for cut in cuts[3:]]
    assert sizes == sorted(sizes)
    if method is not Method.FULL:
        ranks = [peak(of.with_rank(rank), cuts[2], recompute=recompute) for rank in (4, 16, 64, 192)]
        assert ranks == sorted(set(ranks))
    layers = [
        peak(setup(SMOLLM2 | {"num_hidden_layers": count}, method), cuts[2], recompute=recompute) for count in (4, 8)
    ]
    assert layers[0] < layers[1]


def test_methods_and_recomputation_stand_in_order() -> None:
    cut = BatchShape.of_rows(512, 1024, 8)
    qlora, lora, full = (peak(setup(method=method), cut) for method in (Method.QLORA, Method.LORA, Method.FULL))
    assert qlora < lora < full
    for method in Method:
        assert peak(setup(method=method), cut, recompute=True) < peak(setup(method=method), cut)


def test_gradients_of_a_single_micro_batch_do_not_stand_beside_its_activations() -> None:
    of = setup(method=Method.FULL)
    one, two = (BatchShape.of_rows(256, tokens, 4) for tokens in (1024, 512))
    assert memory(of, one, recompute=False, start=START).forward_gradients == 0
    assert memory(of, two, recompute=False, start=START).forward_gradients == 4 * of.trained_weights


def test_gradients_of_several_micro_batches_are_there_in_the_other_phases_too() -> None:
    of = setup(method=Method.FULL)
    one, two = (memory(of, BatchShape.of_rows(256, tokens, 4), recompute=True, start=START) for tokens in (1024, 512))
    assert (one.gradients_kept, two.gradients_kept) == (0, two.gradients)
    sampled = replace(two, sampling=3 * MB, scoring=2 * MB)
    held = two.runtime + two.base + two.optimizer + two.gradients + two.heap
    for phase in ("sampling", "scoring", "evaluation", "saving"):
        assert sampled.phases[phase] == held + getattr(sampled, phase)
    # Beside a frozen base they are small, and lanes have buffers of their own.
    assert memory(setup(), BatchShape.of_rows(256, 512, 4), recompute=True, start=START).gradients_kept == 0
    lanes = setup(method=Method.FULL, spread=Spread(lanes=2))
    assert memory(lanes, BatchShape.of_rows(256, 512, 4), recompute=True, start=START).gradients_kept == 0


def test_qlora_of_65b_fits_a_card_of_48_gb() -> None:
    """The headline of the QLoRA paper (arXiv:2305.14314): a 65B model on one card of 48 GB."""
    of = setup(LLAMA_65B, Method.QLORA, device="cuda", lora=LoraSpec(rank=16, alpha=32.0))
    assert peak(of, BatchShape.of_rows(512, 512, 1), recompute=True) < 48 * GB
    assert (
        peak(setup(LLAMA_65B, Method.LORA, device="cuda"), BatchShape.of_rows(512, 512, 1), recompute=True) > 130 * GB
    )


def test_the_4_bit_base_of_7b() -> None:
    """4.127 bits a weight of 6.476e9, and 2 · 32000 · 4096 in bfloat16."""
    assert base_bytes(setup(LLAMA_7B, Method.QLORA)) == pytest.approx(3.87 * GB, rel=0.005)
    plain = base_bytes(setup(LLAMA_7B, Method.QLORA, quant=QuantSection(double_quant=False)))
    assert plain == pytest.approx(4.17 * GB, rel=0.005)
    assert setup(LLAMA_7B, Method.FULL).trained_weights == 6_738_415_616


MEASURED = {
    "lora": "runs.grid()[24]",
    "full": "runs.grid()[28]",
    "qlora": "runs.grid()[29]",
    "dora": "next(one for one in runs.others() if one.shape == 'm30' and 'dora' in str(one.more))",
    "pairs": "runs.pairs()[0]",
    "mixture with windows": "next(one for one in runs.others() if one.model_type == 'gpt_oss')",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MEASURED)
def test_the_measured_peak_is_at_most_a_tenth_below_the_plan(case: str, tmp_path: Path) -> None:
    script = (
        "import json, sys; from pathlib import Path; import plan_cases as runs, plan_grid\n"
        f"case, folder = {MEASURED[case]}, Path(sys.argv[1])\n"
        "plan_grid.prepare(case, folder); print(json.dumps(plan_grid.measure(case, folder)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    result = json.loads(done.stdout.splitlines()[-1])
    # Where torch compiles a kernel for each shape of a product, nobody knows before how many rows an expert will have.
    most = 1.25 if "mixture" in case and not compiled() else 1.1
    assert 1.0 <= result["plan"]["peak"] / 1e6 / result["measured"] <= most


@pytest.mark.parametrize("method", Method)
def test_a_plan_counts_what_is_widened_where_torch_has_no_code_for_bfloat16(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = BatchShape(tokens=2048, longest=256, supervised=1000, documents=8)
    monkeypatch.setattr("veneer.planning.memory.torch_multiplies", lambda dtype: True)
    plain = memory(setup(SMOLLM2, method), shape, recompute=False, start=0)
    monkeypatch.setattr("veneer.planning.memory.torch_multiplies", lambda dtype: dtype.itemsize != 2)
    wide = memory(setup(SMOLLM2, method), shape, recompute=False, start=0)
    assert wide.workspace > plain.workspace
    assert wide.logits > plain.logits
    assert wide.workspace - plain.workspace <= 4 * WIDENED
