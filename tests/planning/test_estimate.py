from __future__ import annotations

from typing import Any

import pytest
import torch

from helpers.models.hf_models import SHAPES, tiny_hf
from helpers.models.tiny_models import documents
from helpers.training.plan_setups import START, Alike
from veneer.adapters.spec import LoraSpec
from veneer.config import ComputeSection, QuantSection
from veneer.errors import ConfigError
from veneer.model.hf_skeleton import HfSpec, make_skeleton
from veneer.planning.choose import Limit, own_size
from veneer.planning.estimate import TRAINED_BYTES, TYPICAL_TOKENS, Estimate, estimate, hf_linears
from veneer.quant.schemes import pack

NO_LIMIT = Limit(bytes=float("inf"), source="none")
LORA = LoraSpec(rank=8, alpha=16.0)


def spec_of(kind: str, **changes: Any) -> HfSpec:
    return make_skeleton(tiny_hf(kind, changes=changes).config.to_dict(), torch.float32).spec


def estimated(
    spec: HfSpec,
    *,
    longest: int = 100,
    limit: Limit = NO_LIMIT,
    quant: QuantSection | None = None,
    dtype: torch.dtype = torch.float32,
    **compute: Any,
) -> Estimate:
    targets = [linear.path for linear in spec.adaptable]
    shape = ComputeSection.model_validate(compute)
    return estimate(
        spec, LORA, targets, quant, shape, Alike(longest, rows=64), limit,
        dtype=dtype, device="cpu", start=START,
    )  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dense_base_takes_what_its_weights_take(kind: str, dtype: torch.dtype) -> None:
    found = estimated(spec_of(kind), dtype=dtype)
    assert found.base == dtype.itemsize * sum(p.numel() for p in tiny_hf(kind).parameters())


def test_a_quantised_base_takes_its_codes_and_scales_and_what_stays_dense() -> None:
    theirs, spec, quant = tiny_hf("gpt_neox"), spec_of("gpt_neox"), QuantSection(skip_modules=("dense",))
    expected = 4 * spec.others
    for linear in spec.linears:
        weight = theirs.get_submodule(linear.path).get_parameter("weight").detach()
        expected += weight.nbytes if linear.path.endswith(".dense") else pack(weight, None, quant).nbytes
    assert estimated(spec, quant=quant).base == expected
    with pytest.raises(ConfigError, match="'nonesuch'"):
        estimated(spec, quant=QuantSection(skip_modules=("nonesuch",)))


def test_what_is_trained_takes_four_numbers_each() -> None:
    spec = spec_of("falcon")
    factors = sum(8 * (linear.inputs + linear.outputs) for linear in spec.adaptable)
    assert estimated(spec).trained == TRAINED_BYTES * factors
    (layer,) = hf_linears(spec, LORA, [spec.adaptable[0].path])
    assert [one.rank for one in layer.values()] == [8] + [0] * (len(spec.linears) - 1)


def test_activations_are_kept_where_they_fit_and_else_computed_again() -> None:
    spec = spec_of("gpt_neox", num_hidden_layers=8)
    free = estimated(spec)
    assert (free.recompute, free.micro_batch_tokens) == (False, TYPICAL_TOKENS)
    assert free.lines()[0].endswith("activations kept")
    less = estimated(spec, limit=Limit(bytes=free.peak - 1, source="a test"))
    assert (less.recompute, less.micro_batch_tokens) == (False, own_size(100))
    again = estimated(spec, limit=Limit(bytes=less.peak - 1, source="a test"))
    assert again.recompute
    assert again.peak < less.peak or again.micro_batch_tokens > less.micro_batch_tokens
    none = estimated(spec, limit=Limit(bytes=1, source="a test"))
    assert none.refusal is None
    assert "more than the 0 MB allowed (a test); the run is tried nevertheless" in none.lines()[1]


def test_a_class_that_cannot_compute_its_layers_again_is_not_asked_to() -> None:
    from dataclasses import replace

    spec = replace(spec_of("gpt_neox"), recomputable=False)
    assert not estimated(spec, limit=Limit(bytes=1, source="a test")).recompute


def test_what_is_given_is_taken() -> None:
    found = estimated(spec_of("gpt2"), micro_batch_tokens=300, recompute="layers")
    assert (found.micro_batch_tokens, found.recompute) == (300, True)
    json = found.to_json()
    assert (json["exact"], json["limit"], json["peak"]) == (False, None, found.peak)


@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2", "falcon"])
def test_activations_are_no_less_than_what_autograd_keeps(kind: str) -> None:
    """Of the class itself, with eager attention left out: its scores are a step's own affair."""
    theirs, spec = tiny_hf(kind), spec_of(kind)
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in theirs.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor.untyped_storage().nbytes()
        return tensor

    text = torch.tensor(documents([100]))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        theirs(input_ids=text, labels=text)
    found = estimated(spec, micro_batch_tokens=100)
    assert sum(kept.values()) < found.activations
