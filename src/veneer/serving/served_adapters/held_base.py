"""The base beside which many adapters answer: held as it was when they were trained, where they agree on that.

An adapter fits the base that it was trained beside, and answers otherwise over one in other codes. One base is held in
one form, so whoever answers over another than its own is named.
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

NAMED = 10
"""Adapters that are named; there may be a thousand."""
log = logging.getLogger("veneer.serving")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the runs of adapters say of the base beside which they trained."""

    forms: Mapping[str, BaseForm] = field(default_factory=dict)
    """The form of the base by the adapter's name; adapters without a run's record, as PEFT's, are not there."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Why a record cannot be read, by the adapter's name."""


@dataclass(frozen=True, slots=True)
class HeldBase:
    """A base in memory for adapters beside it."""

    assistant: Assistant
    recorded: Recorded = field(default_factory=Recorded)


def load_held_base(request: AssistantRequest, folder: Path, names: Sequence[str], emit: Subscriber) -> HeldBase:
    """Load a base for adapters that will answer beside it, and warn of those that were trained beside another form.

    Args:
        request: the base; where it names no method, the runs of the adapters do.
        folder: has a folder for each adapter.
        names: the adapters' names.
        emit: receives every event.

    Raises:
        ModelError, ConfigError: the base cannot be used.
        OutOfMemory: there is no memory for it.
    """
    recorded = recorded_forms(folder, names, resolve_device(request.compute.device), emit)
    assistant = load_assistant(held_as_trained(request, folder, recorded), emit)
    for warning in warnings_of(assistant, recorded):
        emit(Note(message=warning, level=Level.WARNING))
    return HeldBase(assistant, recorded)


def recorded_forms(folder: Path, names: Sequence[str], device: torch.device, emit: Subscriber) -> Recorded:
    """What the runs of adapters say, for a base on a device."""
    forms: dict[str, BaseForm] = {}
    unread: dict[str, str] = {}
    with Stage(emit, "reading the records of adapters", total=len(names), unit="adapters") as stage:
        for name in names:
            try:
                run = recorded_run(folder / name)
            except ConfigError as error:  # the adapter may well answer: it is named in a warning
                unread[name] = str(error).partition("\n")[0]
            else:
                forms |= {} if run is None else {name: recorded_form(run, device)}
            stage.advance()
    return Recorded(forms, unread)


def held_as_trained(request: AssistantRequest, folder: Path, recorded: Recorded) -> AssistantRequest:
    """The request for a base that is held as adapters in `folder` were trained, if all agree that are to be followed:
    all of them, or where a method is asked for, those of that method. Else the request as it is."""
    quantised = None if request.method is None else request.method is Method.QLORA
    followed = {name: form for name, form in recorded.forms.items() if quantised in (None, form.method is Method.QLORA)}
    if not followed or len(_by_form(followed)) > 1:
        return request
    return replace(request, held_as=folder / next(iter(followed)))


def warnings_of(assistant: Assistant, recorded: Recorded) -> list[str]:
    """What is to be said of adapters beside a base that has been loaded."""
    found = []
    if recorded.unread:
        named = listing(f"{name}: {why}" for name, why in recorded.unread.items())
        found.append(
            "how the base was held when these adapters were trained is not known, since the records of their runs "
            f"cannot be read:\n{named}"
        )
    others = {name: form for name, form in recorded.forms.items() if not assistant.holds(form)}
    if others:
        found.append(
            f"the base is {_said(assistant.form)} here, and these adapters were trained beside it in another form, so "
            f"that they answer otherwise than after their training:\n{listing(_groups(others))}\n"
            "Give adapters of each kind a folder of their own, and leave --method out: the base is then held as when "
            "they were trained."
        )
    return found


def telling(loader: Loader, held: HeldBase, warn: Callable[[str], None] = log.warning) -> Loader:
    """A loader that warns, by the log, of adapters which came later and were trained beside another form of the base:
    of each once, and not of those that `load_held_base` has warned of."""
    told, device = dict(held.recorded.forms), held.assistant.model.device

    def load(folder: Path) -> LoadedAdapter:
        adapter = loader(folder)
        forms = recorded_forms(folder.parent, [folder.name], device, lambda event: None).forms
        new = {name: form for name, form in forms.items() if told.get(name) != form}
        told.update(new)
        if any(not held.assistant.holds(form) for form in new.values()):
            warn(warnings_of(held.assistant, Recorded(new))[0])
        return adapter

    return load


def _by_form(forms: Mapping[str, BaseForm]) -> dict[str, list[str]]:
    """The names of adapters by what is said of their bases."""
    found: dict[str, list[str]] = {}
    for name, form in forms.items():
        found.setdefault(_said(form), []).append(name)
    return found


def _groups(forms: Mapping[str, BaseForm]) -> Iterable[str]:
    for said, names in _by_form(forms).items():
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        yield f"{said}: {', '.join(names[:NAMED])}{more}"


def _said(form: BaseForm) -> str:
    return form.text or "not quantised"
