"""How the linear layers of a base model are held: as its files have them, or quantised as they were loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from veneer.config import QuantSection, RunConfig
from veneer.enums import Method, Scheme
from veneer.machine.hardware import resolve_dtype


@dataclass(frozen=True, slots=True)
class BaseForm:
    """How the linear layers of a base are held, as far as answers follow from it beside the files and the dtype."""

    quant: QuantSection | None = None
    """What they were quantised by as they were loaded; None where they were not."""
    rounded: torch.dtype | None = None
    """The dtype that they were rounded to before they were quantised; None where that is not looked at."""

    @property
    def text(self) -> str:
        """It in words, which digests and the facts of a job hold too; empty where nothing was quantised."""
        quant = self.quant
        if quant is None:
            return ""
        parts = [quant.scheme.value]
        if quant.scheme is not Scheme.INT8:
            parts += [f"blocks of {quant.block}", f"{'double' if quant.double_quant else 'single'} quantisation"]
        if self.rounded is not None:
            parts.append(f"from {str(self.rounded).removeprefix('torch.')}")
        return ", ".join([*parts, *(f"without {name}" for name in sorted(quant.skip_modules))])

    @property
    def method(self) -> Method:
        """The method that holds a base so."""
        return Method.LORA if self.quant is None else Method.QLORA


def form_of(
    method: Method, quant: QuantSection | None, rounded: torch.dtype | None = None, *, stored: bool = False
) -> BaseForm:
    """The form of a base that is loaded for a method.

    Args:
        method: the method.
        quant: how it quantises; None takes the defaults.
        rounded: the dtype that weights are rounded to before; None where that is not looked at.
        stored: whether the files hold weights quantised: they are then taken as they are.
    """
    if method is not Method.QLORA or stored:
        return BaseForm()
    return BaseForm(quant or QuantSection(), rounded)


def recorded_form(run: RunConfig, device: torch.device) -> BaseForm:
    """The form of the base beside which a run has trained, as it is made on a device from files that are not
    quantised."""
    return form_of(run.method, run.quant, resolve_dtype(run.compute.dtype, device))
