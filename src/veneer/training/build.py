"""The parts of a run that compute: the base model in the form of the method, and the adapter on it."""

from __future__ import annotations

import torch

from veneer.adapters.eva import MeasuredDocuments, directions
from veneer.adapters.inject import InitSources, inject
from veneer.adapters.targets import EMBEDDING
from veneer.adapters.vocabulary import resize_embeddings
from veneer.backends.load import load_language_model
from veneer.enums import Init, Method
from veneer.events import Stage, Subscriber
from veneer.io.checkpoint import model_name
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import unloaded_model
from veneer.machine.hardware import resolve_device, resolve_dtype
from veneer.model.decoder import CausalLM
from veneer.model.language import LanguageModel
from veneer.processes.group import Group
from veneer.training.parallel.shards import Shards
from veneer.training.run_inputs import RunInputs
from veneer.training.sharded import ShardedTraining
from veneer.training.trainable import AdapterTraining, FullTraining, Trainable

EVA_ROWS = 2
"""Supervised tokens that EVA looks at, for each element of the widest layer's input."""


def sharded(inputs: RunInputs, group: Group, emit: Subscriber) -> ShardedTraining:
    """Load this process's parts of a model that is trained in full; no process ever holds all weights.

    Args:
        group: the connected processes of the run.
        emit: receives the progress of loading.

    Raises:
        VeneerError: the model cannot be loaded, or cannot be trained this way.
    """
    config, origin = inputs.config, inputs.origin
    device = resolve_device(config.compute.device)
    model = unloaded_model(origin, resolve_dtype(config.compute.dtype, device))
    shards = Shards(model, group, device)
    with Stage(emit, f"loading {config.model}", total=len(shards.parts), unit="tensors") as stage:
        for name in shards.parts:
            stage.advance(item=name)
            shards.read(name, origin)
    return ShardedTraining(model, origin, shards)


def trainable_of(model: LanguageModel, inputs: RunInputs) -> Trainable:
    """The part of the model that the run trains.

    Args:
        model: the base, which is changed in place.

    Raises:
        VeneerError: the adapter cannot be made as the run requires.
    """
    if inputs.config.method is Method.FULL:
        assert isinstance(model, CausalLM), "nobody else's models are fine-tuned in full"
        return FullTraining(model, inputs.origin)
    resize_embeddings(model, inputs.prepared.description.spec.vocab_size)
    return adapter_on(model, inputs)


WEIGHT_FORMS = {Method.LORA: WeightForm.FROZEN, Method.QLORA: WeightForm.QUANTIZED, Method.FULL: WeightForm.TRAINABLE}


def base_model(inputs: RunInputs, emit: Subscriber) -> LanguageModel:
    """The model in the form of the run's method, without an adapter. `emit` receives the progress of loading."""
    config = inputs.config
    device = resolve_device(config.compute.device)
    with Stage(emit, f"loading {config.model}", total=len(inputs.origin.names()), unit="tensors") as stage:
        return load_language_model(
            inputs.origin,
            config.backend,
            Loading(
                form=WEIGHT_FORMS[config.method],
                dtype=resolve_dtype(config.compute.dtype, device),
                device=device,
                products=config.compute.products,
                quant=config.quant,
                progress=lambda name: stage.advance(item=name),
            ),
        )


def adapter_on(model: LanguageModel, inputs: RunInputs) -> AdapterTraining:
    """Put the run's adapter, with its starting weights, on a model that has no adapter and has rows for the run's
    tokens.

    Args:
        model: the model, which is changed in place.
    """
    config, prepared, origin = inputs.config, inputs.prepared, inputs.origin
    assert prepared.lora is not None
    sources = InitSources(
        original=lambda name: origin.read(name, torch.float32),
        directions=_measured_directions(model, inputs) if prepared.lora.init is Init.EVA else None,
    )
    start = prepared.start
    tensors = {} if start is None else start.tensors(model)
    adapter = inject(model, prepared.lora, seed=config.train.seed, sources=sources, targets=prepared.targets)
    if start is not None:
        adapter = start.given_to(adapter, tensors)
    if prepared.plan is not None and prepared.plan.choice.memory.rounded:
        adapter.round_ahead(model.dtype)
    saved = inputs.data.tokenizer if config.lora.new_tokens else None
    return AdapterTraining(adapter, model_name(origin.source), config.revision, saved)


def _measured_directions(model: LanguageModel, inputs: RunInputs) -> dict[str, torch.Tensor]:
    """The directions of EVA, measured on the rows of the run's first steps. These are enough rows to span the widest
    layer."""
    lora, steps = inputs.prepared.lora, inputs.data.steps
    assert lora is not None
    assert isinstance(model, CausalLM), "EVA is refused where updates stand on linear layers alone"
    wanted = EVA_ROWS * max(model.spec.hidden_size, model.spec.intermediate_size)
    documents: list[MeasuredDocuments] = []
    for step in range(1, steps.total + 1):
        documents += steps.micro_batches(step)
        if sum(len(measured.rows) for measured in documents) >= wanted:
            break
    ranks = {path: lora.rank_of(path) for path in inputs.prepared.targets if path != EMBEDDING}
    return directions(model, documents, ranks)
