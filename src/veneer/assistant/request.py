"""The request for a model to evaluate or to talk to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from veneer.config import ComputeSection, RunConfig
from veneer.enums import Backend, Method, choice


@dataclass(frozen=True, kw_only=True, slots=True)
class AssistantRequest:
    """The request for a model to evaluate or to talk to."""

    model: str
    """A directory, a GGUF file or a hub id."""
    adapter: Path | None = None
    """The folder of an adapter, from veneer or PEFT."""
    method: Method | None = None
    """How the base is held; None means as the adapter's run recorded, else LORA."""
    compute: ComputeSection = field(default_factory=ComputeSection)
    """Device, dtype and products."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    backend: Backend | None = None
    """The backend that computes the model; None means as the adapter's run recorded, else AUTO."""
    held_as: Path | None = None
    """Without `adapter`: the folder of an adapter whose run says how the base is held, and that is not put on it."""


def assistant_request(
    model: str | Path,
    adapter: str | Path | None,
    method: Method | str | None,
    compute: ComputeSection | None,
    *,
    revision: str | None = None,
    backend: Backend | str | None = None,
) -> AssistantRequest:
    """A caller's description of a model as one value. Raises ConfigError for an unknown name."""
    return AssistantRequest(
        model=str(model),
        adapter=None if adapter is None else Path(adapter),
        method=None if method is None else choice(Method, method, "method"),
        compute=compute or ComputeSection(),
        revision=revision,
        backend=None if backend is None else choice(Backend, backend, "backend"),
    )


def method_of(request: AssistantRequest, run: RunConfig | None) -> Method:
    """How the base is held, if `run` is the run that recorded it."""
    return request.method or (run.method if run else Method.LORA)


def backend_of(request: AssistantRequest, run: RunConfig | None) -> Backend:
    """The backend that computes the model, if `run` is the adapter's run."""
    return request.backend or (run.backend if run else Backend.AUTO)
