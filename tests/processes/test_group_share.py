"""Rows and prompts that several processes share: what is printed is what one process prints, to the byte."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.models.tiny import rows, run_config, write_rows
from helpers.processes.ranks import Forker
from veneer.processes.group import Alone
from veneer.processes.group_share import GroupShare
from veneer.processes.ranks import Ranks
from veneer.training.run import train


class Board(Alone):
    """A group whose texts hang in one place."""

    def __init__(self, ranks: Ranks, texts: dict[str, str], changed: threading.Condition):
        self.ranks, self.texts, self.changed = ranks, texts, changed

    def publish(self, key: str, text: str) -> None:
        with self.changed:
            self.texts[key] = text
            self.changed.notify_all()

    def awaited(self, key: str) -> str:
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.texts, timeout=20)
            return self.texts[key]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_process_learns_of_every_item_in_order(world: int) -> None:
    def work(share: GroupShare) -> object:
        first = share.all([[number, f"«{number}»"] for number in share.own(7)], 7)
        return first, share.all([number**2 for number in share.own(2)], 2)

    assert in_each(world, work) == [([[n, f"«{n}»"] for n in range(7)], [0, 1])] * world


@pytest.mark.parametrize("world", [1, 3])
def test_what_the_first_process_makes_is_made_once_and_known_to_all(world: int) -> None:
    made: list[int] = []

    def work(share: GroupShare) -> object:
        def make() -> object:
            made.append(share.group.ranks.rank)
            return {"name": [len(made), None]}

        return share.from_first(make), share.from_first(make)

    assert in_each(world, work) == [({"name": [1, None]}, {"name": [2, None]})] * world
    assert made == [0, 0]


def in_each(world: int, work: Callable[[GroupShare], object]) -> list[object]:
    """What `work` returns in each of some processes that share items, by rank."""
    texts: dict[str, str] = {}
    changed, found = threading.Condition(), dict[int, object]()

    def run(rank: int) -> None:
        found[rank] = work(GroupShare(Board(Ranks(rank=rank, world=world), texts, changed)))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(world)]


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dealt") / "run"
    train(run_config(tiny_model, tiny_data, output, "train.steps=2"))
    return output


def test_an_evaluation_in_three_processes_is_that_of_one(
    forker: Forker, tiny_model: Path, adapter: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows(11, seed=4))
    argv = ["evaluate", "--model", tiny_model, "--adapter", adapter, "--data", data, "--max-new-tokens", "6",
            "--suite", "copying", "--suite-items", "5", "--suite", f"kl:{data}", "--json", "--device", "cpu",
            "--metric", "choice", "--metric", "exact"]  # fmt: skip
    labelled = [{"prompt": f"{n}?", "completion": "late" if n % 2 else "blue"} for n in range(9)]
    write_rows(data, labelled)
    (alone,), several = (forker.run(world, list(map(str, argv))) for world in (1, 3))
    assert [one.code for one in (alone, *several)] == [0] * 4, "".join(one.err for one in (alone, *several))

    def report(text: str) -> object:
        return json.loads(re.sub(r'"seconds": [0-9.e-]+', '"seconds": 0', text))

    assert report(several[0].out) == report(alone.out)
    assert [(one.out, one.err) for one in several[1:]] == [("", ""), ("", "")]


def test_answers_in_two_processes_are_those_of_one(forker: Forker, tiny_model: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(f"What is the parcel number {n}?" for n in range(7)) + "\n")
    argv = ["generate", "--model", tiny_model, "--input", questions, "--max-new-tokens", "8", "--temperature", "1.0",
            "--json", "--device", "cpu"]  # fmt: skip
    (alone,), two = (forker.run(world, list(map(str, argv))) for world in (1, 2))
    assert [one.code for one in (alone, *two)] == [0] * 3, alone.err + two[0].err + two[1].err
    assert two[0].out == alone.out
    assert len({json.loads(line)["answer"] for line in alone.out.splitlines()}) > 3  # each drew its own
    assert two[1].out == ""
    (refused, _) = forker.run(2, ["generate", "--model", str(tiny_model), "--prompt", "a"])
    assert "one process answers a single question" in refused.err


def test_a_sweep_in_two_processes_makes_the_points_of_one(
    forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    argv = ["sweep", "--model", tiny_model, "--data", tiny_data, "--method", "lora", "--device", "cpu", "--grid",
            "lora.rank=2,4,3", "--set", "train.steps=2", "--set", "compute.threads=1", "--json"]  # fmt: skip
    found = {}
    for world in (1, 2):
        ended = forker.run(world, [*map(str, argv), "--output", str(tmp_path / str(world))])
        assert [one.code for one in ended] == [0] * world, "".join(one.err for one in ended)
        points = sorted((tmp_path / str(world)).glob("*/adapter_model.safetensors"))
        found[world] = {path.parent.name: path.read_bytes() for path in points}
        table = json.loads((tmp_path / str(world) / "results.json").read_text())
        assert len(str(table)) > 100
    assert found[1] == found[2]
    assert len(found[1]) == 3
    assert ended[1].out == ""
    assert len(json.loads(ended[0].out)["points"]) == 3
    # Asked for again, nothing is left to do.
    again = forker.run(2, [*map(str, argv), "--output", str(tmp_path / "2")])
    assert [one.code for one in again] == [0, 0]


@pytest.mark.slow
def test_a_comparison_in_two_processes_has_the_results_of_one(
    forker: Forker, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    argv = ["compare", "--model", tiny_model, "--data", tiny_data, "--methods", "lora,qlora", "--seeds", "2",
            "--max-new-tokens", "4", "--set", "train.steps=2", "--set", "compute.threads=1", "--set",
            "compute.device=cpu", "--json"]  # fmt: skip
    found = {}
    for world in (1, 2):
        ended = forker.run(world, [*map(str, argv), "--output", str(tmp_path / str(world))])
        assert [one.code for one in ended] == [0] * world, "".join(one.err for one in ended)
        result = json.loads((tmp_path / str(world) / "compare.json").read_text())
        found[world] = [(one["method"], one["seed"], one["metrics"]) for one in result["outcomes"]]
    assert found[1] == found[2]
    assert len(found[1]) == 5
    assert ended[1].out == ""
