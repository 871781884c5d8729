"""The plan of a server: what fits, what is refused, and that a real server takes no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from helpers.adapters.peft_folders import write_adapter
from helpers.models.damaged_checkpoints import linears
from helpers.models.tiny import write_model
from helpers.models.tiny_models import saved, tiny
from helpers.processes.invoking import invoke
from veneer.adapters.adapter import remove
from veneer.adapters.spec import LoraSpec
from veneer.enums import Bias, Factors, Init, Method, Scaling, Variant
from veneer.errors import ConfigError
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.model.shape import DecoderSpec
from veneer.planning.choose import Limit
from veneer.planning.memory import MB
from veneer.planning.serving import ServingPlan, computed_by_modules, plan_serving
from veneer.planning.setup import Setup
from veneer.serving.served_adapters.loading import adapter_loader
from veneer.text.strict_json import to_text

RANK = 16
LORA = LoraSpec(rank=RANK, alpha=32.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("wide"), hidden=256)


@pytest.fixture(scope="module")
def model(folder: Path) -> CausalLM:
    return load_model(open_checkpoint(folder), Loading(dtype=torch.float32))


def setup(model: CausalLM, lora: LoraSpec = LORA) -> Setup:
    assert isinstance(model.spec, DecoderSpec)
    return Setup(spec=model.spec, method=Method.LORA, dtype=torch.float32, lora=lora)


def planned(model: CausalLM, limit: float, start: int = 265 * MB, **wanted: int) -> ServingPlan:
    limited = Limit(bytes=limit, source="the test")
    return plan_serving(setup(model), limited, context=64, start=start, **wanted)


def start_of_a_plan() -> int:
    """Resident bytes of a process of its own that could plan: more with a torch that is built for CUDA."""
    code = "import veneer.screens.plan; from veneer.planning.memory import resident; print(resident())"
    return int(subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE).stdout)


def test_sequences_and_adapters_have_the_bytes_that_the_engine_counts(
    folder: Path, model: CausalLM, tmp_path: Path
) -> None:
    plan = planned(model, 1000 * MB)
    (tmp_path / "one").mkdir()
    adapter = write_adapter(tmp_path / "one", model, rank=RANK)
    remove(model, adapter)
    model.requires_grad_(False).eval()
    assert plan.adapter == adapter_loader(model)(tmp_path / "one").nbytes
    assert plan.sequence == model.row_bytes(64 + 16)
    assert plan.base == sum(tensor.nbytes for tensor in {id(p): p for p in model.parameters()}.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "settings",
    [
        {"init": Init.PISSA},
        {"init": Init.OLORA, "variant": Variant.DORA},
        {"factors": Factors.B},
        {"factor_bias": True},
        {"variant": Variant.DORA},
        {"variant": Variant.DORA, "bias": Bias.ALL},
        {"modules_to_save": ("norm",)},
        {"target_modules": ("q_proj", "embed_tokens")},
    ],
    ids=str,
)
def test_an_adapter_of_any_kind_has_the_bytes_that_the_server_counts(
    settings: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    saved(tiny("qwen2"), tmp_path / "base")  # has biases
    base = load_model(open_checkpoint(tmp_path / "base"), Loading(dtype=torch.float32))
    (tmp_path / "one").mkdir()
    remove(base, write_adapter(tmp_path / "one", base, **settings))
    base.requires_grad_(False).eval()
    of = setup(base, LoraSpec(**({"rank": 4, "alpha": 6.0} | settings)))
    plan = plan_serving(of, Limit(bytes=1000 * MB, source="the test"), context=64, adapter_dtype=dtype)
    assert plan.adapter == adapter_loader(base, dtype=dtype)(tmp_path / "one").nbytes


@pytest.mark.parametrize(
    ("settings", "by_modules"),
    [
        ({}, False),
        ({"scaling": Scaling.RSLORA}, False),
        ({"factors": Factors.B}, False),
        ({"factor_bias": True}, False),
        ({"bias": Bias.ALL}, False),  # a Llama has no biases
        ({"variant": Variant.DORA}, False),
        ({"modules_to_save": ("norm",)}, True),
        ({"modules_to_save": ("q_proj",)}, True),
        ({"target_modules": ("q_proj", "embed_tokens")}, True),
        ({"trainable_tokens": {"model.embed_tokens": (1, 2)}}, True),
    ],
)
def test_adapters_that_modules_compute_are_told_by_their_settings(
    folder: Path, tmp_path: Path, settings: dict[str, Any], by_modules: bool
) -> None:
    """The server says of the same adapter whether it has factors for the compiled step."""
    base = load_model(open_checkpoint(folder), Loading(dtype=torch.float32))
    (tmp_path / "one").mkdir()
    remove(base, write_adapter(tmp_path / "one", base, **settings))
    base.requires_grad_(False).eval()
    assert (adapter_loader(base)(tmp_path / "one").model is not None) is by_modules
    assert computed_by_modules(setup(base, LoraSpec(**({"rank": 4, "alpha": 6.0} | settings)))) is by_modules


def test_whole_prompts_and_decoded_weights_are_counted_under_such_adapters(model: CausalLM) -> None:
    limit = Limit(bytes=1000 * MB, source="the test")
    plain, saved = (
        plan_serving(replace(setup(model, lora), method=Method.QLORA), limit, context=64, start=265 * MB)
        for lora in (LoraSpec(rank=4, alpha=6.0), LoraSpec(rank=4, alpha=6.0, modules_to_save=("norm",)))
    )
    assert plain.prompt == plain.decoded == 0
    assert saved.prompt > 64 * 4 * model.spec.hidden_size
    assert saved.decoded == sum(4 * layer.weight.numel() for layer in linears(model).values())
    assert saved.peak - saved.sequences * saved.prompt - saved.decoded > plain.fixed


def test_what_is_left_open_takes_the_room_that_there_is(model: CausalLM) -> None:
    plan = planned(model, 1000 * MB)
    assert plan.refusal is None
    assert plan.sequences == 64, "a server runs no more at a time"
    assert plan.adapters > 10
    assert plan.peak <= 1000 * MB
    fewer = planned(model, 1000 * MB, adapters=5)
    assert (fewer.adapters, fewer.sequences) == (5, 64)
    tight = planned(model, plan.fixed + 3 * plan.sequence + 2.5 * plan.adapter, sequences=3)
    assert tight.adapters == 2


def test_what_does_not_fit_is_refused_with_the_numbers(model: CausalLM) -> None:
    refusal = planned(model, 100 * MB).refusal
    assert refusal is not None
    assert "above the limit of 100 MB (the test)" in refusal
    assert refusal.endswith("or --method qlora")
    assert planned(model, 1000 * MB, adapters=10**6).refusal is not None
    with pytest.raises(ConfigError, match="--length"):
        plan_serving(setup(model), Limit(bytes=1e9, source="the test"), context=10**7)


def test_a_plan_is_json_where_the_system_does_not_say_how_much_memory_there_is(model: CausalLM) -> None:
    limits = (Limit(bytes=float("inf"), source="unknown"), Limit(bytes=1e9, source="1 GB"))
    plans = [plan_serving(setup(model), limit, context=64, adapters=1) for limit in limits]
    assert [json.loads(to_text(plan.to_json()))["limit"]["bytes"] for plan in plans] == [None, 1e9]
    with pytest.raises(ConfigError, match="unknown: give --adapters, or --memory-limit-mb"):
        plan_serving(setup(model), limits[0], context=64)


def test_the_command_plans_from_a_configuration_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    arguments = ("plan", "--serve", "--model", tmp_path / "config.json", "--length", 64, "--method", "lora")
    done = invoke(*arguments, "--memory-limit-mb", 4000, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["sequences"] == 64
    assert found["adapters"] > 10
    assert found["start"] > start_of_a_plan()
    assert "veneer serve" in invoke(*arguments, "--memory-limit-mb", 4000).output
    # A server holds its base under method full as under lora.
    full = json.loads(invoke(*arguments, "--memory-limit-mb", 4000, "--json", "--method", "full").stdout)
    assert all(full[name] == found[name] for name in ("base", "workspace", "sequence", "adapter", "rank"))
    assert invoke(*arguments, "--memory-limit-mb", 50).exit_code == 2
    assert invoke(*arguments, "--data", "rows.jsonl").exit_code == 2
    assert invoke("plan", "--model", "m", "--sequences", 3).exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ("norm",)}])
def test_a_server_takes_no_more_than_its_plan(folder: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Both budgets are filled: 24 requests at a time under 12 adapters, with room for 6."""
    model = load_model(open_checkpoint(folder), Loading(dtype=torch.float32))
    for number in range(12):
        (tmp_path / f"a{number}").mkdir(parents=True)
        remove(model, write_adapter(tmp_path / f"a{number}", model, rank=RANK, **settings))
    wanted = setup(model, LoraSpec(rank=RANK, alpha=RANK, **settings))
    limit = Limit(bytes=10**10, source="the test")
    plan = plan_serving(wanted, limit, context=64, start=start_of_a_plan(), sequences=8, adapters=6)
    command = [sys.executable, "-m", "veneer", "serve", "--model", str(folder), "--adapters", str(tmp_path), "--json"]
    command += ["--name", "base", "--port", "0", "--device", "cpu", "--dtype", "float32"]
    command += ["--cache-memory", str(plan.cache_memory), "--adapter-memory", str(plan.adapter_memory)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        with httpx.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(24) as pool:

            def ask(number: int) -> int:
                body = {"model": f"a{number % 12}", "prompt": [number % 50] * 40, "max_tokens": 8, "ignore_eos": True}
                return client.post("/v1/completions", json=body).status_code

            assert set(pool.map(ask, range(120))) == {200}
        taken = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        process.terminate()
    assert taken <= 1.1 * plan.peak
    assert taken >= 0.6 * plan.peak
