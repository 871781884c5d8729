"""The memory of a model's weights, and forms of the weights that need less.

This applies to a model that is only loaded. A run has a plan (`veneer.planning.plan`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from veneer.adapters.spec import LoraSpec
from veneer.backends.base import Description
from veneer.config import QuantSection
from veneer.enums import Method
from veneer.model.hf_skeleton import HfSpec
from veneer.planning.base import base_bytes
from veneer.planning.estimate import hf_linears, linear_bytes
from veneer.planning.memory import MB
from veneer.planning.setup import Setup

NO_ADAPTER = LoraSpec(rank=1, alpha=1.0)
"""A placeholder for the adapter, which is not counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """The form of a model's weights in memory."""

    description: Description
    method: Method
    dtype: torch.dtype
    """Dtype of products, and of weights that are not quantised."""
    device: str
    """Kind of device: `cpu` or `cuda`."""
    quant: QuantSection
    """The quantisation of method qlora."""

    @property
    def bytes(self) -> int:
        """Bytes of all weights, without an adapter."""
        spec, stored = self.description.spec, self.description.stored
        quant = self.quant if stored is None else stored
        if isinstance(spec, HfSpec):
            quantised = stored is not None or self.method is Method.QLORA
            linears = [linear for layer in hf_linears(spec, NO_ADAPTER, ()) for linear in layer.values()]
            dense = self.dtype.itemsize * spec.others
            return dense + linear_bytes(linears, quant if quantised else None, self.dtype)
        return base_bytes(
            Setup(
                spec=spec,
                method=self.method,
                dtype=self.dtype,
                device=self.device,
                lora=NO_ADAPTER,
                targets=(),
                quant=quant,
                stored=stored is not None,
                blocks=self.description.blocks,
                tables=self.description.tables,
                file_bytes=self.description.file_bytes,
            )
        )

    def lighter(self) -> list[str]:
        """Options with which the weights need less memory, each with the megabytes that they need then."""
        ways = {
            "--dtype bfloat16": replace(self, dtype=torch.bfloat16),
            "--method qlora": replace(self, method=Method.QLORA),
            "--method qlora --dtype bfloat16": replace(self, method=Method.QLORA, dtype=torch.bfloat16),
        }
        found: dict[int, str] = {}
        for options, held in ways.items():
            if held.bytes < self.bytes:
                found.setdefault(held.bytes, f"{options} ({held.bytes / MB:,.0f} MB)")
        return list(found.values())

    def advice(self) -> str:
        """The memory of the weights, and the options that need less, in a sentence or two."""
        weights = f"By the plan, the weights of {self.description.source} need {self.bytes / MB:,.0f} MB."
        ways = self.lighter()
        less = f"They need less with {' or '.join(ways)}." if ways else "A smaller model needs less."
        return f"{weights} {less}"
