"""Run the checks over every row of a file, in several processes if there are many rows.

Rows are streamed: chunks of them go to processes that check them and note what is needed to compare rows. Only numbers
stay in memory: the facts of each row (`facts`), and the indices of the rows with findings.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

from veneer.arguments import check_least
from veneer.data.encoded.worker_pool import shared_out
from veneer.data.files.given_names import shown_name
from veneer.data.files.readers import count_lines, iterate_rows
from veneer.data.files.sources import files_named
from veneer.data.lint.checks.unusable import UNANSWERED
from veneer.data.lint.facts import EVALUATION, TRAINING, FileFacts, Gathered, Noted, note
from veneer.data.lint.labels import Labels
from veneer.data.lint.registry import FILE_CHECKS, ROW_CHECKS, RULES
from veneer.data.lint.report import LintReport, Tally
from veneer.data.lint.row import CHUNK_ROWS, LintSetting, Row, in_chunks, read_rows
from veneer.data.lint.rules import Cost, Finding
from veneer.data.lint.shingles import Hashes, common, shingles_of
from veneer.data.lint.spill import Spill
from veneer.enums import Column, RowKind
from veneer.errors import ConfigError, DataError, listing, nearest
from veneer.events import Note, Stage, Subscriber, ignore

ONE_PROCESS_ROWS = 4_000
"""The number of rows up to which no further process is started: starting one takes about a second."""
SAMPLE_ROWS = 2_000
"""The number of rows at the beginning that are searched for text that nearly all rows have."""
_BOILERPLATE_SHARE = 0.9
"""The share of these rows that must have a text if the search for near-duplicates is to ignore it."""


@dataclass(frozen=True, slots=True)
class LintOptions:
    """The rules to check, with their settings."""

    ignore: frozenset[str] = frozenset()
    """The names of the rules that are not reported."""
    group: str | None = None
    """The column whose equal values must not be on both sides of training and evaluation."""
    processes: int = 1
    """The number of processes that check rows."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The results for some rows."""

    findings: list[tuple[int, Finding]]
    """The index in the chunk of each row with a finding, and the finding."""
    noted: Noted


_Part = tuple[int, Sequence[tuple[str, Any]]]
"""Some rows, with the side that they belong to."""


@dataclass(frozen=True, slots=True)
class _Job:
    """The data that every process needs to check rows."""

    setting: LintSetting
    group: str | None
    boilerplate: Hashes

    does: ClassVar[str] = "checks rows"
    remedy: ClassVar[str] = "--processes 1 (processes=1 in Python) checks them in one, which needs the least memory"

    def begin(self, tell: Subscriber) -> Callable[[_Part], Chunk]:
        """The function that checks rows in a process; it emits nothing."""
        return self.check

    def check(self, part: _Part) -> Chunk:
        """Check some rows of one side."""
        side, rows = part
        read = read_rows(rows, self.setting)
        findings = [(place, finding) for place, row in enumerate(read) for finding in _found(row, self.setting)]
        return Chunk(findings, note(read, side, self.group, self.boilerplate, self.setting.rows))


def _found(row: Row, setting: LintSetting) -> Iterator[Finding]:
    """The findings of the single-row checks in a row. In a run of pairs the rejected answers are checked too; findings
    that both answers share, for example in their prompt, are reported once."""
    own = [finding for check in ROW_CHECKS for finding in check.run(row, setting)]
    yield from own
    other = row.other if setting.rows is RowKind.PAIRS else None
    if other is not None and other.problem is None:
        known = {finding.rule for finding in own}
        for check in ROW_CHECKS:
            for finding in check.run(other, setting):
                if finding.rule not in known:
                    yield replace(finding, detail=f"{other.part}: {finding.detail}")


@dataclass(frozen=True, slots=True)
class PassResult:
    """The result of a pass over training rows."""

    findings: Iterable[tuple[int, Finding]] = ()
    """The findings, each with the index of its row in the file."""
    undone: tuple[str, ...] = ()
    """A sentence about each part that was not done."""


