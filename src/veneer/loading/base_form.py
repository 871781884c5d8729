"""The form of a base model's linear layers in memory: as its files have them, or quantised on loading."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from veneer.config import QuantSection, RunConfig
from veneer.enums import Method, Scheme
from veneer.machine.hardware import resolve_dtype


@dataclass(frozen=True, slots=True)
class BaseForm:
    """The form of a base's linear layers, as far as answers depend on it in addition to the files and the dtype."""

    quant: QuantSection | None = None
    """The quantisation on loading; None if there was none."""
    rounded: torch.dtype | None = None
    """The dtype to which they were rounded before they were quantised; None if that does not matter."""

    @property
    def text(self) -> str:
        """The form in words, which digests and the facts of a job contain too; empty if nothing was quantised."""
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
        """The method that holds a base in this form."""
        return Method.LORA if self.quant is None else Method.QLORA


AS_IN_FILES = BaseForm()
"""The form of a base that was not quantised on loading."""


def form_of(
    method: Method, quant: QuantSection | None, rounded: torch.dtype | None = None, *, stored: bool = False
) -> BaseForm:
    """The form of a base that is loaded for a method.

    Args:
        method: the method.
        quant: how the method quantises; None means the defaults.
        rounded: the dtype to which weights are rounded before; None if that does not matter.
        stored: whether the weights in the files are quantised: they are then used as they are.
    """
    if method is not Method.QLORA or stored:
        return AS_IN_FILES
    return BaseForm(quant or QuantSection(), rounded)


def recorded_form(run: RunConfig, device: torch.device) -> BaseForm:
    """The form of the base on which a run has trained, when it is made on a device from files that are not
    quantised."""
    return form_of(run.method, run.quant, resolve_dtype(run.compute.dtype, device))
