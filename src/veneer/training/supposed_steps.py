"""Supposed rows, for a plan without data, and the sizes of the steps that they make."""

from __future__ import annotations

from dataclasses import dataclass

from veneer.arguments import check_least, check_type
from veneer.config import TrainSection
from veneer.errors import ConfigError
from veneer.planning.batch_shape import BatchShape
from veneer.training.steps import examples_per_step, steps_in_epochs


@dataclass(frozen=True, kw_only=True, slots=True)
class SupposedRows:
    """Supposed rows, for a plan without data.

    Raises:
        ConfigError: a number is impossible for rows, or an average row is longer than the longest.
    """

    rows: int = 1000
    """The number of rows."""
    tokens: int = 512
    """The average number of tokens of a row; all of them are supervised."""
    longest: int = 512
    """The number of tokens of the longest row."""

    def __post_init__(self) -> None:
        numbers = {"rows": self.rows, "tokens": self.tokens, "longest": self.longest}
        for name, number in numbers.items():
            check_type(name, number, int)
        check_least(1, numbers)
        if self.tokens > self.longest:
            raise ConfigError(
                f"tokens: an average row has {self.tokens:,}, more than the {self.longest:,} of the longest one; "
                "give longest too"
            )

    @property
    def count(self) -> int:
        """The number of training rows."""
        return self.rows

    @property
    def in_epoch(self) -> int:
        """The number of rows of an epoch."""
        return self.rows

    @property
    def completion_tokens(self) -> int:
        """The supervised tokens of all rows."""
        return self.rows * self.tokens

    @property
    def supervised_tokens(self) -> int:
        """The supervised tokens of all rows, including evaluation rows; there are none of these here."""
        return self.completion_tokens

    def longer_than(self, limit: int) -> tuple[int, str]:
        """The number of rows with more than `limit` tokens, and the length of the longest one."""
        longer = self.rows if self.tokens > limit else int(self.longest > limit)
        return longer, f"the longest has {self.longest:,}"


class SupposedSteps:
    """The sizes of the steps that supposed rows make (`veneer.planning.batch_shape.StepSizes`).

    Args:
        rows: the supposed rows; for rows of several parts, each part is one.
        train: the size of a step, and the number of steps.
        together: the number of parts of a row.
    """

    def __init__(self, rows: SupposedRows, train: TrainSection, together: int = 1):
        in_step = examples_per_step(train)
        if in_step is None:
            in_step = max(1, (train.tokens_per_step or 1) // (rows.tokens * together))
        self._rows = rows
        self._together = together
        self._in_step = min(in_step, rows.rows)
        in_epoch = -(-rows.rows // self._in_step)
        self.total = train.steps or max(1, steps_in_epochs(train.epochs or 1.0, in_epoch))

    @property
    def longest(self) -> int:
        """The number of tokens of the longest row, over all of its parts."""
        return self._rows.longest * self._together

    def batch_shape(self, micro_batch_tokens: int) -> BatchShape:
        """What the steps consist of when a micro-batch has at most so many tokens."""
        return BatchShape.of_rows(
            self._rows.tokens,
            micro_batch_tokens,
            self._in_step,
            longest=self._rows.longest,
            together=self._together,
        )
