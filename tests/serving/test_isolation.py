"""A request's answer is the one that it gets alone on a cold engine, bit for bit, whatever else is there.

Requests of many adapters, kinds and beginnings are interleaved; adapters leave memory, come back and are exchanged
under their names; requests are cancelled, and the cache is so small that sequences are preempted.
"""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from helpers.adapters.peft_folders import randomise
from helpers.models.family_variants import FAMILIES
from helpers.models.tiny import write_model
from helpers.models.tiny_models import ours, tiny
from veneer.adapters.adapter import remove
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.enums import Variant
from veneer.generation.build import build_engine
from veneer.generation.engine import GenerationEngine
from veneer.generation.request import FinishReason, GenerationHandle, GenerationRequest, GenerationResult, gathered
from veneer.generation.sampling import Sampling
from veneer.generation.scheduler import Limits
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.native.library import kernels
from veneer.serving.served_adapters.folder import AdapterFolder
from veneer.serving.served_adapters.loading import adapter_loader

pytestmark = pytest.mark.skipif(kernels() is None, reason="no compiled kernels")
KINDS: dict[str, dict[str, object]] = {
    "a": {"rank": 1},
    "b": {"rank": 5, "alpha": 11.0},
    "c": {"rank": 16, "target_modules": ("q_proj", "down_proj")},
    "d": {"rank": 4, "factor_bias": True},
    "e": {"rank": 8},
    "f": {"rank": 4, "variant": Variant.DORA},
}
"""Adapters of the compiled step: other ranks, scales, layers, biases and magnitudes."""
APART: dict[str, dict[str, object]] = {
    "norm": {"rank": 4, "modules_to_save": ("norm",)},
    "ends": {"rank": 4, "modules_to_save": ("lm_head", "embed_tokens")},
    "layer": {"rank": 4, "target_modules": ("q_proj",), "modules_to_save": ("o_proj",)},
    "tokens": {"rank": 4, "trainable_tokens": dict.fromkeys((EMBEDDING, HEAD), (3, 7, 11))},
    "head": {"rank": 4, "target_modules": ("lm_head", "q_proj")},
    "turned": {"rank": 4, "target_modules": ("lm_head", "k_proj"), "variant": Variant.DORA},
    "embedding": {"rank": 4, "target_modules": ("embed_tokens", "up_proj")},
}
"""Adapters that are computed through modules."""


def write(folder: Path, model: CausalLM, name: str, *, seed: int, **settings: object) -> None:
    """Save a random adapter under a name."""
    adapter = inject(model, LoraSpec(**({"rank": 4, "alpha": 6.0} | settings)))  # type: ignore[arg-type]
    randomise(list(adapter.parameters()), seed)
    (folder / name).mkdir(exist_ok=True, parents=True)
    save_adapter(folder / name, adapter, base="owner/base")
    remove(model, adapter)


@dataclass(frozen=True)
class World:
    """A base and two versions of every adapter."""

    model: CausalLM
    first: Path
    second: Path


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    write_model(folder / "base", seed=4, tied=False)
    model = load_model(open_checkpoint(folder / "base"), Loading(dtype=request.param))
    model.eval()
    return world_of(model, folder, {**KINDS, **APART})


def world_of(model: CausalLM, folder: Path, kinds: dict[str, dict[str, object]]) -> World:
    """Save two versions of adapters of such kinds."""
    for version in (1, 2):
        for number, (name, settings) in enumerate(kinds.items()):
            write(folder / str(version), model, name, seed=10 * version + number, **settings)
    return World(model, folder / "1", folder / "2")


def engine_of(
    world: World, folder: Path, *, adapter_bytes: int, cache_bytes: int
) -> tuple[GenerationEngine, AdapterFolder]:
    adapters = AdapterFolder(folder, adapter_loader(world.model), adapter_bytes)
    limits = Limits(sequences=12, prompt_tokens=24, block_tokens=4)
    return build_engine(world.model, adapters=adapters, cache_bytes=cache_bytes, limits=limits), adapters


def run(engine: GenerationEngine, *handles: GenerationHandle) -> list[GenerationResult]:
    while not engine.idle:
        if not engine.step():
            time.sleep(0.001)  # an adapter is being read
    return [gathered(iter(handle.ready())) for handle in handles]


class Alone:
    """Answers on a cold engine, one request at a time, remembered."""

    def __init__(self, world: World):
        self._world = world
        self._known: dict[tuple[Path, str], GenerationResult] = {}

    def __call__(self, folder: Path, request: GenerationRequest) -> GenerationResult:
        # Sampling holds a dictionary, so that the request itself is no key.
        key = folder, repr(request)
        if key not in self._known:
            engine, adapters = engine_of(self._world, folder, adapter_bytes=10**8, cache_bytes=10**8)
            [found] = run(engine, engine.submit(request))
            adapters.close()
            self._known[key] = found
        return self._known[key]


def random_request(source: random.Random, vocab: int, names: list[str | None]) -> GenerationRequest:
    beginnings = [[7] * 13, [*range(3, 20)], []]
    rest = [source.randrange(vocab) for _ in range(source.randint(1, 9))]
    return GenerationRequest(
        prompt=(*source.choice(beginnings), *rest),
        sampling=Sampling(
            max_new_tokens=source.randint(1, 9),
            temperature=source.choice([0.0, 0.0, 1.1]),
            seed=source.randrange(5),
            presence_penalty=source.choice([0.0, 0.5]),
        ),
        adapter=source.choice(names),
        logprobs=source.choice([0, 2]),
        prompt_logprobs=source.choice([None, None, None, 1]),
    )


