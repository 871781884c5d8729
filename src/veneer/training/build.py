"""What a run trains: the model as its method holds it, and the adapter on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from veneer.adapters.eva import MeasuredDocuments, directions
from veneer.adapters.experts import target_paths
from veneer.adapters.inject import InitSources, inject, linear_paths
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING
from veneer.adapters.vocabulary import resize_embeddings
from veneer.backends.load import load_hf
from veneer.config import QuantSection, RunConfig
from veneer.data.rows import Rows
from veneer.enums import Backend, Init, Method
from veneer.errors import ConfigError
from veneer.hardware import resolve_dtype
from veneer.io.checkpoint import Checkpoint
from veneer.io.tokenizer import Tokenizer
from veneer.load import WeightForm, load_model, refuse_training
from veneer.model.decoder import CausalLM
from veneer.model.language import LanguageModel, ModelSpec
from veneer.model.spec import DecoderSpec
from veneer.training.steps import PackedSteps
from veneer.training.trainable import AdapterTraining, FullTraining, Trainable

EVA_ROWS = 2
"""Supervised tokens that EVA looks at, for each element of the widest layer's input."""


def as_stored(config: RunConfig, origin: Checkpoint, stored: QuantSection) -> tuple[RunConfig, str]:
    """The configuration for a base whose files are quantised already, and a sentence about it: what the files say
    stands in place of `quant`.

    Raises:
        ConfigError: the run needs what was quantised away.
    """
    if config.method is Method.FULL:
        refuse_training(origin.source, stored.scheme)
    if config.lora.init is Init.LOFTQ:
        raise ConfigError(
            f"lora.init loftq makes up for what quantising took away, and {origin.source} is stored quantised, without "
            "what it was made from; take another init, or method qlora on the model's unquantised checkpoint"
        )
    dense = f", {len(stored.skip_modules)} of its linear layers dense" if stored.skip_modules else ""
    said = (
        f"{origin.source} is stored quantised ({stored.scheme.value}{dense}): the base is taken as it is, whatever "
        "quant and method say"
    )
    return config.model_copy(update={"quant": stored}), said


def with_new_tokens(
    config: RunConfig, tokenizer: Tokenizer, spec: DecoderSpec
) -> tuple[RunConfig, Tokenizer, DecoderSpec]:
    """The run, its tokenizer and the model's shapes with `lora.new_tokens`, whose rows are among those trained.

    Raises:
        ModelError: a text is a token already, or cannot be one.
    """
    texts = config.lora.new_tokens
    if not texts:
        return config, tokenizer, spec
    known = tokenizer.with_tokens(texts)
    ids = {token for token in map(known.backend.token_to_id, texts) if token is not None}
    trained = tuple(sorted({*config.lora.trainable_tokens, *ids}))
    lora = config.lora.model_copy(update={"trainable_tokens": trained})
    rows = max(spec.vocab_size, known.vocab_size)
    return config.model_copy(update={"lora": lora}), known, replace(spec, vocab_size=rows)


def build(
    config: RunConfig,
    rows: Rows,
    origin: Checkpoint,
    tokenizer: Tokenizer,
    spec: ModelSpec,
    device: torch.device,
) -> tuple[LanguageModel, Trainable]:
    """Load the model and put on it what is trained.

    Args:
        config: the run, with everything chosen.
        rows: encoded; some starts are measured on them.
        origin: the model's files.
        tokenizer: with the run's new tokens.
        spec: with their rows.
        device: where the model goes.

    Raises:
        VeneerError: model or adapter cannot be made as the run asks for it.
    """
    if config.backend is Backend.HF:
        theirs = load_hf(
            origin,
            form=HOLDINGS[config.method],
            dtype=resolve_dtype(config.compute.dtype, device),
            device=device,
            quant=config.quant,
        )
        return theirs, adapter_on(theirs, config, origin, tokenizer)
    model = base_model(config, origin, device)
    if config.method is Method.FULL:
        return model, FullTraining(model, origin)
    resize_embeddings(model, spec.vocab_size)
    return model, adapter_on(model, config, origin, tokenizer, measured_directions(config, rows, model))


HOLDINGS = {Method.LORA: WeightForm.FROZEN, Method.QLORA: WeightForm.QUANTIZED, Method.FULL: WeightForm.TRAINABLE}


def base_model(config: RunConfig, origin: Checkpoint, device: torch.device) -> CausalLM:
    """The model as the run's method holds it, on veneer's own decoder."""
    return load_model(
        origin,
        form=HOLDINGS[config.method],
        dtype=resolve_dtype(config.compute.dtype, device),
        device=device,
        products=config.compute.products,
        quant=config.quant,
    )


def adapter_on(
    model: LanguageModel,
    config: RunConfig,
    origin: Checkpoint,
    tokenizer: Tokenizer,
    directions: Mapping[str, torch.Tensor] | None = None,
) -> AdapterTraining:
    """Put the run's adapter, as it starts, on a model that has none and has rows for the run's tokens.

    Args:
        model: changed in place.
        config: the run.
        origin: the model's files.
        tokenizer: with the run's new tokens.
        directions: what `measured_directions` found, where the start needs it.
    """
    lora = LoraSpec.of(config.lora, tied=model.spec.tied_head)
    sources = InitSources(original=lambda name: origin.read(name, torch.float32), directions=directions)
    adapter = inject(model, lora, seed=config.train.seed, sources=sources)
    saved = tokenizer if config.lora.new_tokens else None
    return AdapterTraining(adapter, origin.source, config.revision, saved)


def measured_directions(config: RunConfig, rows: Rows, model: CausalLM) -> dict[str, torch.Tensor] | None:
    """EVA's, measured on the rows of the run's first steps: enough of them to span the widest layer; None for another
    start."""
    if config.lora.init is not Init.EVA:
        return None
    lora = LoraSpec.of(config.lora, tied=model.spec.tied_head)
    source = PackedSteps(rows.train, config, by_length=model.spec.by_length)
    wanted = EVA_ROWS * max(model.spec.hidden_size, model.spec.intermediate_size)
    documents: list[MeasuredDocuments] = []
    for step in range(1, source.total + 1):
        for batch in source.micro_batches(step):
            documents.append(
                MeasuredDocuments(
                    tokens=batch.tokens,
                    positions=batch.positions,
                    segments=batch.segments,
                    shared=batch.shared,
                    rows=batch.rows,
                )
            )
        if sum(len(one.rows) for one in documents) >= wanted:
            break
    targets = [path for path in lora.targets(target_paths(linear_paths(model), model.spec)) if path != EMBEDDING]
    return directions(model, documents, {path: lora.rank_of(path) for path in targets})
