"""Names of adapters: one run's alone, and the same whichever other runs there are."""

from __future__ import annotations

from itertools import combinations

import pytest

from veneer.studio.results import adapter_name

NAMES = (
    *("team/a", "a/b-c", "a-b/c", "a/b/c", "日本", "中国", "run", "a b", "a:b", "a/b ", "_a", ".a", "-a", "a", "model"),
    *("x" * 91, "x" * 92),
)


@pytest.mark.parametrize("name", ["one", "my-run", "done.2_b", "x" * 90])
def test_a_run_whose_name_a_model_may_have_gives_it_to_its_adapter(name: str) -> None:
    assert adapter_name(name, {name, "other"}, {"base"}) == name


def test_a_slash_is_read_as_a_dash_unless_a_run_is_called_so() -> None:
    assert adapter_name("done/one", {"done/one"}, ()) == "done-one"
    both = {"done/one", "done-one"}
    assert adapter_name("done-one", both, ()) == "done-one"
    assert adapter_name("done/one", both, ()).startswith("done-one-")


def test_no_two_runs_have_one_name_and_none_has_a_bases() -> None:
    runs = {*NAMES, *(name.replace("/", "-") for name in NAMES)}
    made = {run: adapter_name(run, runs, {"model"}) for run in runs}
    assert [pair for pair in combinations(runs, 2) if made[pair[0]] == made[pair[1]]] == []
    assert "model" not in made.values()


def test_a_name_does_not_depend_on_runs_that_are_called_otherwise() -> None:
    runs = set(NAMES)
    assert {name: adapter_name(name, runs, ()) for name in NAMES} == {
        name: adapter_name(name, {name}, ()) for name in NAMES
    }
