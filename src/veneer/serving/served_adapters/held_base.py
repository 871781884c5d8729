"""The base that many adapters share in a server, held in the form they were trained with if they agree on one.

An adapter fits the base that it was trained with. On a base that is quantised otherwise, it gives other answers. The
server holds one base in one form, so a warning names the adapters that were trained with another form.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from veneer.assistant.assistant import Assistant
from veneer.assistant.load import load_assistant
from veneer.assistant.request import AssistantRequest
from veneer.enums import Method
from veneer.errors import ConfigError, listing
from veneer.events import Level, Note, Stage, Subscriber
from veneer.generation.runner import LoadedAdapter
from veneer.loading.base_form import BaseForm, recorded_form
from veneer.machine.hardware import resolve_device
from veneer.run_folder import recorded_run
from veneer.serving.served_adapters.loading import Loader

MOST_NAMED_ADAPTERS = 10
"""The most adapters that a warning names, since there may be a thousand."""
log = logging.getLogger("veneer.serving")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the runs of adapters recorded about the base that they trained with."""

    forms: Mapping[str, BaseForm] = field(default_factory=dict)
    """The form of the base by the adapter's name. Adapters without a run's record, such as PEFT's, are missing."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Why a record cannot be read, by the adapter's name."""


@dataclass(frozen=True, slots=True)
class HeldBase:
    """A base in memory that adapters share."""

    assistant: Assistant
    recorded: Recorded = field(default_factory=Recorded)


def load_held_base(request: AssistantRequest, folder: Path, names: Sequence[str], emit: Subscriber) -> HeldBase:
    """Load a base for adapters to share, and warn about those that were trained with another form of it.

    Args:
        request: the base. If it names no method, the records of the adapters decide.
        folder: the folder that holds a folder for each adapter.
        names: the adapters' names.
        emit: receives every event.

    Raises:
        ModelError, ConfigError: the base cannot be used.
        OutOfMemory: it does not fit into memory.
    """
    recorded = recorded_forms(folder, names, resolve_device(request.compute.device), emit)
    assistant = load_assistant(held_as_trained(request, folder, recorded), emit)
    for warning in warnings_of(assistant, recorded):
        emit(Note(message=warning, level=Level.WARNING))
    return HeldBase(assistant, recorded)


def recorded_forms(folder: Path, names: Sequence[str], device: torch.device, emit: Subscriber) -> Recorded:
    """What the runs of adapters recorded, as it applies to a base on a device."""
    forms: dict[str, BaseForm] = {}
    unread: dict[str, str] = {}
    with Stage(emit, "reading the records of adapters", total=len(names), unit="adapters") as stage:
        for name in names:
            try:
                run = recorded_run(folder / name)
            except ConfigError as error:  # the adapter may still be usable: a warning names it
                unread[name] = str(error).partition("\n")[0]
            else:
                forms |= {} if run is None else {name: recorded_form(run, device)}
            stage.advance()
    return Recorded(forms, unread)


def held_as_trained(request: AssistantRequest, folder: Path, recorded: Recorded) -> AssistantRequest:
    """The request, with the base held in the form that the adapters in `folder` were trained with, if they agree on
    one.

    If the request names a method, only adapters of that method are asked. If they disagree, or none has a record, the
    request is returned unchanged.
    """
    quantised = None if request.method is None else request.method is Method.QLORA
    followed = {name: form for name, form in recorded.forms.items() if quantised in (None, form.method is Method.QLORA)}
    if not followed or len(_by_form(followed)) > 1:
        return request
    return replace(request, held_as=folder / next(iter(followed)))


def warnings_of(assistant: Assistant, recorded: Recorded) -> list[str]:
    """The warnings about adapters that are to share a loaded base."""
    warnings = []
    if recorded.unread:
        named = listing(f"{name}: {why}" for name, why in recorded.unread.items())
        warnings.append(
            "it is not known in which form of the base these adapters were trained, because the records of their runs "
            f"cannot be read:\n{named}"
        )
    others = {name: form for name, form in recorded.forms.items() if not assistant.holds(form)}
    if others:
        warnings.append(
            f"the base is {_text_of(assistant.form)} here, but these adapters were trained with another form of it, so "
            f"they answer differently than after training:\n{listing(_groups(others))}\n"
            "Give the adapters of each form a folder of their own, and leave --method out: the base is then held in "
            "the form that they were trained with."
        )
    return warnings


def warning_loader(loader: Loader, held: HeldBase, warn: Callable[[str], None] = log.warning) -> Loader:
    """A loader that logs a warning about each adapter that was added later and was trained with another form of the
    base.

    It warns of each adapter once, and not of those that `load_held_base` has warned of.
    """
    known, device = dict(held.recorded.forms), held.assistant.model.device

    def load(folder: Path) -> LoadedAdapter:
        adapter = loader(folder)
        forms = recorded_forms(folder.parent, [folder.name], device, lambda event: None).forms
        new = {name: form for name, form in forms.items() if known.get(name) != form}
        known.update(new)
        if any(not held.assistant.holds(form) for form in new.values()):
            warn(warnings_of(held.assistant, Recorded(new))[0])
        return adapter

    return load


def _by_form(forms: Mapping[str, BaseForm]) -> dict[str, list[str]]:
    """The names of adapters by the text for the form of their base."""
    names: dict[str, list[str]] = {}
    for name, form in forms.items():
        names.setdefault(_text_of(form), []).append(name)
    return names


def _groups(forms: Mapping[str, BaseForm]) -> Iterable[str]:
    for form, names in _by_form(forms).items():
        more = f" and {len(names) - MOST_NAMED_ADAPTERS:,} more" if len(names) > MOST_NAMED_ADAPTERS else ""
        yield f"{form}: {', '.join(names[:MOST_NAMED_ADAPTERS])}{more}"


def _text_of(form: BaseForm) -> str:
    return form.text or "not quantised"
