"""The settings of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from veneer.config.numbers import NUMBER, Day, Fraction, Name, Place
from veneer.config.section import Section
from veneer.enums import BadRows, Check, Column, Overlong, SplitBy, TokenCache
from veneer.errors import ConfigError


class SplitSection(Section):
    """How held-out rows are chosen."""

    place = "data.split"

    by: SplitBy = SplitBy.ROW
    """What decides which rows are held out. `row`: each row by itself. `group`: rows with the same value in `column`
    stay on one side. `label`: the same share of rows is held out of each label (the answer, or the value in `column`).
    `time`: the latest rows by `column`, which holds numbers or dates. `near-duplicates`: rows that are nearly the same
    stay on one side."""
    column: Name | None = None
    """The column or key of the file that rows are split by."""


Weight = Annotated[float, Field(gt=0.0, le=1e6, allow_inf_nan=False), NUMBER]


class SourceSection(Section):
    """One of several sources of training rows."""

    place = "data.sources"

    file: Place
    """A file, a pattern or a dataset, as in `data.file`."""
    weight: Weight = 1.0
    """How often an epoch holds each row: of a file of n rows it has round(weight · n), and one at least."""


def refuse_shared(columns: Mapping[Column, str]) -> None:
    """Refuse two names of columns for one column of the file: the answer would be the question.

    Raises:
        ConfigError: two names have the same column.
    """
    shared = sorted(theirs for theirs, count in Counter(columns.values()).items() if count > 1)
    if shared:
        names = ", ".join(ours.value for ours, theirs in columns.items() if theirs == shared[0])
        raise ConfigError(f"{shared[0]!r} is the file's column for {names}; each of them needs its own column")


class DataSection(Section):
    """Settings of the rows for training and evaluation."""

    place = "data"

    sources: tuple[SourceSection, ...] = ()
    """Several sources of training rows instead of `file`, each with a weight: `[{file: a.jsonl, weight: 2}, {file:
    b.jsonl}]`. An epoch holds round(w · n) rows, and at least one, of each file of a source with weight w, if
    the file has n rows: those beyond whole passes change from epoch to epoch."""
    file: Place | None = Field(default=None, validate_default=True)
    """The file of training rows, which a run without `sources` needs: JSONL, JSON, CSV or Parquet; a pattern for
    several of them (`corpus/*.jsonl`); or a dataset of the hub (`hub:owner/name[split]`)."""
    eval_file: Place | None = None
    """The file of rows for the evaluation loss, in the form of `file`."""
    held_out: Fraction = 0.0
    """The share of `file` that is used for the evaluation loss and not for training, if there is no `eval_file`."""
    split: SplitSection = SplitSection()
    """How the held-out rows are chosen: `{by: group, column: customer}`."""
    max_length: Annotated[int, Field(ge=2, le=1_000_000_000), NUMBER] = 2048
    """The length of the longest row that is used, in tokens."""
    overlong: Overlong = Overlong.DROP
    """What happens to rows that are longer than `max_length`: `drop` leaves them out, `truncate` cuts their end,
    `split` cuts those of `text` into pieces and leaves others out. They are always counted and reported."""
    bad_rows: BadRows = BadRows.REFUSE
    """What happens to rows that cannot be used: `refuse` names all of them and ends the run, `skip` leaves them out.
    They are always counted and reported."""
    checks: tuple[Check, ...] = (
        Check.NOTHING_TRAINED,
        Check.END_UNTRAINED,
        Check.CONTENT_LOST,
        Check.TOOL_CALL_LOST,
        Check.DOUBLED_BOS,
    )
    """The rules of `veneer data` by which a row is refused (docs/data.md). Findings of other rules in single rows are
    only reported. `[]` refuses nothing."""
    cache: TokenCache = TokenCache.AUTO
    """Whether rows are encoded once into files that are mapped into memory, instead of being held in it: `auto` from
    100 MB of rows on, `always`, `never`. The result is the same."""
    cache_dir: Place | None = None
    """The folder of these files; `~/.cache/veneer/tokens` by default."""
    template_date: Day | Literal["auto"] = "auto"
    """The date that a chat template gets if it asks for the time (`strftime_now`), as Llama 3's does. The rows, and the
    prompts that the run gives its model, have this date. `auto` is the day on which the run begins; it is recorded, so
    that a resumed or reproduced run has the same tokens."""
    columns: dict[Column, Name] = Field(default={})
    """The file's names of columns or keys that differ from veneer's: `{prompt: text, completion: category}`. No other
    columns are then used."""

    @field_validator("file")
    @classmethod
    def _given(cls, value: str | None, info: ValidationInfo) -> str | None:
        # Sources that failed validation are missing here, although the user gave them.
        if value is None and info.data.get("sources") == ():
            raise PydanticCustomError("missing", "required, but not given")
        return value

    @field_validator("columns")
    @classmethod
    def _apart(cls, value: dict[Column, str]) -> dict[Column, str]:
        try:
            refuse_shared(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return value

    @property
    def evaluates(self) -> bool:
        """Whether there are rows to evaluate on."""
        return self.eval_file is not None or self.held_out > 0

    @property
    def training(self) -> tuple[SourceSection, ...]:
        """The sources of training rows, or `file` as the only one."""
        return self.sources if self.file is None else (SourceSection(file=self.file),)

    @property
    def training_name(self) -> str:
        """A readable name of the training rows: the files, each with its weight if it has one."""
        return ", ".join(
            source.file if source.weight == 1.0 else f"{source.file} × {source.weight:g}" for source in self.training
        )
