"""The configuration of a run: typed sections, read strictly from YAML and written back with every choice resolved.

Each section goes only to its own component. Values are checked where they are declared; rules between two sections are
checked in `check`, which only raises. Nothing is changed after parsing: a value that the program chooses itself
(`auto`) is chosen by the component that uses it, and recorded in the run's `config.yaml`.
"""

from veneer.config.checks import ALTERNATIVES, check, quant_problems
from veneer.config.compute import ComputeSection
from veneer.config.data import DataSection, SourceSection, SplitSection
from veneer.config.grpo import GrpoSection, RewardSpec
from veneer.config.lora import LoraSection, QuantSection
from veneer.config.objectives import (
    CpoSection,
    DistillationSection,
    DpoSection,
    KtoSection,
    OrpoSection,
    RewardSection,
    SimpoSection,
)
from veneer.config.parse import parse, to_yaml
from veneer.config.run import RunConfig, known_keys
from veneer.config.tracking import TrackingSection
from veneer.config.train import TrainSection

__all__ = [
    "ALTERNATIVES", "ComputeSection", "CpoSection", "DataSection", "DistillationSection", "DpoSection", "GrpoSection",
    "KtoSection", "LoraSection", "OrpoSection", "QuantSection", "RewardSection", "RewardSpec", "RunConfig",
    "SimpoSection", "SourceSection", "SplitSection", "TrackingSection", "TrainSection", "check", "known_keys", "parse",
    "quant_problems", "to_yaml",
]  # fmt: skip
