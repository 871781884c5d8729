"""The reference of a run's objective, computed before the first step by the model that is about to be trained.

The reference is the model as the run starts, or the base with the adapter off. Both exist before anything is trained,
so that no second model is loaded or held. The rows are computed in the micro-batches of the first steps, in evaluation
mode: with a fresh adapter the answers have the log-probabilities of the reference.

The results are kept in the run's folder (8 bytes an answer) under a digest of everything that they depend on: the base,
the adapter that the run starts from, the rows as tokens, and how they are packed and computed. A resumed run reads them
from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from veneer.data.micro_batches.batches import Beside, MicroBatch
from veneer.enums import ObjectiveName, Sharding
from veneer.events import Level, Note, Stage, Subscriber
from veneer.formulas import ReferencePolicy
from veneer.io.digests import sampled_digest
from veneer.machine.hardware import processor
from veneer.machine.out_of_memory import out_of_memory_while
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode
from veneer.training.folder.keyed_tensors import key_of, read_under, write_under
from veneer.training.from_adapter import adapter_digests
from veneer.training.objectives.base import StepObjective
from veneer.training.objectives.choose import needs_reference, objective_of
from veneer.training.objectives.distillation import Teacher
from veneer.training.objectives.documents import log_probabilities
from veneer.training.objectives.reference import ReferenceTable
from veneer.training.over_model import OverModel, hidden_states
from veneer.training.prepare import TrainingData
from veneer.training.references.partners import Partners
from veneer.training.references.reference_point import (
    Partner,
    PartnerLayout,
    WithReferencePoint,
    beside_log_probabilities,
    partner_log_probabilities,
    partners_beside,
)
from veneer.training.run_inputs import RunInputs
from veneer.training.steps import lanes_in
from veneer.training.trainable import AdapterTraining, Trainable

DOING = "computing the reference's log-probabilities"
NO_PARTNERS = (
    "no step has two rows with different prompts and different answers, so that KTO's reference point is 0 throughout; "
    "give rows with different prompts, or more rows a step"
)
VALUES, PARTNERS, PARTNER_VALUES = "values", "partners", "partner_values"


@dataclass(frozen=True, slots=True)
class Reference:
    """The known values of a run's reference."""

    table: ReferenceTable
    """The log-probabilities of the answers for training and evaluation."""
    partners: dict[Partner, float] = field(default_factory=dict)
    """The log-probabilities of answers to other prompts, for KTO's reference point."""

    @classmethod
    def unknown(cls, inputs: RunInputs) -> Reference:
        """A reference that knows no values yet. An objective without a reference gets an empty table."""
        needed, rows = needs_reference(inputs.config.objective), inputs.data.rows
        return cls(ReferenceTable.empty(len(rows.train) + len(rows.eval) if needed else 0))


def partners_of(inputs: RunInputs) -> Partners | None:
    """The answers to other prompts for KTO's reference point; None for other objectives."""
    rows = inputs.data.rows
    if inputs.config.objective is not ObjectiveName.KTO:
        return None
    return Partners.among([*rows.train, *rows.eval], inputs.config.train.seed)


def objective_over(
    inputs: RunInputs,
    model: LanguageModel,
    reference: Reference,
    partners: Partners | None,
    teacher: Teacher | None = None,
    score: nn.Module | None = None,
) -> StepObjective:
    """The objective of a run over its model, with the reference, the teacher or the score head that it has."""
    over = OverModel(model, objective_of(inputs.config, reference.table, inputs.data.rows, teacher, score))
    if partners is None:
        return over
    return WithReferencePoint(over, partners, reference.partners, partner_layout(inputs))


def partner_layout(inputs: RunInputs) -> PartnerLayout:
    """How KTO's answers to other prompts are packed. They are not packed beside others if the weights are in parts,
    which are gathered for one pass at a time."""
    packing = inputs.data.packed.packing
    beside = packing.prompts and inputs.config.compute.sharding is Sharding.NONE
    return PartnerLayout(beside, packing.prompts, packing.pad_to_multiple_of)


def reference_of(
    inputs: RunInputs, model: LanguageModel, trainable: Trainable, partners: Partners | None, emit: Subscriber
) -> Reference:
    """The reference's log-probabilities of the rows for training and evaluation.

    Args:
        inputs: the run.
        model: the model as the run starts.
        trainable: the part that is trained.
        partners: the answers to other prompts that are needed too, if any.
        emit: receives the progress.

    Raises:
        OutOfMemory: a micro-batch does not fit.
        OutputError: the file cannot be written.
    """
    data = inputs.data
    reference = Reference.unknown(inputs)
    if not needs_reference(inputs.config.objective):
        return reference
    file, key = inputs.folder.reference_file, _key(inputs, model)
    _read(file, key, reference, emit)
    unknown = reference.table.unknown(data.met())
    wanted = wanted_partners(data, partners) if partners is not None else []
    if partners is not None and not wanted:
        emit(Note(message=NO_PARTNERS, level=Level.WARNING))
    pairs = [pair for pair in wanted if pair not in reference.partners]
    if not unknown and not pairs:
        return reference
    without: AbstractContextManager[None] = nullcontext()
    if inputs.config.reference is ReferencePolicy.BASE and isinstance(trainable, AdapterTraining):
        without = trainable.adapter.disabled()
    with (
        Stage(emit, DOING, total=unknown + len(pairs), unit="answers") as stage,
        out_of_memory_while(DOING),
        evaluation_mode(model),
        torch.no_grad(),
        without,
    ):
        if partners is None:
            for batch in data.packed.unmet(reference.table.unknown):
                _answers(model, batch, reference, stage)
        else:
            most = int(inputs.config.compute.micro_batch_tokens)
            labelled = _Labelled(model, partners, partner_layout(inputs), most, reference, stage)
            for step in _laid_steps(data):
                labelled.step(step)
    _write(file, key, reference)
    return reference


