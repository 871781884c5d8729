"""What `veneer export` shows: its progress, and the measures of the export."""

from __future__ import annotations

from rich.table import Table

from veneer.exports.certificate import TOP, Certificate
from veneer.exports.record import ExportRecord, LossReport
from veneer.exports.request import ExportRequest, Target
from veneer.exports.run import run_export
from veneer.screens.console import new_table, output_console, say, show_table
from veneer.screens.subscribers import subscriber_of
from veneer.text.counting import count_of


def export_visibly(request: ExportRequest, *, as_json: bool) -> ExportRecord:
    """Export with progress, and print the measures."""
    with subscriber_of(as_json=as_json) as emit:
        record = run_export(request, emit)
    if not as_json:
        shown = output_console()
        if record.measured is not None:
            show_table(shown, merge_table(record.merged_into, record.measured, packed=request.to is Target.MERGED_4BIT))
        if record.parity is not None:
            show_table(shown, parity_table(record.parity))
        for note in (*record.notes, *(record.parity.notes if record.parity else ())):
            say(shown, note)
        say(shown, _written(record))
    return record


def _written(record: ExportRecord) -> str:
    if record.written is None:
        return f"{record.to}: {record.output} ({record.format})"
    kind = f"4 bits, the rest in {record.dtype}" if record.to == Target.MERGED_4BIT.value else record.dtype
    return (
        f"model: {record.output} ({kind}, {record.written.changed} of {count_of(record.written.tensors, 'tensor')} "
        f"changed, merged into the {record.merged_into} base)"
    )


def merge_table(kept: str, measured: LossReport, *, packed: bool) -> Table:
    """Losses of base, adapter and merged model, and how much of the update quantisation keeps.

    Args:
        measured: the losses.
        packed: whether the merged model was written quantised.
    """
    title = f"{measured.data} ({count_of(measured.rows, 'row')})"
    table = new_table(title, "", "loss", "to the adapter", "95 % interval")
    table.add_row("base", f"{measured.base:.4f}")
    table.add_row("adapter", f"{measured.adapter:.4f}")
    found = {f"merged: {base} base": loss for base, loss in measured.merged.items()}
    if measured.requantised is not None and not packed:
        found["that quantised again"] = measured.requantised.loss
    for name, loss in found.items():
        chosen = " (kept)" if name == f"merged: {kept} base" and len(measured.merged) > 1 else ""
        ends = f"{loss.low:+.4f} to {loss.high:+.4f}"
        table.add_row(name + chosen, f"{loss.loss:.4f}", f"{loss.difference:+.4f}", ends)
    if measured.requantised is not None:
        left = measured.requantised.survival
        table.caption = (
            f"quantised, {100 * left.share:.1f} % of the update survives; its size is {100 * left.update:.2f} % of "
            "the weights'"
        )
    return table


def parity_table(certificate: Certificate) -> Table:
    """The programs that have read the export, and the gap of each to the live adapter."""
    title = (
        f"{certificate.format} beside the live adapter, {count_of(certificate.prompts, 'prompt')} "
        f"of {certificate.prompts_from}"
    )
    table = new_table(title)
    table.add_column("read by", no_wrap=True)
    figures = ("token\nids", "template", "KL\nmean", f"largest\ntop-{TOP} gap", "same\nfirst", "same\nanswer")
    for heading in figures:
        table.add_column(heading, justify="right", no_wrap=True)
    for one in certificate.readers:
        table.add_row(
            one.reader,
            f"{one.texts_equal}/{one.texts}",
            f"{one.renderings_equal}/{one.renderings}",
            f"{one.divergence:.1e}",
            f"{one.gap:.1e}",
            f"{one.top1}/{one.positions}",
            f"{one.greedy_equal}/{one.greedy}",
        )
    verdict = "passed" if certificate.passed else "FAILED"
    tensors = certificate.tensors
    read_back = (
        f"{count_of(tensors.compared, 'tensor')} read back, off by at most {100 * tensors.error:.2g} %; "
        if tensors
        else ""
    )
    table.caption = (
        f"{verdict}: {read_back}{'settings as they should be' if not certificate.settings else 'other settings'}"
    )
    return table