RowPass = Callable[[Subscriber], PassResult]
"""Searches training rows. It gets the subscriber for its progress."""


def lint(
    file: Path | str,
    setting: LintSetting | None = None,
    *,
    eval_file: Path | str | None = None,
    options: LintOptions | None = None,
    passes: Sequence[RowPass] = (),
    emit: Subscriber = ignore,
) -> LintReport:
    """Check every row of a data file, and of an evaluation file with it.

    Args:
        file: the rows to train on: a file, a pattern or a dataset, as `data.file` names them.
        setting: how rows are read and measured.
        eval_file: the rows to evaluate on, named likewise. They are checked too, and searched for training rows.
        options: the rules to check, with their settings.
        passes: searches that need a model's pass over the training rows.
        emit: receives the progress of each stage.

    Raises:
        DataError: a file cannot be read at all or contains no rows, or a process that checks rows has ended.
        ConfigError: an ignored rule is unknown, a number is below 1, no row of a side has the column of groups, or
            there is a column of groups but only one side.
    """
    setting, options = setting or LintSetting(), options or LintOptions()
    check_least(1, {"max_length": setting.max_length, "processes": options.processes})
    _check_options(options, compared=eval_file is not None)
    began = time.perf_counter()
    sides = [[str(path) for path in files_named(str(side), emit)] for side in (file, eval_file) if side is not None]
    _check_keys(sides, options.group, setting.columns)
    tally = Tally()
    with Spill() as spill:
        facts = _facts(sides, setting, options, tally, spill, emit)
        if not len(facts):
            raise DataError(f"{file} contains no rows; a data file needs at least one")
        _check_group(facts, options.group)
        with Stage(emit, "comparing rows with each other", total=len(FILE_CHECKS), unit="checks") as stage:
            for check in FILE_CHECKS:
                for rows, finding in check.run(facts):
                    tally.add(rows, finding)
                stage.advance()
    undone: list[str] = []
    for one in passes:
        result = one(emit)
        for row, finding in result.findings:
            tally.add([row], finding)
        undone += result.undone
    found = tally.ordered(options.ignore)
    if facts.unanswered.all():
        found = tuple(replace(one, rule=UNANSWERED) if one.rule.name == UNANSWERED.name else one for one in found)
    return LintReport(
        files=facts.files,
        setting=setting,
        facts=facts,
        found=found,
        skipped=() if setting.tokenizer is not None else tuple(r.name for r in RULES.values() if r.cost is Cost.TOKENS),
        seconds=time.perf_counter() - began,
        undone=tuple(undone),
    )


def _check_options(options: LintOptions, *, compared: bool) -> None:
    """Refuse unknown rules, and a column of groups without evaluation rows to compare with."""
    if options.group is not None and not compared:
        raise ConfigError(
            f"--group {options.group}: groups are compared between training and evaluation rows, but there are no "
            "evaluation rows; name them with --eval-data"
        )
    unknown = sorted(options.ignore - RULES.keys())
    if unknown:
        lines = [f"{name!r}{nearest(name, list(RULES))}" for name in unknown]
        raise ConfigError(f"no such rule:\n{listing(lines)}\nknown: {', '.join(RULES)}")


def _named(files: Sequence[str]) -> str:
    names = list(map(shown_name, files))
    return ", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} other files"


def _check_keys(sides: Sequence[Sequence[str]], column: str | None, columns: Mapping[Column, str]) -> None:
    """Refuse a column of groups that no row of a side has, before all rows are checked. Rows are read up to the first
    one that has it."""
    if column is None:
        return
    for files, name in zip(sides, ("training", "evaluation"), strict=True):
        keys: dict[str, None] = {}
        for _, row in chain.from_iterable(iterate_rows(file, columns=columns) for file in files):
            keys |= dict.fromkeys(row if isinstance(row, dict) else ())
            if column in keys:
                break
        if keys and column not in keys:
            raise ConfigError(
                f"--group {column}: no {name} row has this column{nearest(column, list(keys))}; they have "
                f"{', '.join(list(keys)[:20])}"
            )


