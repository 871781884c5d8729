"""Names of adapters: one run's alone, and the same whichever other runs there are."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from helpers.run_folders.run_logs import write_run
from veneer.adapters.files.store import CONFIG_FILE
from veneer.jobs.sqlite_store import SqliteStore
from veneer.studio.bases import Bases
from veneer.studio.results import adapter_name, results_of
from veneer.studio.watch import Watcher

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


def test_no_adapter_has_the_name_of_a_base_that_the_studio_was_started_with(tmp_path: Path) -> None:
    """The base could not be asked by it any more."""
    (tmp_path / "models" / "other").mkdir(parents=True)
    folder = write_run(tmp_path / "runs" / "other", config="model: bases/tiny\nmethod: lora\n")
    (folder / CONFIG_FILE).write_text("{}")
    watcher = Watcher(tmp_path / "runs", SqliteStore(tmp_path / "runs"))
    watcher.look()
    (name,) = results_of(watcher, Bases((), watcher).all())
    assert name == "other"
    (name,) = results_of(watcher, Bases((str(tmp_path / "models" / "other"),), watcher).all())
    assert name.startswith("other-")
