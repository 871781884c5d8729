"""The error if there is no memory for a model, or for its answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import clear_frames

from veneer.assistant.request import AssistantRequest, backend_of, method_of
from veneer.backends.describe import describe_model
from veneer.config import QuantSection
from veneer.errors import OutOfMemory
from veneer.io.checkpoint import read_model_config
from veneer.machine.hardware import resolve_device, resolve_dtype
from veneer.machine.out_of_memory import KINDS, is_out_of_memory, message_of
from veneer.planning.weights import Held
from veneer.run_folder import recorded_run


@contextmanager
def enough_memory(request: AssistantRequest | None, doing: str, beside: str = "") -> Iterator[None]:
    """Turn an out-of-memory error within the block into one that says how much the model needs by the plan, and what
    needs less.

    Args:
        request: the request for the model, if there was one.
        doing: what the block does: "answering".
        beside: a sentence that says what else needs less memory.

    Raises:
        OutOfMemory: there was no memory.
    """
    try:
        yield
    except KINDS as error:
        if not is_out_of_memory(error):
            raise
        clear_frames(error.__traceback__)  # they hold tensors
        message = message_of(doing, str(error))
    else:
        return
    said = (message, "" if request is None else _advice(request), beside)
    raise OutOfMemory(" ".join(part for part in said if part))


def _advice(request: AssistantRequest) -> str:
    run = recorded_run(request.adapter)
    base_run = recorded_run(request.held_as) if request.adapter is None else run
    try:
        config = read_model_config(request.model, revision=request.revision)
        held = Held(
            description=describe_model(config, backend_of(request, run)),
            method=method_of(request, base_run),
            dtype=resolve_dtype(request.compute.dtype, resolve_device(request.compute.device)),
            device=resolve_device(request.compute.device).type,
            quant=QuantSection() if base_run is None else base_run.quant,
        )
        return held.advice()
    except KINDS as error:
        if not is_out_of_memory(error):
            raise
        return "A smaller model needs less, or use --method qlora."
