"""Rows of Arrow tables, the form in which Parquet files and datasets of the hub are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from veneer.data.files.json_values import BadRow, checked_row, only_once
from veneer.errors import DataError
from veneer.text.counting import count_of


def read_parquet(path: Path, notes: list[str]) -> Iterator[tuple[str, Any]]:
    """Read a file of Parquet; `notes` gets a sentence where rows have nulls inside their values.

    Raises:
        DataError: it is none, pyarrow is not installed, or a column holds what Python has no value for.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow; pip install 'veneer[parquet]'") from error
    number = nulls = 0
    try:
        with parquet.ParquetFile(path) as file:
            refuse_repeated(path, file.schema_arrow)
            for batch in file.iter_batches(batch_size=1024):
                for row in python_rows(path, batch):
                    number += 1
                    left, removed = without_nulls(row)
                    nulls += removed
                    yield f"{path}:{number}", checked_row(left)
    # pyarrow's ArrowInvalid and UnicodeDecodeError are both ValueErrors.
    except (ValueError, NotImplementedError, RecursionError) as error:
        raise DataError(f"{path}: invalid Parquet after row {number}: {error}") from error
    notes += nulls_noted(str(path), nulls)


def refuse_repeated(path: Path, fields: Iterable[Any], place: str = "") -> None:
    """Refuse columns, or fields inside a column, with the same name: Python objects keep only the last of their values.

    Args:
        path: the file.
        fields: a schema, or another object with fields.
        place: the column that contains the fields; empty for columns.

    Raises:
        DataError: several have the same name.
    """
    found = list(fields)
    repeated = [name for name, count in Counter(field.name for field in found).items() if count > 1]
    if repeated:
        what = f"a field of column {place!r}" if place else "a column name"
        raise DataError(f"{path}: {what} is repeated: {', '.join(map(repr, repeated))}; give each a name of its own")
    for field in found:
        refuse_repeated(path, _inner(field.type), f"{place}.{field.name}" if place else field.name)


def _inner(kind: Any) -> list[Any]:
    """The fields within a type; a list has one for its items."""
    from pyarrow import types

    if types.is_struct(kind):
        return [kind.field(number) for number in range(kind.num_fields)]
    if types.is_map(kind):
        return [kind.key_field, kind.item_field]
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return [kind.value_field] if lists else []


def python_rows(path: Path, batch: Any) -> list[dict[str, Any]]:
    """The rows of a batch as Python objects.

    Raises:
        DataError: Python has no such value; the column is named.
        ValueError: pyarrow raises it.
    """
    names = batch.schema.names
    columns = [_values(path, name, column) for name, column in zip(names, batch.columns, strict=True)]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _values(path: Path, name: str, column: Any) -> list[Any]:
    """The values of a column as Python objects, with maps as objects like in JSON.

    Raises:
        DataError: Python has no such value, or a key is twice in a map.
    """
    try:
        found: list[Any] = column.to_pylist()
    # An unknown time zone is a KeyError, whichever library looks it up.
    except (OverflowError, KeyError) as error:
        raise DataError(
            f"{path}: column {name!r} contains a value that cannot be read ({column.type}): {error}; Python's dates "
            "are of the years 1 to 9999, in time zones that the system knows. Save the column as text, or leave it out"
        ) from error
    if not _holds_maps(column.type):
        return found
    try:
        return [_with_objects(column.type, value) for value in found]
    except BadRow as problem:
        raise DataError(f"{path}: column {name!r}: {problem}; keep one of the two") from problem


def _holds_maps(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_map(kind)) or any(_holds_maps(field.type) for field in _inner(kind))


def _with_objects(kind: Any, value: Any) -> Any:
    """A value of a type with an object for every map, which pyarrow gives as a list of pairs.

    Raises:
        BadRow: a key is twice in a map, so that it is not known which value is meant.
    """
    from pyarrow import types

    if value is None:
        return None
    if types.is_map(kind):
        # Keys are text in JSON, while keys of a map may be numbers and dates.
        return only_once([(str(key), _with_objects(kind.item_type, item)) for key, item in value])
    inner = _inner(kind)
    if types.is_struct(kind):
        return {field.name: _with_objects(field.type, value[field.name]) for field in inner}
    return [_with_objects(inner[0].type, item) for item in value] if inner else value


def nulls_noted(source: str, rows: int) -> list[str]:
    """A note about rows of Arrow tables that had nulls inside their values (`without_nulls`)."""
    if not rows:
        return []
    have = "has nulls inside its" if rows == 1 else "have nulls inside their"
    return [
        f"{source}: {count_of(rows, 'row')} {have} objects; Arrow and Parquet cannot tell a null from an absent "
        "key, so they are read as absent (JSON Lines keeps the difference)"
    ]


def without_nulls(row: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A row without the nulls that Arrow, and so Parquet, has where a struct lacks a field of another; and whether
    there were any inside its values."""
    found = False

    def clean(value: Any) -> Any:
        nonlocal found
        if isinstance(value, dict):
            kept = {key: clean(item) for key, item in value.items() if item is not None}
            found = found or len(kept) < len(value)
            return kept
        return [clean(item) for item in value] if isinstance(value, list) else value

    return {key: clean(value) for key, value in row.items() if value is not None}, found
