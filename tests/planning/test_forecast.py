from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.models.hf_models import write_hf_model
from helpers.models.tiny import run_config
from helpers.training.plan_setups import Alike
from veneer.adapters.spec import LoraSpec
from veneer.backends.base import Description
from veneer.backends.describe import describe_model
from veneer.config import RunConfig
from veneer.enums import Backend
from veneer.io.checkpoint import read_model_config
from veneer.planning.choose import Limit
from veneer.planning.estimate import Estimate
from veneer.planning.forecast import ForeseenRun, linears_under, make_forecast
from veneer.planning.machine import named_machine
from veneer.planning.plan import Plan

LORA = LoraSpec(rank=4, alpha=8.0)


@pytest.fixture(scope="module", params=["own decoder", "transformers"])
def description(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Description:
    folder = tiny_model
    if request.param == "transformers":
        folder = write_hf_model(tmp_path_factory.mktemp("forecast") / "model", "gpt_neox")
    return describe_model(read_model_config(folder), Backend.AUTO)


def planned(config: RunConfig, description: Description, machine: str, targets: Sequence[str]) -> ForeseenRun:
    return ForeseenRun(
        config=config,
        description=description,
        machine=named_machine(machine, config.compute),
        lora=LORA,
        targets=tuple(targets),
    )


def test_both_have_one_face(description: Description, tmp_path: Path) -> None:
    config = run_config(tmp_path, Path("-"), tmp_path / "out")
    forecast = make_forecast(planned(config, description, "h100", description.linears), Alike(50))
    assert isinstance(forecast, Plan if description.backend is Backend.VENEER else Estimate)
    assert forecast.refusal is None
    assert forecast.lines()
    assert forecast.micro_batch_tokens >= 50
    assert forecast.to_json()["peak"] > 0


def test_a_plan_names_no_amount_where_the_system_does_not_tell_its_memory(
    description: Description, tmp_path: Path
) -> None:
    config = run_config(tmp_path, Path("-"), tmp_path / "out")
    forecast = make_forecast(planned(config, description, "h100", description.linears), Alike(50))
    assert isinstance(forecast, Plan | Estimate)
    unknown = Limit(bytes=float("inf"), source="the system does not say how much memory there is")
    lines = replace(forecast, limit=unknown).lines()
    assert not any("inf" in line for line in lines)


def test_an_adapter_of_more_layers_takes_more(description: Description, tmp_path: Path) -> None:
    config = run_config(tmp_path, Path("-"), tmp_path / "out", "compute.micro_batch_tokens=64")
    one, all_ = (
        make_forecast(planned(config, description, "h100", targets), Alike(50)).to_json()["peak"]
        for targets in (description.linears[:1], description.linears)
    )
    assert one < all_


def test_only_the_own_decoder_refuses_what_does_not_fit(description: Description, tmp_path: Path) -> None:
    config = run_config(tmp_path, Path("-"), tmp_path / "out", "compute.memory_limit_mb=1")
    forecast = make_forecast(planned(config, description, "cpu", description.linears), Alike(50))
    assert (forecast.refusal is not None) is (description.backend is Backend.VENEER)


def test_layers_have_the_rank_of_the_update_on_them(description: Description) -> None:
    targets = [path for path in description.linears if path.endswith(("q_proj", "query_key_value"))]
    linears = [linear for layer in linears_under(description, LORA, targets) for linear in layer.values()]
    assert 0 < len(targets) < len(description.linears) == len(linears)
    adapted = [linear.path for linear in linears if linear.rank == 4]
    assert len(adapted) == len(targets)
    assert all(path.endswith(("q_proj", "query_key_value")) for path in adapted)
