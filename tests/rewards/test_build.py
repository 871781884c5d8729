"""The rewards of a configuration: made by their kind, named, and files that they come from."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from helpers.rows.judged_answers import answers, functions
from veneer.config import RewardSpec
from veneer.errors import ConfigError
from veneer.rewards.build import judge_of, names_of, reward_files


def test_rewards_of_every_kind_judge_together(tmp_path: Path) -> None:
    file = functions(tmp_path)
    sections = [
        RewardSpec(python=f"{file}:length", weight=0.5),
        RewardSpec(metric="exact"),
        RewardSpec(command="sed s/.*/2/", name="two"),
    ]
    with judge_of(sections) as judge:
        found = judge.judged(answers("12", "123"))
    assert found.names == ("length", "exact", "two")
    assert found.totals.tolist() == [0.5 * 2 + 1 + 2, 0.5 * 3 + 0 + 2]


def test_names_are_told_apart() -> None:
    sections = [RewardSpec(metric="exact"), RewardSpec(metric="exact"), RewardSpec(metric="number", name="n")]
    assert names_of(sections) == ("exact", "exact-2", "n")
    assert names_of([RewardSpec(metric="exact")] * 3) == ("exact", "exact-2", "exact-3")


@pytest.mark.parametrize("order", itertools.permutations(["./a-2", "./a", "./a", "./a-2"]))
def test_no_two_rewards_have_one_name_whatever_they_are_called(order: tuple[str, ...]) -> None:
    names = names_of([RewardSpec(command=command) for command in order])
    assert len(set(names)) == 4
    assert {"a", "a-2"} < set(names)


@pytest.mark.parametrize(
    ("command", "said"), [("grade 'abc", '"grade \'abc": No closing quotation'), ("  ", "is empty; give a program")]
)
def test_a_command_without_a_program_is_refused_by_itself(command: str, said: str) -> None:
    sections = [RewardSpec(command=command)]
    for asked in (names_of, judge_of):
        with pytest.raises(ConfigError, match=f"rewards: command {said}"):
            asked(sections)


def test_all_rewards_that_cannot_be_used_are_named() -> None:
    sections = [RewardSpec(metric="exakt"), RewardSpec(metric="exact"), RewardSpec(command="no-such-program")]
    with pytest.raises(ConfigError) as caught:
        judge_of(sections)
    first, *lines = str(caught.value).splitlines()
    assert first == "rewards cannot be used:"
    assert len(lines) == 2
    assert "metric 'exakt' is unknown" in lines[0]
    assert "command 'no-such-program'" in lines[1]
    with pytest.raises(ConfigError, match=r"^rewards: metric 'exakt' is unknown"):
        judge_of(sections[:2])


def test_files_of_functions_are_known_by_their_keys(tmp_path: Path) -> None:
    sections = [RewardSpec(metric="exact"), RewardSpec(python=f"{tmp_path}/a.py:f")]
    assert reward_files(sections) == {"rewards.1.python": tmp_path / "a.py"}
    scored = reward_files([RewardSpec(adapter=f"{tmp_path}/judge")])
    assert list(scored) == ["rewards.0.adapter's adapter_config.json", "rewards.0.adapter's adapter_model.safetensors"]
    assert all(file.parent == tmp_path / "judge" for file in scored.values())


def test_reward_models_are_named_by_their_folder_and_wait_for_the_base(tmp_path: Path) -> None:
    sections = [RewardSpec(adapter=f"{tmp_path}/judge"), RewardSpec(metric="exact")]
    assert names_of(sections) == ("judge", "exact")
    with judge_of(sections) as judge:
        assert judge.names == ("exact",)


def test_what_is_not_there_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        judge_of([RewardSpec(metric="exact"), RewardSpec(python=f"{tmp_path}/a.py:f")])
    with pytest.raises(ConfigError, match=r"there is no program 'nope-\w+' that can be run"):
        judge_of([RewardSpec(command="nope-here --fast")])
    script = tmp_path / "judge.py"
    script.write_text("print(1)")
    with pytest.raises(ConfigError, match="python3 FILE"):
        judge_of([RewardSpec(command=str(script))])
