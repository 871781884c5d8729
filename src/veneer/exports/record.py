"""The record of an export: `export.json` in its folder, and the value that the API returns."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from veneer.errors import ModelError
from veneer.evaluation.statistics.compare import Comparison
from veneer.exports.certificate import Certificate
from veneer.exports.measure import Loss, Survival
from veneer.exports.merge import MergeSummary
from veneer.html.notebook import html_facts
from veneer.io.files import write_text
from veneer.text.strict_json import to_text, with_reasons

RECORD_FILE, PARITY_FILE, CARD_FILE = "export.json", "parity.json", "README.md"


@dataclass(frozen=True, slots=True)
class RequantisedLoss:
    """The merged model with its linear layers quantised, possibly again."""

    loss: Loss
    survival: Survival


@dataclass(frozen=True, slots=True)
class LossReport:
    """Losses on the evaluation rows, all on the same rows and in the same compute dtype."""

    data: str
    rows: int
    base: float
    """The base, held as when the adapter was trained."""
    adapter: float
    """The adapter on that base, whose loss the merged model should reach."""
    merged: dict[str, Loss]
    """The merged model, by the base it was merged into."""
    between: Comparison | None = None
    """Into the dequantised base (there called `base`) and into the original (called `adapter`)."""
    requantised: RequantisedLoss | None = None
    """The merged model that was kept, quantised again; for QLoRA adapters, and if 4 bits are written."""


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """What was exported, and the facts about it."""

    model: str
    adapter: str
    output: str
    to: str
    """A `Target`."""
    dtype: str
    """The dtype of the weights; in 4 bits, that of the dense ones."""
    format: str
    """The format, a key of `veneer.exports.thresholds.TENSOR`."""
    method: str = "lora"
    """How the base was held when the adapter was trained."""
    quant: dict[str, Any] | None = None
    """The settings by which the base was quantised then (section `quant`); None if it was not."""
    base_dtype: str = "float32"
    """The dtype of the base's weights then, before they were quantised."""
    merged_into: str = ""
    """`original` or `dequantised` (see `MergeBase`): the weights that the adapter is on, or is merged into."""
    written: MergeSummary | None = None
    """The counts of a merged model's tensors; None if nothing is merged."""
    measured: LossReport | None = None
    parity: Certificate | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The record as plain values."""
        values = asdict(self)
        values["parity"] = None if self.parity is None else self.parity.to_json()
        return values

    def _repr_html_(self) -> str:
        """The table that notebooks show."""
        facts = {"output": self.output, "kind": self.to, "format": self.format, "model": self.model}
        parity = "" if self.parity is None else self.parity._repr_html_()
        return html_facts("export", facts | ({"note": "; ".join(self.notes)} if self.notes else {})) + parity

    def write(self, folder: Path) -> None:
        """Write `export.json`, which holds everything except the certificate.

        Raises:
            OutputError: it cannot be written.
        """
        values = {key: value for key, value in self.to_json().items() if key != "parity"}
        write_text(folder / RECORD_FILE, to_text(with_reasons(values), indent=2) + "\n")


def export_json(path: Path) -> dict[str, Any]:
    """One of an export's own files.

    Raises:
        ModelError: the file is not there, or is damaged.
    """
    if not path.parent.exists():
        raise ModelError(f"{path.parent} does not exist; check the path of the export")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(f"{path} is not there: give the folder that `veneer export` made") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} is damaged: it holds a {type(values).__name__}")
    return values
