"""Training in float16: factors are exact, an overflow costs no step, and a resumed run has the bytes of a whole one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.models.tiny import examples, run_config
from helpers.training.training_runs import stopping_after
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.data.micro_batches.packing import pack
from veneer.errors import Diverged, Interrupted
from veneer.events import Event, Note, StepDone
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.training import loss_scale
from veneer.training.gradients import squared_norm, unscale
from veneer.training.loss_scale import FIRST, LARGEST, STEADY, first_changes, lowered, overflowed, scale_at
from veneer.training.over_model import OverModel
from veneer.training.run import train

HALF = ("compute.dtype=float16", "train.steps=5", "train.save_every=2", "train.examples_per_step=4")


def test_only_float16_is_scaled() -> None:
    assert first_changes(torch.float16) == [[1, FIRST]]
    for dtype in (torch.float32, torch.bfloat16):
        assert first_changes(dtype) == []
        assert scale_at([], 12_345) == 1


def test_a_factor_follows_from_the_step_and_the_overflows_before_it() -> None:
    """Against a counter that is carried along, as `torch.amp.GradScaler` has one."""
    overflows = {3: 1, 2500: 3, 2501: 1, 9000: 2}
    scale, steady, changes = FIRST, 0, first_changes(torch.float16)
    for step in range(1, 12_001):
        for _ in range(overflows.get(step, 0)):
            assert scale_at(changes, step) == scale
            changes = lowered(changes, step)
            scale, steady = scale // 2, 0
        assert scale_at(changes, step) == scale
        steady += 1
        if steady == STEADY:
            scale, steady = min(LARGEST, 2 * scale), 0
    assert [one[0] for one in changes] == [1, *overflows]
    assert scale_at([[1, FIRST]], 10**9) == LARGEST
    assert scale_at([[1, FIRST], [7, 1]], 7) == 1


def test_only_gradients_that_overflow_alone_are_helped_by_a_smaller_factor() -> None:
    inf, nan = float("inf"), float("nan")
    assert overflowed(2, 0.5, inf)
    assert overflowed(2, 0.5, nan)
    assert not overflowed(2, 0.5, 1e30)
    assert not overflowed(1, 0.5, inf)
    assert not overflowed(2, inf, inf)
    assert not overflowed(2, nan, nan)


def test_dividing_by_a_factor_rounds_nothing() -> None:
    parameter = nn.Parameter(torch.zeros(1000))
    grad = torch.randn(1000) * torch.logspace(-20, 10, 1000)
    parameter.grad = grad * FIRST
    unscale([parameter], FIRST)
    assert torch.equal(parameter.grad, grad)


def adapted(path: Path, dtype: torch.dtype) -> tuple[CausalLM, dict[str, nn.Parameter]]:
    model = load_model(open_checkpoint(path), Loading(dtype=dtype))
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0), seed=1)
    generator = torch.Generator().manual_seed(2)
    for layer in adapter.outermost.values():
        layer.lora_B.data.copy_(0.05 * torch.randn(layer.lora_B.shape, generator=generator))
    return model.train(), adapter.named_parameters()


def gradients(path: Path, data: Path, dtype: torch.dtype, scale: int, weight: float) -> dict[str, Tensor]:
    """Of a loss that is divided by `weight`, as each term of a large step is."""
    model, parameters = adapted(path, dtype)
    (batch,) = pack(examples(path, data)[:4], 10**6)
    loss = OverModel(model).sums(batch).loss({"cross_entropy": weight})
    (loss * scale).backward()
    unscale(list(parameters.values()), scale)
    return {name: p.grad.double() for name, p in parameters.items() if p.grad is not None}


def apart(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The largest relative distance of a tensor's gradient."""
    assert found.keys() == exact.keys()
    return max(float((found[name] - exact[name]).norm() / exact[name].norm()) for name in exact)


def test_a_scaled_gradient_in_float16_is_that_of_float32_to_ten_bits(tiny_model: Path, tiny_data: Path) -> None:
    """The step is so large that gradients are below the smallest number of float16, but for the factor."""
    weight = 1e6
    exact = gradients(tiny_model, tiny_data, torch.float32, 1, weight)
    assert max(float(grad.abs().max()) for grad in exact.values()) < 1e-3
    scaled = apart(gradients(tiny_model, tiny_data, torch.float16, FIRST, weight), exact)
    assert scaled < 0.01
    assert apart(gradients(tiny_model, tiny_data, torch.bfloat16, 1, weight), exact) > 2 * scaled
    assert apart(gradients(tiny_model, tiny_data, torch.float16, 1, weight), exact) > 0.1


def trained(output: Path, model: Path, data: Path, *more: str, resume: bool = False) -> list[Event]:
    events: list[Event] = []
    train(run_config(model, data, output, *HALF, *more), resume=resume, emit=events.append)
    return events


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepDone)]


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_an_overflow_is_made_again_recorded_and_resumed_to_the_byte(
    method: str, tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "FIRST", LARGEST)  # so that the first steps overflow
    own = (f"method={method}", "train.learning_rate=0.002")
    whole = trained(tmp_path / "whole", tiny_model, tiny_data, *own)
    exact = trained(tmp_path / "exact", tiny_model, tiny_data, *own, "compute.dtype=float32")
    assert losses(whole) == pytest.approx(losses(exact), rel=5e-3)
    assert losses(whole)[-1] < losses(whole)[0]
    said = [event.message for event in whole if isinstance(event, Note) and "overflows float16" in event.message]
    lock = json.loads((tmp_path / "whole" / "run.lock").read_text(encoding="utf-8"))
    changes = lock["loss_scales"]
    assert len(said) >= 1
    assert changes[-1][1] == LARGEST >> len(said)
    assert "loss_scales" not in json.loads((tmp_path / "exact" / "run.lock").read_text(encoding="utf-8"))

    with pytest.raises(Interrupted):
        train(run_config(tiny_model, tiny_data, tmp_path / "cut", *HALF, *own), stop=stopping_after(3))
    trained(tmp_path / "cut", tiny_model, tiny_data, *own, resume=True)
    assert json.loads((tmp_path / "cut" / "run.lock").read_text(encoding="utf-8"))["loss_scales"] == changes
    names = [file.name for file in (tmp_path / "whole").glob("*.safetensors")]
    assert names
    for name in names:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_activations_that_float16_cannot_hold_end_the_run_with_the_remedy(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = OverModel.sums

    def huge(self: OverModel, batch: object) -> object:
        found = sums(self, batch)  # type: ignore[arg-type]
        return type(found)({name: term * float("inf") for name, term in found.terms.items()})

    monkeypatch.setattr(OverModel, "sums", huge)
    with pytest.raises(Diverged, match=r"no number above 65,504.*compute\.dtype=float32"):
        trained(tmp_path, tiny_model, tiny_data)


def test_the_norm_of_scaled_gradients_does_not_overflow() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 1e6) * LARGEST
    squares = squared_norm([parameter])
    assert squares is not None
    assert float(squares) ** 0.5 / LARGEST == pytest.approx(2e6)
