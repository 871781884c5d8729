from __future__ import annotations

from dataclasses import replace

from helpers.processes.consoles import cells, recorded
from veneer.exports.certificate import Agreement, Certificate, TensorReport, Threshold
from veneer.exports.measure import Loss, Survival
from veneer.exports.record import LossReport, RequantisedLoss
from veneer.screens.export import merge_table, parity_table

READER = Agreement(
    reader="transformers", texts=12, texts_equal=11, renderings=4, renderings_equal=4, positions=40, top1=39, gap=2e-4,
    divergence=3e-7, worst_divergence=1e-6, beside_expected=0.0, allowed=1e-4, greedy=4, greedy_equal=3, problems=(),
)  # fmt: skip
PASSED = Certificate(
    to="merged", format="bfloat16", prompts=4, prompts_from="rows.jsonl", new_tokens=16,
    threshold=Threshold(1e-3, 1e-4, 0.0), tensors=TensorReport(20, "a", 0.0), readers=(READER,),
)  # fmt: skip
MEASURED = LossReport(
    "rows.jsonl", 7, 2.0, 1.25, {"original": Loss(1.5, 0.25, 0.125, 0.375), "dequantised": Loss(1.25, 0.0, 0.0, 0.0)},
    requantised=RequantisedLoss(Loss(1.375, 0.125, 0.0, 0.25), Survival(0.01, 0.9, 0.8)),
)  # fmt: skip


def shown(table: object) -> str:
    console = recorded()
    console.print(table)
    return console.export_text()


def test_every_reader_has_its_counts_and_the_verdict_is_said() -> None:
    text = shown(parity_table(PASSED))
    assert cells(text)["transformers"] == ["11/12", "4/4", "3.0e-07", "2.0e-04", "39/40", "3/4"]
    assert "passed: 20 tensors read back" in text
    assert "settings as they should be" in " ".join(text.split())
    failed = shown(parity_table(replace(PASSED, settings=("a: 1, should be 2",))))
    assert "FAILED" in failed
    assert "other settings" in " ".join(failed.split())


def test_losses_stand_beside_the_adapters_and_the_base_that_was_kept_is_marked() -> None:
    text = shown(merge_table("dequantised", MEASURED, packed=False))
    found = cells(text)
    assert found["base"] == ["2.0000", "", ""]
    assert found["merged: original base"] == ["1.5000", "+0.2500", "+0.1250 to +0.3750"]
    assert "merged: dequantised base (kept)" in found
    assert found["that quantised again"][0] == "1.3750"
    assert "80.0 % of the update survives" in text
    assert "that quantised again" not in shown(merge_table("dequantised", MEASURED, packed=True))
