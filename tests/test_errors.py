from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veneer import errors
from veneer.errors import DataError, ModelError, VeneerError, listing, nearest, reading

EVERY = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, VeneerError)]


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "──" in line]
    parents: list[str] = ["VeneerError"]
    found = {}
    for line in drawn:
        before, _, rest = line.partition("── ")
        depth = 1 + before.count("    ") - (1 if before.startswith("    ") else 0)
        name = rest.split()[0]
        parents[depth:] = [name]
        found[name] = parents[depth - 1]
    assert found == {one.__name__: one.__mro__[1].__name__ for one in EVERY if one is not VeneerError}


@pytest.mark.parametrize("kind", EVERY)
def test_an_error_never_looks_like_success_or_a_finding(kind: type[VeneerError]) -> None:
    """0 is success, and 1 says that something was found."""
    assert kind.exit_code not in (0, 1)
    assert kind.__doc__


def test_what_cannot_be_read_is_named_with_the_systems_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"^{tmp_path}: cannot be read: Is a directory$"), reading(ModelError):
        tmp_path.read_bytes()
    with pytest.raises(ModelError, match=r"^it: cannot be read: Is a directory$"), reading(ModelError, "it"):
        tmp_path.read_bytes()
    with pytest.raises(DataError, match=r"^it: cannot be read: no gzip$"), reading(DataError, "it"):
        raise OSError("no gzip")


@given(st.lists(st.text("abc", min_size=1, max_size=3), max_size=30), st.integers(1, 25))
def test_a_listing_shows_so_many_and_counts_the_rest(lines: list[str], limit: int) -> None:
    shown = listing(lines, limit=limit).splitlines()
    assert shown[:limit] == [f"  - {line}" for line in lines[:limit]]
    more = len(lines) - limit
    assert shown[limit:] == ([f"  … and {more} more"] if more > 0 else [])


@pytest.mark.parametrize(
    ("name", "hint"),
    [("learning_rat", " (did you mean 'learning_rate'?)"), ("rnk", " (did you mean 'rank'?)"), ("zzz", ""), ("", "")],
)
def test_the_nearest_word_is_named_where_one_is_near(name: str, hint: str) -> None:
    assert nearest(name, ["learning_rate", "rank", "alpha"]) == hint
