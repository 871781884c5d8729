"""Loads a model that answers, and the adapter on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from veneer.adapters.files.origin import BaseCheck
from veneer.adapters.files.store import config_warnings, read_spec, read_tokenizer
from veneer.adapters.load import load_adapter
from veneer.arguments import check_types
from veneer.assistant.assistant import Assistant, make_assistant
from veneer.assistant.memory import enough_memory
from veneer.assistant.request import AssistantRequest, assistant_request, backend_of, method_of
from veneer.backends.load import load_language_model
from veneer.config import ComputeSection, QuantSection, RunConfig
from veneer.data.encoded.chat import start_template
from veneer.enums import Backend, Method
from veneer.events import Level, Note, Stage, Subscriber, broadcast
from veneer.generation.share import WHOLE_SHARE, Share
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.loading.base_form import form_of
from veneer.loading.ends import end_notes
from veneer.loading.forms import TableForm, WeightForm
from veneer.loading.how import Loading
from veneer.loading.unread import unread_notes
from veneer.machine.hardware import resolve_device, resolve_dtype
from veneer.model.decoder import CausalLM
from veneer.model.language import LanguageModel
from veneer.run_folder import recorded_run


def open_assistant(
    model: str | Path,
    *,
    adapter: str | Path | None = None,
    method: Method | str | None = None,
    compute: ComputeSection | None = None,
    revision: str | None = None,
    backend: Backend | str | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> Assistant:
    """Load a model, and the adapter on it.

    Args:
        model: directory, GGUF file or hub id.
        adapter: folder of an adapter, from veneer or PEFT.
        method: how the base is held: QLORA quantised, else in the compute dtype. By default as the adapter was trained,
            if its run recorded that, because an adapter fits the base that it was trained with. Files that are already
            quantised are used unchanged.
        compute: device, dtype and products. Products are exact unless chosen otherwise here, regardless of the
            training, because every other program that loads the adapter computes them exactly.
        revision: the branch, tag or commit of a hub id.
        backend: the backend that computes the model; by default as in the adapter's run, else as AUTO.
        subscribers: called with every event: the progress of loading.

    Raises:
        ModelError, AdapterError, ConfigError: the model, the adapter or an argument cannot be used.
        OutOfMemory: there is no memory for it.
    """
    check_types(open_assistant, locals())
    request = assistant_request(model, adapter, method, compute, revision=revision, backend=backend)
    return load_assistant(request, broadcast(subscribers))


def load_assistant(request: AssistantRequest, emit: Subscriber, share: Share = WHOLE_SHARE) -> Assistant:
    """Carry out a request, as `open_assistant` says. The assistant computes a share of its rows and prompts."""
    with enough_memory(request, f"loading {request.model}"):
        return _loaded(request, emit, share)


def _loaded(request: AssistantRequest, emit: Subscriber, share: Share) -> Assistant:
    adapter = request.adapter
    warnings = [] if adapter is None else config_warnings(adapter, read_spec(adapter))
    run = recorded_run(adapter)
    base_run = recorded_run(request.held_as) if adapter is None else run  # it says how the base is held
    device = resolve_device(request.compute.device)
    checkpoint = open_checkpoint(request.model, revision=request.revision)
    base = None if adapter is None else BaseCheck(adapter, request.model, checkpoint.files())
    tokenizer = checkpoint.tokenizer()
    own = tokenizer if adapter is None else read_tokenizer(adapter, tokenizer)
    start_template(own)
    loaded = load_base_model(request, checkpoint, backend_of(request, run), base_run, emit)
    loaded.requires_grad_(False).eval()
    if isinstance(loaded, CausalLM):
        warnings += unread_notes(checkpoint, loaded.spec)
    warnings += end_notes(checkpoint, loaded.spec.vocab_size)
    put_on = None if adapter is None else load_adapter(loaded, adapter)
    other = None if base is None else base.problem()
    if other is not None:
        warnings.append(f"{other}\nGive the base model that the adapter was trained with.")
    for warning in warnings:
        emit(Note(message=warning, level=Level.WARNING))
    stored = bool(checkpoint.stored)
    rounded = resolve_dtype((base_run or request).compute.dtype, device)
    form = form_of(method_of(request, base_run), base_run.quant if base_run else None, rounded, stored=stored)
    return make_assistant(
        loaded, checkpoint, put_on, own, warnings=warnings, form=form, stored=stored, request=request, share=share
    )


def load_base_model(
    request: AssistantRequest, checkpoint: Checkpoint, backend: Backend, run: RunConfig | None, emit: Subscriber
) -> LanguageModel:
    """Load the base of a request, without its adapter. `run` is the run that recorded how the base is held, if one
    did."""
    compute, device = request.compute, resolve_device(request.compute.device)
    with Stage(emit, f"loading {request.model}", total=len(checkpoint.names()), unit="tensors") as stage:
        return load_language_model(
            checkpoint,
            backend,
            Loading(
                form=WeightForm.QUANTIZED if method_of(request, run) is Method.QLORA else WeightForm.FROZEN,
                dtype=resolve_dtype(compute.dtype, device),
                device=device,
                products=compute.products,
                tables=TableForm.STORED,
                quant=run.quant if run else QuantSection(),
                quantised_from=resolve_dtype(run.compute.dtype, device) if run else None,
                progress=lambda name: stage.advance(item=name),
            ),
        )
