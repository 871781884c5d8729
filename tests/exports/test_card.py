from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from veneer.exports.card import model_card
from veneer.exports.certificate import Agreement, Certificate, Threshold
from veneer.exports.measure import Loss, Survival
from veneer.exports.merge import MergeSummary
from veneer.exports.record import ExportRecord, LossReport, RequantisedLoss
from veneer.exports.request import Target
from veneer.run_folder import RunFolder

AGREEMENT = Agreement(
    reader="transformers", texts=12, texts_equal=12, renderings=4, renderings_equal=3, positions=40, top1=39, gap=2e-4,
    divergence=3e-7, worst_divergence=1e-6, beside_expected=0.0, allowed=1e-4, greedy=4, greedy_equal=4, problems=(),
)  # fmt: skip
PARITY = Certificate(
    to="merged", format="bfloat16", prompts=4, prompts_from="rows", new_tokens=16,
    threshold=Threshold(1e-3, 1e-4, 0.0), tensors=None, readers=(AGREEMENT,),
)  # fmt: skip
LOSS = Loss(1.25, 0.01, 0.0, 0.02)


def record(adapter: Path, **changes: Any) -> ExportRecord:
    values: dict[str, Any] = {"model": "owner/base", "adapter": str(adapter), "output": "out", "to": "merged"}
    values |= {"dtype": "bfloat16", "format": "bfloat16"}
    return ExportRecord(**(values | changes))


def front_of(card: str) -> dict[str, Any]:
    values = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(values, dict)
    return values


@pytest.mark.parametrize(
    ("to", "library"),
    [
        (Target.PEFT, "peft"), (Target.MERGED, "transformers"), (Target.MERGED_4BIT, "transformers"),
        (Target.GGUF, "gguf"), (Target.GGUF_ADAPTER, "gguf"),
    ],
)  # fmt: skip
def test_the_front_names_base_and_library_and_leaves_the_license_to_the_user(
    to: Target, library: str, tmp_path: Path
) -> None:
    card = model_card(record(tmp_path, to=to.value, model='odd "name": x'), "mine")
    assert front_of(card) == {"base_model": 'odd "name": x', "library_name": library, "tags": ["veneer", "lora"]}
    assert "\n# mine\n" in card
    assert card.rstrip().endswith("whose license still applies.")
    assert "## Training" not in card, "there is no record of a run"


def test_a_base_on_this_machine_is_named_without_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "base-model"
    folder.mkdir(parents=True)
    card = model_card(record(tmp_path, model=str(folder)), "mine")
    assert front_of(card)["base_model"] == "base-model"
    assert str(tmp_path) not in card


def test_the_run_and_its_losses_are_told(lora: Path) -> None:
    card = model_card(record(lora), "mine")
    config = RunFolder(lora).path.joinpath("adapter_config.json").read_text()
    assert '"r": 4' in config
    for line in ("- method: lora, rank 4, alpha 8", "- data: `rows.jsonl`", "- 40 steps of ", "seed 0"):
        assert line in card
    assert re.search(r"- layers: `\w+`(, `\w+`)*\n", card)
    assert str(lora.parent) not in card


def test_what_was_measured_is_a_table_of_each(tmp_path: Path) -> None:
    measured = LossReport(
        "/data/rows.jsonl", 7, 2.0, 1.2, {"original": LOSS}, requantised=RequantisedLoss(LOSS, Survival(0.1, 0.9, 0.8))
    )
    written = MergeSummary(changed=14, tensors=20, tied=True)
    card = model_card(record(tmp_path, measured=measured, parity=PARITY, written=written, merged_into="original"), "m")
    assert "merged into the original base: 14 of 20 tensors changed" in card
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert rows == [
        "| 7 rows of `rows.jsonl` | loss (nats a token) |",
        "| base | 2.0000 |",
        "| adapter | 1.2000 |",
        "| merged into the original base | 1.2500 |",
        "| merged and quantised | 1.2500 |",
        "| read by | token ids | template | mean KL | largest top-10 gap | same first token | same answer |",
        "| transformers | 12/12 | 3/4 | 3e-07 | 0.0002 | 39/40 | 4/4 |",
    ]
