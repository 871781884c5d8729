"""Notes about what reading and encoding rows found, in sentences."""

from __future__ import annotations

from veneer.data.encoded.encoding import EncodeReport
from veneer.data.problems import grouped
from veneer.text.counting import count_of

LISTED_ROWS = 3
"""The number of rows that a finding names; the others are only counted."""


def overlap_note(shared: int, evaluated: int, where: str, first: str) -> str:
    """A note that evaluation rows are training rows too.

    Args:
        shared: the number of such rows.
        evaluated: the number of evaluation rows.
        where, first: the place of the first of them, and of the equal training row.
    """
    return (
        f"{shared} of {count_of(evaluated, 'evaluation row')} "
        f"are also training rows (first: {where} = {first}): the evaluation "
        "loss is too good"
    )


def repeats_note(repeats: int, where: str, first: str) -> str:
    """A note that training rows repeat others.

    Args:
        repeats: the number of such rows.
        where, first: the place of the first of them, and of the row that it repeats.
    """
    verb = "repeats" if repeats == 1 else "repeat"
    return f"{count_of(repeats, 'training row')} {verb} an earlier one (first: {where} = {first})"


def weight_note(place: str, files: int, rows: int, held: int, weight: float) -> str:
    """A note that small files of a pattern miss the weight of their source, since it is rounded for each of them.

    Args:
        place: the setting that names the pattern.
        files, rows: the number of its files, and of the rows in them.
        held: the number of their rows in an epoch.
        weight: the weight of the source.
    """
    return (
        f"{place}: an epoch holds {held:,} rows, and {weight:g} times its {count_of(rows, 'row')} are "
        f"{round(weight * rows):,}: a weight is rounded for each of its {files:,} files, and leaves one row at least. "
        "Put the rows into one file to have them by their weight"
    )


def one_label_note(rows: int, desirable: bool) -> str:
    """A note that all training rows have one label.

    Args:
        rows: the number of training rows.
        desirable: the value of the label.
    """
    word = "desirable" if desirable else "not desirable"
    return f"all {rows:,} training rows are labelled {word}: nothing tells a desirable answer from another"


def findings(report: EncodeReport, what: str) -> list[str]:
    """The findings of encoding, one sentence a line.

    Args:
        report: the result of `encode_all`.
        what: the kind of rows in the sentences: "training" or "evaluation".
    """
    rows = f"{what} row"
    made, one = (f" in {report.examples:,} examples", "example") if report.further else ("", "row")
    lines = [
        f"{count_of(report.kept, rows)}{made}: {count_of(report.tokens, 'token')}, "
        f"{report.supervised:,} of them supervised; "
        f"longest {one} {count_of(report.longest, 'token')} ({report.longest_where}){_as_given(report)}"
    ]
    most = f"data.max_length={report.max_length}"
    groups = {
        f"longer than {most} and left out": report.dropped,
        f"cut to {most} tokens": report.truncated,
        f"cut into {count_of(report.pieces, 'piece')} of at most {most} tokens": report.split,
        "left out, since nothing in them is trained": report.untrained,
        "with a control token spelled out, which is trained as ordinary text": report.spelled,
    }
    for text, where in groups.items():
        if where:
            more = f" and {len(where) - LISTED_ROWS} more" if len(where) > LISTED_ROWS else ""
            lines.append(f"{count_of(len(where), rows)} {text}: {', '.join(where[:LISTED_ROWS])}{more}")
    if report.skipped:
        lines.append(
            f"{count_of(len(report.skipped), rows)} cannot be encoded and are left out:\n{grouped(report.skipped)}"
        )
    return lines + list(report.notes)


def _as_given(report: EncodeReport) -> str:
    """The length of the longest row before it was left out or cut, as the end of a sentence; empty if no row was."""
    if report.given <= report.longest:
        return ""
    more_than = "more than " if report.given_is_bound else ""
    return f", and {more_than}{report.given:,} before rows were left out or cut ({report.given_where})"
