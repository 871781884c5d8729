"""What a plan says of mixtures: weights, trained weights and what autograd keeps, against real models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.models.planned_models import base_planned_and_held, really_kept
from helpers.models.tiny_mixtures import KINDS, tiny_mixture
from helpers.training.plan_setups import FORMS, two_documents
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.config import QuantSection
from veneer.data.micro_batches.packing import pack
from veneer.enums import Method
from veneer.errors import AdapterError
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.loading.expected import expected_tensors
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.families.choose import spec_from_hf
from veneer.model.recompute import Recomputation
from veneer.planning.activations import kept_activations
from veneer.planning.base import base_bytes
from veneer.planning.batch_shape import BatchShape
from veneer.planning.memory import memory
from veneer.planning.setup import Setup
from veneer.planning.time import operations

TARGETS: tuple[Any, ...] = (
    "all-linear", ("q_proj", "v_proj"), ("gate_up_proj",), ("down_proj",), ("gate",), ("o_proj", "gate", "down_proj"),
)  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("plan")
    tiny_mixture(str(request.param), num_hidden_layers=3).save_pretrained(folder)
    return open_checkpoint(folder)


def targets_of(checkpoint: Checkpoint, targets: Any) -> Any:
    """The router goes by another name in gpt-oss."""
    if checkpoint.config["model_type"] != "gpt_oss" or isinstance(targets, str):
        return targets
    return tuple("router" if name == "gate" else name for name in targets)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("method", "targets"),
    [*((method, t) for method in (Method.LORA, Method.QLORA) for t in TARGETS), (Method.FULL, "all-linear")],
)
def test_what_is_kept_is_what_autograd_keeps(
    method: Method, targets: Any, recompute: bool, dtype: torch.dtype, checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = load_model(checkpoint, Loading(form=FORMS[method], dtype=dtype))
    lora = LoraSpec(rank=4, alpha=8.0, target_modules=targets_of(checkpoint, targets))
    if method is not Method.FULL:
        adapter = inject(model, lora)
    model.train()
    if recompute:
        model.model.recomputation = Recomputation(None)
    (batch,) = pack(two_documents(), 200)
    really = really_kept(model, batch, monkeypatch, recompute=recompute)
    of = Setup(spec=model.spec, method=method, dtype=dtype, lora=lora)
    cut = BatchShape(tokens=len(batch.tokens), longest=40, supervised=batch.supervised)
    counted = kept_activations(of, cut, recompute=recompute)
    if checkpoint.config["model_type"] == "mixtral" or recompute:
        assert counted == really
    # With norms of another kind, or attention that goes by windows, the plan says the most that can be kept.
    assert really <= counted <= 1.2 * really
    if method is not Method.FULL:
        assert {name: tuple(tensor.shape) for name, tensor in adapter.named_parameters().items()} == dict(of.trained)


@pytest.mark.parametrize("settings", [{}, {"double_quant": False}, {"scheme": "int8"}, {"skip_modules": ["down_proj"]}])
@pytest.mark.parametrize("method", Method)
def test_the_base_takes_what_its_tensors_take(method: Method, settings: dict[str, Any], checkpoint: Checkpoint) -> None:
    planned, held = base_planned_and_held(checkpoint, method, QuantSection.model_validate(settings))
    assert planned == held


def test_full_fine_tuning_trains_every_tensor(checkpoint: Checkpoint) -> None:
    spec = spec_from_hf(checkpoint.config)
    of = Setup(spec=spec, method=Method.FULL, dtype=torch.bfloat16)
    assert dict(of.trained) == expected_tensors(spec)


def test_a_token_meets_its_own_experts_alone(checkpoint: Checkpoint) -> None:
    spec = spec_from_hf(checkpoint.config)
    assert spec.mixture is not None
    of = Setup(spec=spec, method=Method.LORA, dtype=torch.bfloat16)
    experts = 3 * spec.hidden_size * spec.mixture.inner * len(spec.mixture.layers(spec.num_layers))
    assert of.linear_weights - of.met_weights == experts * (spec.mixture.experts - spec.mixture.top_k)
    cut = BatchShape.of_rows(64, 64, 1)
    assert 0 < operations(of, cut, recompute=False) < 6 * of.linear_weights * 64
    assert memory(of, cut, recompute=False, start=0).peak > base_bytes(of)


def test_what_cannot_be_adapted_is_refused_as_it_would_be_in_training(checkpoint: Checkpoint) -> None:
    spec = spec_from_hf(checkpoint.config)
    with pytest.raises(AdapterError, match=r"dropout and target experts"):
        Setup(spec=spec, method=Method.LORA, dtype=torch.bfloat16, lora=LoraSpec(rank=2, alpha=2.0, dropout=0.1))
    named = LoraSpec(rank=2, alpha=2.0, dropout=0.1, target_modules=targets_of(checkpoint, ("q_proj", "gate")))
    with pytest.raises(AdapterError, match=r"dropout and target a mixture's router"):
        Setup(spec=spec, method=Method.LORA, dtype=torch.bfloat16, lora=named)
