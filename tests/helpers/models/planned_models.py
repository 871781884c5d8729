"""What models really hold, for the tests of plans."""

from __future__ import annotations

import pytest
import torch

from helpers.models.tiny_models import saved_for_backward
from helpers.training.plan_setups import FORMS
from veneer.config import QuantSection
from veneer.data.micro_batches.batches import MicroBatch
from veneer.enums import Method
from veneer.io.checkpoint import Checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.planning.base import base_bytes
from veneer.planning.setup import Setup
from veneer.quant.packed import PackedLinear
from veneer.training.over_model import OverModel


def base_planned_and_held(checkpoint: Checkpoint, method: Method, quant: QuantSection) -> tuple[int, int]:
    """Bytes of a base by the plan, and those of its tensors."""
    model = load_model(checkpoint, Loading(form=FORMS[method], quant=quant))
    parameters = sum(tensor.nbytes for tensor in model.parameters())
    packed = sum(module.nbytes for module in model.modules() if isinstance(module, PackedLinear))
    of = Setup(spec=model.spec, method=method, dtype=torch.bfloat16, quant=quant)
    return base_bytes(of), parameters + packed


def really_kept(model: CausalLM, batch: MicroBatch, monkeypatch: pytest.MonkeyPatch, *, recompute: bool) -> int:
    """Bytes that autograd keeps of a batch for backward."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    with saved_for_backward(monkeypatch) as found:
        OverModel(model).sums(batch)
    kept = sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in own)
    if recompute:
        kept += len(batch.tokens) * model.spec.head_dim * 4  # cosine and sine, held without being saved
    return kept