def _check_group(facts: FileFacts, column: str | None) -> None:
    """Refuse a column of groups that no row of a side has: nothing would be found, although nothing was compared."""
    if column is None:
        return
    for side, name in ((TRAINING, "training"), (EVALUATION, "evaluation")):
        rows = (facts.side == side) & facts.usable
        if rows.any() and not facts.group[rows].any():
            raise ConfigError(
                f"--group {column}: no {name} row has a value in this column; name a column that the rows have"
            )


def _facts(
    sides: Sequence[Sequence[str]],
    setting: LintSetting,
    options: LintOptions,
    tally: Tally,
    spill: Spill,
    emit: Subscriber,
) -> FileFacts:
    """Read all rows, and check each by itself; findings go to `tally`.

    Args:
        sides: the files of the rows to train on, and of those to evaluate on.
        setting: how rows are read and measured.
        options: the rules to check, with their settings.
        tally: gets the findings.
        spill: gets the hashes for the search for near-duplicates.
        emit: receives the progress, and notes about parts of a file that could not be read exactly.
    """
    files = tuple(chain.from_iterable(sides))
    with Stage(emit, f"checking {_named(files)}", total=count_lines(files), unit="rows") as stage:
        starts, notes = list[int](), list[str]()
        rows = _numbered(sides[TRAINING], starts, 0, notes, setting.columns)
        sample = list(islice(rows, SAMPLE_ROWS))
        plain = LintSetting(columns=setting.columns, objective=setting.objective)
        boilerplate = common([shingles_of(row.record) for row in read_rows(sample, plain)], _BOILERPLATE_SHARE)
        chunks = _chunks(sides, chain(sample, rows), starts, notes, setting.columns)
        job = _Job(setting, options.group, boilerplate)
        gathered, labels = Gathered(), Labels()
        done = 0
        for chunk in _checked(job, chunks, options.processes, emit):
            for place, finding in chunk.findings:
                tally.add([done + place], finding)
            gathered.add(chunk.noted)
            spill.append(chunk.noted.shingles, chunk.noted.counts)
            if chunk.noted.table["side"][0] == TRAINING:
                labels.add(done, chunk.noted.answers)
            done += len(chunk.noted.table)
            stage.advance(len(chunk.noted.table))
    for message in notes:
        emit(Note(message=message))
    return gathered.facts(tuple(map(shown_name, files)), starts, spill, labels)


def _numbered(
    files: Sequence[str], starts: list[int], first: int, notes: list[str], columns: Mapping[Column, str]
) -> Iterator[tuple[str, Any]]:
    """The rows of files in order. The index of each file's first row is added to `starts`, and notes about parts of a
    file that could not be read exactly to `notes`."""
    for file in files:
        starts.append(first)
        for row in iterate_rows(file, notes, columns):
            first += 1
            yield row


def _chunks(
    files: Sequence[Sequence[str]],
    training: Iterator[tuple[str, Any]],
    starts: list[int],
    notes: list[str],
    columns: Mapping[Column, str],
) -> Iterator[_Part]:
    """The rows of both sides in chunks."""
    rows = 0
    for chunk in in_chunks(training):
        rows += len(chunk)
        yield TRAINING, chunk
    for side in files[EVALUATION:]:
        for chunk in in_chunks(_numbered(side, starts, rows, notes, columns)):
            yield EVALUATION, chunk


def _checked(job: _Job, chunks: Iterator[_Part], processes: int, emit: Subscriber) -> Iterator[Chunk]:
    """The results of each chunk, in order. The first rows are checked here, and only later ones in other processes."""
    here = list(islice(chunks, ONE_PROCESS_ROWS // CHUNK_ROWS))
    if processes > 1 and (more := next(chunks, None)) is not None:
        here.append(more)
        if sys.platform != "win32":
            yield from shared_out(chain(here, chunks), job, processes)
            return
        emit(Note(message="one process checks the rows, because several need Linux or macOS"))
    for part in chain(here, chunks):
        yield job.check(part)