def _answers(model: LanguageModel, batch: MicroBatch, reference: Reference, stage: Stage) -> None:
    """The log-probabilities of a micro-batch's answers."""
    values = log_probabilities(hidden_states(model, batch), model.lm_head, model.spec.scores, batch)
    _fill_in(batch, values, reference, stage)


def _fill_in(batch: MicroBatch, values: Tensor, reference: Reference, stage: Stage) -> None:
    """Store the values of a micro-batch, and report how many more answers are known."""
    unknown = reference.table.unknown(batch.numbers)
    reference.table.put(batch, values)
    stage.advance(unknown)


@dataclass(frozen=True, slots=True)
class _LaidStep:
    """The rows of a step, and the micro-batches in which it will be trained; none if all rows occurred before."""

    numbers: Sequence[int]
    batches: Sequence[MicroBatch]


def _laid_steps(data: TrainingData) -> Iterator[_LaidStep]:
    """All steps of a run, and its evaluation."""
    steps = data.packed
    for step in range(1, steps.total + 1):
        yield _LaidStep(steps.numbers(step), steps.micro_batches(step) if step <= steps.first_steps else [])
    evaluation = steps.evaluation()
    yield _LaidStep([number for batch in evaluation for number in batch.numbers], evaluation)


@dataclass(frozen=True, slots=True)
class _Labelled:
    """The log-probabilities of labelled answers and of their partners, packed as they will be in training."""

    model: LanguageModel
    partners: Partners
    layout: PartnerLayout
    most: int
    """The most tokens of a micro-batch."""
    reference: Reference
    stage: Stage

    def step(self, step: _LaidStep) -> None:
        """Compute the missing log-probabilities of a step."""
        pairs = self.partners.of(step.numbers)
        fresh = self.reference.table.missing(step.batches)
        whole = len(fresh) == len(step.batches)
        beside = partners_beside(fresh, self.partners, pairs, self.layout) if whole else None
        if beside is not None:
            self._together(fresh[0], pairs, beside)
            return
        for batch in fresh:
            _answers(self.model, batch, self.reference, self.stage)
        pairs = [pair for pair in pairs if pair not in self.reference.partners]
        if pairs:
            most = max(len(batch.tokens) for batch in step.batches) if step.batches else self.most
            self._add(pairs, partner_log_probabilities(self.model, self.partners, pairs, most, self.layout))

    def _together(self, batch: MicroBatch, pairs: Sequence[Partner], beside: Beside) -> None:
        hidden, values = beside_log_probabilities(self.model, self.partners, pairs, batch, beside)
        own = log_probabilities(hidden, self.model.lm_head, self.model.spec.scores, batch)
        _fill_in(batch, own, self.reference, self.stage)
        self._add(pairs, values)

    def _add(self, pairs: Sequence[Partner], values: Tensor) -> None:
        self.reference.partners.update(zip(pairs, values.tolist(), strict=True))
        self.stage.advance(len(pairs))


def wanted_partners(data: TrainingData, partners: Partners) -> list[Partner]:
    """The partners of all steps and of the evaluation, each once."""
    steps = [data.packed.numbers(step) for step in range(1, data.packed.total + 1)]
    held_out = range(len(data.rows.train), len(data.rows.train) + len(data.rows.eval))
    return list(dict.fromkeys(pair for numbers in (*steps, held_out) for pair in partners.of(numbers)))


def _write(file: Path, key: str, reference: Reference) -> None:
    pairs = np.array(list(reference.partners), dtype=np.int64).reshape(-1, 2)
    tensors = {
        VALUES: torch.from_numpy(reference.table.values),
        PARTNERS: torch.from_numpy(pairs),
        PARTNER_VALUES: torch.tensor(list(reference.partners.values()), dtype=torch.float64),
    }
    write_under(file, key, tensors)


def _key(inputs: RunInputs, model: LanguageModel) -> str:
    """A digest of everything that the log-probabilities depend on, to the bit."""
    config, data, reference = inputs.config, inputs.data, inputs.config.reference
    assert reference is not None, "an objective without a reference has no such file"
    start = reference is ReferencePolicy.START
    depends_on: dict[str, Any] = {
        "model": sampled_digest(inputs.origin.files()),
        "adapter": adapter_digests(config) if start else {},
        "lora": config.lora.model_dump(mode="json") if start else {},
        "reference": reference.value,
        "rows": data.rows.digest(),
        "method": config.method.value,
        "quant": config.quant.model_dump(mode="json"),
        "products": config.compute.products.value,
        "steps": [config.train.seed, config.train.examples_per_step, config.train.tokens_per_step],
        "micro-batch": [config.compute.micro_batch_tokens, lanes_in(config.train)],
        "computed": [str(model.dtype), processor(model.device), torch.get_num_threads(), torch.__version__],
    }
    if config.objective is ObjectiveName.KTO:
        depends_on["partners"] = "cut to the longest row"
    return key_of(depends_on)


def _read(file: Path, key: str, reference: Reference, emit: Subscriber) -> None:
    """Load the values of a file that was written under this key, if there is one."""
    names = (VALUES, PARTNERS, PARTNER_VALUES)
    stored = read_under(file, key, names, "the log-probabilities are", emit)
    if stored is None:
        return
    values, pairs, partner_values = (stored[name] for name in names)
    reference.table.values[:] = values.numpy()
    rows = [(int(row), int(partner)) for row, partner in pairs.tolist()]
    reference.partners.update(zip(rows, partner_values.tolist(), strict=True))
