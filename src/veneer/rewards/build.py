"""The rewards that a configuration names, ready for use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from veneer.adapters.files.store import CONFIG_FILE, WEIGHTS_FILE
from veneer.config import RewardSpec
from veneer.errors import ConfigError, listing
from veneer.rewards.base import AnswerReward
from veneer.rewards.command_reward import CommandReward, arguments_of
from veneer.rewards.judge import Judge, WeighedReward
from veneer.rewards.metric_reward import MetricReward
from veneer.rewards.python_reward import PythonReward


def judge_of(sections: Sequence[RewardSpec], stop: Callable[[], bool] = lambda: False) -> Judge:
    """The rewards of a run that need no model. The processes of Python rewards are started, and the caller closes them.

    Args:
        sections: the rewards in the configuration.
        stop: called while rewards are running; true ends them.

    Raises:
        ConfigError: a file, function or metric does not exist or cannot be loaded, or a command names no program. Every
            such reward is named.
    """
    with ExitStack() as started:
        found, problems = [], list[ConfigError]()
        for section, name in zip(sections, names_of(sections), strict=True):
            if section.adapter is not None:
                continue  # it uses the run's base, once that is loaded (`veneer.training.rewarding.score_reward`)
            try:
                reward = _made(section, stop)
            except ConfigError as error:
                problems.append(error)
                continue
            started.callback(reward.close)
            found.append(WeighedReward(name, reward, section.weight, section.on_error))
        if problems[1:]:
            said = [str(one).removeprefix("rewards: ") for one in problems]
            raise ConfigError(f"rewards cannot be used:\n{listing(said)}")
        if problems:
            raise problems[0]
        started.pop_all()
    return Judge(found)


def names_of(sections: Sequence[RewardSpec]) -> tuple[str, ...]:
    """The names of rewards in metrics: the given name, or that of the function, program, metric or folder. If a name
    occurs twice, a number is added that makes it unique.

    Raises:
        ConfigError: a command names no program.
    """
    own = [section.name or _own_name(section) for section in sections]
    found: list[str] = []
    for name in own:
        numbered = (f"{name}-{number}" for number in count(2))
        found.append(name if name not in found else next(one for one in numbered if one not in (*found, *own)))
    return tuple(found)


def reward_files(sections: Sequence[RewardSpec]) -> dict[str, Path]:
    """The files of Python rewards and of reward models, by their keys in the configuration."""
    found = {}
    for number, section in enumerate(sections):
        if section.python is not None:
            found[f"rewards.{number}.python"] = Path(section.python.rpartition(":")[0])
        if section.adapter is not None:
            folder = Path(section.adapter)
            found |= {f"rewards.{number}.adapter's {name}": folder / name for name in (CONFIG_FILE, WEIGHTS_FILE)}
    return found


def _own_name(section: RewardSpec) -> str:
    if section.python is not None:
        return section.python.rpartition(":")[2]
    if section.command is not None:
        return Path(arguments_of(section.command)[0]).stem
    if section.adapter is not None:
        return Path(section.adapter).resolve().name
    assert section.metric is not None
    return section.metric


def _made(section: RewardSpec, stop: Callable[[], bool]) -> AnswerReward:
    if section.python is not None:
        return PythonReward(section.python, seconds=section.time_limit, stop=stop)
    if section.command is not None:
        return CommandReward(section.command, seconds=section.time_limit, stop=stop)
    assert section.metric is not None, "the configuration has checked that one of the four is set"
    return MetricReward(section.metric, section.column)
