"""The model card of an export: what was trained on what, and what was measured. The license is left to the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from veneer.adapters.files.store import read_content
from veneer.config import RunConfig
from veneer.event_log import by_step
from veneer.exports.certificate import TOP
from veneer.exports.record import ExportRecord
from veneer.exports.request import Target
from veneer.io.checkpoint import model_name
from veneer.run_folder import recorded_run, run_of
from veneer.text.strict_json import to_text

LICENSE = (
    "Add one (`license:` in the lines above). A merged model is a version of its base, whose license still applies."
)


def model_card(record: ExportRecord, name: str) -> str:
    """README.md for the export `record`.

    Args:
        record: the record, with its certificate.
        name: the name of the export.
    """
    run = recorded_run(Path(record.adapter))
    library = "peft" if record.to == Target.PEFT.value else "gguf" if record.to.startswith("gguf") else "transformers"
    # A JSON string is also a YAML string.
    front = [f"base_model: {to_text(model_name(record.model))}", f"library_name: {library}", "tags: [veneer, lora]"]
    parts = [
        "---\n" + "\n".join(front) + "\n---",
        f"# {name}",
        _what(record),
        *([_training(record, run)] if run else []),
        _parity(record),
        f"## License\n\n{LICENSE}",
    ]
    return "\n\n".join(parts) + "\n"


def _what(record: ExportRecord) -> str:
    kinds = {Target.PEFT.value: "An adapter for", Target.GGUF_ADAPTER.value: "An adapter (GGUF) for"}
    start = kinds.get(record.to, "A fine-tuned version of")
    merged = ""
    if record.written is not None:
        merged = f" The adapter is merged into the {record.merged_into} base: {record.written.changed} of "
        merged += f"{record.written.tensors} tensors changed."
    return f"{start} `{model_name(record.model)}`, made with veneer. Weights: {record.format}.{merged}"


def _training(record: ExportRecord, run: RunConfig) -> str:
    config = read_content(Path(record.adapter))
    base = f"{run.method.value}" + (f" ({run.quant.scheme.value} base)" if run.method.value == "qlora" else "")
    files = ", ".join(f"`{Path(source.file).name}`" for source in run.data.training)
    lines = [
        f"- method: {base}, rank {config.get('r')}, alpha {config.get('lora_alpha')}",
        f"- layers: {_names(config.get('target_modules'))}",
        f"- data: {files}, rows of at most {run.data.max_length} tokens",
        f"- {run.train.steps} steps of {run.train.examples_per_step or run.train.tokens_per_step} "
        f"{'rows' if run.train.examples_per_step else 'tokens'}, {run.train.optimizer.value}, peak learning rate "
        f"{_rate(run.train.learning_rate)}, seed {run.train.seed}",
    ]
    losses = _evaluations(Path(record.adapter))
    if losses:
        lines.append(f"- evaluation loss: {losses[-1]:.4f} nats a token at the end, {min(losses):.4f} at its lowest")
    return "## Training\n\n" + "\n".join(lines)


def _names(targets: Any) -> str:
    """The targets of an adapter, which are names or a regular expression."""
    names = [targets] if isinstance(targets, str) else targets or []
    return ", ".join(f"`{name}`" for name in names)


def _rate(rate: float | str) -> str:
    """A learning rate; `auto` if the configuration of the run was changed by hand."""
    return rate if isinstance(rate, str) else f"{rate:.4g}"


def _evaluations(adapter: Path) -> list[float]:
    run = run_of(adapter)
    if run is None:
        return []
    return list(by_step(run.each_event(), "Evaluated", "loss").values())


def _parity(record: ExportRecord) -> str:
    lines = ["## Measured", ""]
    if record.measured is not None:
        measured = record.measured
        rows = [("base", measured.base), ("adapter", measured.adapter)]
        rows += [(f"merged into the {base} base", loss.loss) for base, loss in measured.merged.items()]
        if measured.requantised is not None:
            rows.append(("merged and quantised", measured.requantised.loss.loss))
        lines += [f"| {measured.rows} rows of `{Path(measured.data).name}` | loss (nats a token) |", "|---|---:|"]
        lines += [f"| {name} | {loss:.4f} |" for name, loss in rows] + [""]
    if record.parity is not None and record.parity.readers:
        lines += [
            f"Compared with the live adapter on {record.parity.prompts} prompts (`parity.json` has everything):",
            "",
            f"| read by | token ids | template | mean KL | largest top-{TOP} gap | same first token | same answer |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *(_row(one) for one in record.parity.to_json()["readers"]),
        ]
    return "\n".join(lines)


def _row(one: dict[str, Any]) -> str:
    return (
        f"| {one['reader']} | {one['texts_equal']}/{one['texts']} | {one['renderings_equal']}/{one['renderings']} | "
        f"{one['divergence']:.2g} | {one['gap']:.2g} | {one['top1']}/{one['positions']} | "
        f"{one['greedy_equal']}/{one['greedy']} |"
    )
