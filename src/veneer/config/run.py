"""The configuration of a whole run: its own settings and a section for each component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from veneer.config.compute import ComputeSection
from veneer.config.data import DataSection
from veneer.config.grpo import GrpoSection, RewardSpec
from veneer.config.lora import LoraSection, QuantSection
from veneer.config.numbers import Folder, Place
from veneer.config.objectives import (
    CpoSection,
    DistillationSection,
    DpoSection,
    KtoSection,
    OrpoSection,
    RewardSection,
    SimpoSection,
)
from veneer.config.section import Section, keys_of
from veneer.config.tracking import TrackingSection
from veneer.config.train import TrainSection
from veneer.enums import Backend, Method, ObjectiveName, TrackerName
from veneer.formulas import ReferencePolicy


class RunConfig(Section):
    """Settings of a training run.

    A configuration is made by keyword (`RunConfig(model=…, output=…, data={"file": …})`), from a mapping
    (`RunConfig.model_validate`) or from a YAML file (`parse(read_yaml(path), where=…)`). A section is given as a
    section or as a mapping.

    Raises:
        ConfigError: keys are unknown (veneer's name is suggested) or missing, or values are wrong; all are named.
    """

    model: Place
    """The base model: a directory, a GGUF file or a hub id."""
    revision: str | None = None
    """The branch, tag or commit of a hub id."""
    output: Folder
    """The folder of the run, which is created."""
    method: Method = Method.QLORA
    """What is trained: an adapter beside the base model (`lora`), an adapter beside the quantised base model (`qlora`),
    or every weight (`full`). A run that starts from an adapter (`train.from_adapter`) has the method of that adapter's
    run by default."""
    objective: ObjectiveName = ObjectiveName.SFT
    """What a step minimises: the cross-entropy of answers (`sft`) or of plain texts (`pretraining`), a loss of pairs of
    a chosen and a rejected answer (`dpo`, `orpo`, `cpo`, `simpo`), a loss of single answers that are desirable or not
    (`kto`), the divergence from a teacher's predictions (`distillation`), or a loss of scores of pairs (`reward`). With
    `grpo` the model samples answers, and those with higher `rewards` become likelier. docs/objectives.md has the
    formulas and the rows that each objective needs."""
    backend: Backend = Backend.AUTO
    """What computes the model: veneer's own decoder (`veneer`), or transformers (`hf`, for lora and qlora only) for
    architectures that the decoder does not know. `auto` is veneer's decoder if it knows the architecture."""
    track: tuple[TrackerName, ...] = ()
    """Trackers that record the run: `tensorboard`, `wandb` and `mlflow` write into the run's folder, `trackio` where it
    keeps all runs (docs/studio.md). A tracker that fails or is slow does not affect the run."""
    tracking: TrackingSection = TrackingSection()
    data: DataSection
    lora: LoraSection = LoraSection()
    quant: QuantSection = QuantSection()
    train: TrainSection = TrainSection()
    dpo: DpoSection = DpoSection()
    orpo: OrpoSection = OrpoSection()
    cpo: CpoSection = CpoSection()
    simpo: SimpoSection = SimpoSection()
    kto: KtoSection = KtoSection()
    distillation: DistillationSection = DistillationSection()
    reward: RewardSection = RewardSection()
    grpo: GrpoSection = GrpoSection()
    rewards: tuple[RewardSpec, ...] = ()
    """The rewards of sampled answers, for `objective: grpo`: `[{python: FILE.py:FUNCTION, weight: 1}, {metric: exact},
    {command: PROGRAM ARGUMENTS}, {adapter: FOLDER}]` (docs/objectives.md)."""
    compute: ComputeSection = ComputeSection()

    @property
    def reference(self) -> ReferencePolicy | None:
        """The reference of the run's objective; None if it has none."""
        match self.objective:
            case ObjectiveName.DPO:
                return self.dpo.reference
            case ObjectiveName.KTO:
                return self.kto.reference
            case ObjectiveName.GRPO:
                return self.grpo.reference
            case _:
                return None

    def changed(self, section: str, values: Mapping[str, object]) -> Self:
        """The configuration with other values in a section, which are taken as they are."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update=values)})


OBJECTIVE_SECTIONS = (
    ObjectiveName.DPO,
    ObjectiveName.ORPO,
    ObjectiveName.CPO,
    ObjectiveName.SIMPO,
    ObjectiveName.KTO,
    ObjectiveName.DISTILLATION,
    ObjectiveName.REWARD,
    ObjectiveName.GRPO,
)
"""The objectives that have a section of settings with the same name."""


def known_keys() -> list[str]:
    """Every dotted key of the configuration."""
    return keys_of(RunConfig)
