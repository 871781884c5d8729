"""A teacher that computes during the steps of its student, or before them.

A teacher is a model of its own, or an adapter on the student's base. An adapter needs no extra memory for a base: its
modules replace the student's for a forward pass, and both use the base's weights. The teacher computes its predictions
for a micro-batch in a separate forward pass without gradients; its head is multiplied in chunks, together with the
student's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from veneer.adapters.adapter_set import AdapterSet
from veneer.adapters.load import load_adapter
from veneer.backends.load import load_language_model
from veneer.config import RunConfig
from veneer.data.micro_batches.batches import MicroBatch
from veneer.enums import Backend
from veneer.events import Stage, Subscriber
from veneer.gpu.transfer import sent
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.machine.hardware import resolve_device, resolve_dtype
from veneer.model.decoder import shaped
from veneer.model.language import LanguageModel
from veneer.model.mode import evaluation_mode
from veneer.training.objectives.distillation import Teacher
from veneer.training.objectives.divergences import Taught, TaughtRows
from veneer.training.over_model import hidden_states
from veneer.training.teaching.teacher import teacher_is_packed
from veneer.training.trainable import AdapterTraining, Trainable

STUDENT, TEACHER = "student", "teacher"


def load_teacher(config: RunConfig, emit: Subscriber) -> LanguageModel:
    """The teacher as a separate model, in evaluation mode, frozen in the run's dtype. Its base is quantised if it is
    the run's own, and the student's is quantised.

    Raises:
        VeneerError: the teacher cannot be loaded.
    """
    settings = config.distillation
    name, revision = (config.model, config.revision) if settings.teacher is None else (settings.teacher, None)
    origin, device = open_checkpoint(name, revision=revision), resolve_device(config.compute.device)
    with Stage(emit, f"loading the teacher {name}", total=len(origin.names()), unit="tensors") as stage:
        model = load_language_model(
            origin,
            config.backend if settings.teacher is None else Backend.AUTO,
            Loading(
                form=WeightForm.QUANTIZED if teacher_is_packed(config) else WeightForm.FROZEN,
                dtype=resolve_dtype(config.compute.dtype, device),
                device=device,
                quant=config.quant,
                progress=lambda name: stage.advance(item=name),
            ),
        )
    if settings.teacher_adapter is not None:
        load_adapter(model, Path(settings.teacher_adapter))
    model.requires_grad_(False)
    model.eval()
    return model


@dataclass(frozen=True, slots=True)
class LiveTeacher:
    """A teacher that computes its predictions for every micro-batch (`Teacher`)."""

    model: LanguageModel
    compared: int
    """The number of tokens whose probabilities are compared."""
    temperature: float
    in_place: Callable[[], AbstractContextManager[None]] = nullcontext
    """Makes `model` the teacher within a block, if it is the student otherwise."""

    @torch.no_grad()
    def of(self, batch: MicroBatch) -> TaughtRows:
        """The teacher's predictions for the supervised tokens of a micro-batch."""
        model = self.model
        with evaluation_mode(model), self.in_place():
            hidden = hidden_states(model, batch)
            head, scores = model.lm_head, model.spec.scores
        rows = hidden.index_select(0, sent(batch.rows, hidden.device))

        @torch.no_grad()
        def taught(some: slice) -> Taught:
            logits = shaped(head(rows[some]), scores)[:, : self.compared]
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return Taught(torch.log_softmax(wide / self.temperature, -1))

        return taught


def live_teacher(config: RunConfig, model: LanguageModel, trainable: Trainable, emit: Subscriber) -> Teacher:
    """The teacher of a run, loaded next to its student.

    Args:
        config: the run.
        model: the student, with what is trained on it.
        trainable: the part that is trained.
        emit: receives the progress of loading.

    Raises:
        VeneerError: the teacher cannot be loaded.
    """
    settings = config.distillation
    if settings.teacher is not None:
        teacher = load_teacher(config, emit)
        compared = min(model.spec.vocab_size, teacher.spec.vocab_size)
        return LiveTeacher(teacher, compared, settings.temperature)
    assert settings.teacher_adapter is not None, "a run without any teacher is refused"
    assert isinstance(trainable, AdapterTraining), "with a teacher adapter on its own base no other run is allowed"
    adapters = AdapterSet(model)
    adapters.adopt(STUDENT, trainable.adapter)
    adapters.load(TEACHER, Path(settings.teacher_adapter))
    adapters.use(STUDENT)

    @contextmanager
    def switched() -> Iterator[None]:
        adapters.use(TEACHER)
        try:
            yield
        finally:
            adapters.use(STUDENT)

    return LiveTeacher(model, model.spec.vocab_size, settings.temperature, switched)