def check(found: GenerationResult, expected: GenerationResult) -> None:
    assert found.tokens == expected.tokens
    assert found.logprobs == expected.logprobs
    assert found.prompt_logprobs == expected.prompt_logprobs


def exchange(source: Path, folder: Path) -> None:
    """Put other files in the place of an adapter's, each whole."""
    for file in source.iterdir():
        shutil.copyfile(file, folder / "new")
        (folder / "new").replace(folder / file.name)


def interleave(world: World, folder: Path, count: int, names: list[str | None], seed: int) -> GenerationEngine:
    """So many requests that come while others are on their way; the adapters are exchanged and unloaded meanwhile."""
    source, alone = random.Random(seed), Alone(world)
    weights = max(file.stat().st_size for file in world.first.rglob("*.safetensors"))
    # Room for two adapters of seven, and for four to six sequences of twelve.
    engine, adapters = engine_of(world, folder, adapter_bytes=2 * weights, cache_bytes=world.model.row_bytes(96))
    # A version is what its files held when it was first read.
    first = [
        GenerationRequest(prompt=(1,), sampling=Sampling(max_new_tokens=1), adapter=name) for name in names if name
    ]
    run(engine, *map(engine.submit, first))
    asked: list[tuple[GenerationHandle, Path]] = []
    versions = dict.fromkeys(names, world.first)
    for number in range(count):
        request = random_request(source, world.model.spec.vocab_size, names)
        asked.append((engine.submit(request), versions[request.adapter]))
        if source.random() < 0.05:
            asked[-1][0].cancel()
        for _ in range(source.randint(0, 3)):
            engine.step()
        if number % 25 == 24:
            name = source.choice([name for name in names if name is not None])
            versions[name] = world.second if versions[name] == world.first else world.first
            shutil.copytree(versions[name] / name, folder / name, dirs_exist_ok=True)
            adapters.load(name, None)
    results = run(engine, *(handle for handle, _ in asked))
    adapters.close()
    ended = 0
    for (handle, version), found in zip(asked, results, strict=True):
        if found.finished.reason in (FinishReason.CANCELLED, FinishReason.ERROR):
            # Whoever waited for a version whose files were exchanged is told so.
            assert handle.cancelled or "changed" in str(found.finished.error)
            continue
        ended += 1
        check(found, alone(version, handle.request))
    assert ended > 0.6 * count
    return engine


@pytest.mark.scenario(40)
def test_interleaved_answers_are_those_of_a_cold_engine(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.first, tmp_path / "adapters")
    stats = interleave(world, tmp_path / "adapters", 75, [None, *KINDS], seed=1).stats()
    assert stats.shared_tokens > 0
    assert stats.preemptions > 0


@pytest.mark.scenario(40)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("variant", ["gemma2", "gemma3", "mistral"])
def test_layers_with_windows_and_capped_scores_keep_requests_apart(
    variant: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Windows of 8 tokens slide over shared beginnings of up to 17."""
    model_type, changes = FAMILIES[variant]
    world = world_of(ours(tiny(model_type, seed=3, changes=changes), tmp_path / "base", dtype=dtype), tmp_path, KINDS)
    # How many tokens are shared follows from when adapters arrive, which a busy machine delays.
    for seed in range(4, 8):
        folder = shutil.copytree(world.first, tmp_path / f"adapters-{seed}")
        if interleave(world, folder, 40, [None, *KINDS], seed=seed).stats().shared_tokens:
            return
    pytest.fail("nothing was shared")


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_adapters_that_are_computed_apart_answer_beside_the_others(seed: int, world: World, tmp_path: Path) -> None:
    if world.model.dtype == torch.bfloat16:
        pytest.skip("products in bfloat16 round by their height; those in float32 do not")
    shutil.copytree(world.first, tmp_path / "adapters")
    interleave(world, tmp_path / "adapters", 30, [None, "a", *APART], seed=seed)


@pytest.mark.slow
@pytest.mark.scenario(40)
def test_a_thousand_interleaved_answers_are_those_of_a_cold_engine(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.first, tmp_path / "adapters")
    interleave(world, tmp_path / "adapters", 1000, [None, *KINDS], seed=3)


@pytest.mark.scenario(40)
def test_the_base_after_an_adapter_is_the_base(world: World) -> None:
    """The same prompt under an adapter, and then under none, with the adapter's keys and values in the cache."""
    alone = Alone(world)
    engine, adapters = engine_of(world, world.first, adapter_bytes=10**8, cache_bytes=10**8)
    for name in ("e", None, "b", None, "e"):
        sampling = Sampling(max_new_tokens=6)
        request = GenerationRequest(prompt=tuple(range(3, 24)), sampling=sampling, adapter=name, logprobs=1)
        [found] = run(engine, engine.submit(request))
        check(found, alone(world.first, request))
    assert engine.stats().shared_tokens == 2 * 20
    adapters.close()
