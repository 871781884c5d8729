"""Runs that are trained together are the runs that they would be alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.models.tiny import rows, run_config, write_model, write_rows
from helpers.models.tiny_models import tiny, use_backend
from helpers.run_folders.run_logs import read_events
from helpers.tensors import assert_same_tensors
from veneer.config import RunConfig
from veneer.data.micro_batches.batches import MicroBatch
from veneer.errors import ConfigError, Diverged, Interrupted, OutOfMemory
from veneer.events import Event, RunEvent, StepDone, ignore
from veneer.products import compiled
from veneer.run_folder import RunFolder
from veneer.training import joint_passes
from veneer.training.joint import joint_bytes, prepare_joint, train_together
from veneer.training.joint_passes import Joint
from veneer.training.over_model import Sums
from veneer.training.run import train
from veneer.training.session import RunResult

COMMON = ("train.steps=4", "train.examples_per_step=4", "data.held_out=0.2", "train.eval_every=2")
DIFFERENT: list[tuple[str, ...]] = [
    ("lora.rank=4", "train.seed=1"),
    ("lora.rank=8", "train.learning_rate=0.003", "train.steps=6", "lora.alpha=4"),
    ("lora.rank=2", "train.examples_per_step=7", "train.seed=2", "compute.micro_batch_tokens=100"),
]
KINDS: list[tuple[str, ...]] = [
    ("lora.dropout=0.2",),
    ("lora.variant=dora", "train.seed=3"),
    ("lora.rank=3", "lora.init=pissa", "lora.target_modules=[q_proj, lm_head, embed_tokens]"),
    ("lora.factors=b", "lora.alpha=7"),
    ("lora.modules_to_save=[embed_tokens]", "lora.target_modules=[q_proj, lm_head]"),
    ("lora.modules_to_save=[norm, input_layernorm]", "train.optimizer=lion", "train.learning_rate=0.0003"),
]
DROPPED: list[tuple[str, ...]] = [("lora.dropout=0.2",), ("lora.dropout=0.1", "train.seed=5"), ("lora.rank=8",)]


def both(
    settings: list[tuple[str, ...]], folder: Path, model: Path, data: Path, *more: str
) -> tuple[list[Path], list[Path]]:
    """The folders of runs that are trained each by itself, and of the same trained together."""

    def configs(where: str) -> list[RunConfig]:
        return [
            run_config(model, data, folder / f"{where}-{number}", *COMMON, *more, *own)
            for number, own in enumerate(settings)
        ]

    for config in configs("alone"):
        train(config)
    outcomes = train_together([prepare_joint(config) for config in configs("joint")], ignore)
    assert all(isinstance(outcome, RunResult) for outcome in outcomes)
    return [folder / f"alone-{n}" for n in range(len(settings))], [folder / f"joint-{n}" for n in range(len(settings))]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def losses(folder: Path) -> list[float]:
    """The loss of every step."""
    return [float(str(one["loss"])) for one in read_events(folder / "events.jsonl") if one["event"] == "StepDone"]


def without_times(folder: Path) -> list[dict[str, Any]]:
    """A run's events without what depends on the clock, the memory or the folder."""
    fleeting = {"time", "seconds", "memory_mb", "planned_memory_mb", "planned_seconds", "path", "message", "bytes"}
    found = read_events(folder / "events.jsonl")
    return [{key: value for key, value in event.items() if key not in fleeting} for event in found]


@pytest.fixture
def exact_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose runs have the same bits alone and together in bfloat16, where all are in one pass."""
    monkeypatch.setattr(joint_passes, "JOINED_TOKENS", 10**6)
    if not compiled():
        pytest.skip("bfloat16 products are torch's here, whose sums may depend on the rows beside")
    return write_model(tmp_path / "model", hidden=64)


@pytest.mark.slow  # bfloat16, to the bit, is in the fast suite
@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("settings", [DIFFERENT, KINDS, DROPPED], ids=["different", "kinds", "dropped"])
def test_each_is_the_run_that_it_is_alone_in_float32(
    settings: list[tuple[str, ...]], method: str, tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    alone, joint = both(settings, tmp_path, tiny_model, tiny_data, f"method={method}")
    for one, other in zip(alone, joint, strict=True):
        expected, found = weights(one), weights(other)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert float((found[name] - tensor).abs().max()) < 1e-6, name
        for event, same in zip(without_times(one), without_times(other), strict=True):
            assert event.keys() == same.keys()
            for key, value in event.items():
                assert same[key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), key
        assert sorted(path.name for path in other.iterdir()) == sorted(path.name for path in one.iterdir())


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("settings", [DIFFERENT, KINDS, DROPPED], ids=["different", "kinds", "dropped"])
def test_each_is_the_run_that_it_is_alone_in_bfloat16_to_the_bit(
    settings: list[tuple[str, ...]], method: str, exact_model: Path, tmp_path: Path, tiny_data: Path
) -> None:
    alone, joint = both(settings, tmp_path, exact_model, tiny_data, f"method={method}", "compute.dtype=bfloat16")
    for one, other in zip(alone, joint, strict=True):
        expected, found = weights(one), weights(other)
        unequal = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
        assert unequal == []
        assert without_times(one) == without_times(other)


@pytest.mark.parametrize("kind", ["lora.variant=dora", "lora.bias=all"])
def test_other_updates_have_their_own_bits_under_dropout_too(
    kind: str, exact_model: Path, tmp_path: Path, tiny_data: Path
) -> None:
    """Gradients of inputs are added in the order of a run alone."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(exact_model, attention_bias=True)).save_pretrained(exact_model)
    settings = [(kind, "lora.dropout=0.1"), ("lora.rank=8",)]
    alone, joint = both(settings, tmp_path, exact_model, tiny_data, "compute.dtype=bfloat16")
    for one, other in zip(alone, joint, strict=True):
        assert_same_tensors(weights(one), weights(other))


@pytest.mark.parametrize("family", ["olmo2", "cohere"])
def test_layers_whose_input_others_read_too_have_their_own_bits(
    family: str, exact_model: Path, tmp_path: Path, tiny_data: Path
) -> None:
    """The residual stream is the input of OLMo-2's layers; Cohere's blocks are side by side."""
    vocab = json.loads((exact_model / "config.json").read_text())["vocab_size"]
    tiny(family, changes={"vocab_size": vocab}).save_pretrained(exact_model)
    settings = [("lora.rank=4",), ("lora.rank=2", "lora.dropout=0.1")]
    alone, joint = both(settings, tmp_path, exact_model, tiny_data, "compute.dtype=bfloat16")
    for one, other in zip(alone, joint, strict=True):
        assert_same_tensors(weights(one), weights(other))


def test_different_data_for_each(tmp_path: Path, tiny_model: Path) -> None:
    files = [write_rows(tmp_path / f"{seed}.jsonl", rows(20, seed=seed)) for seed in (5, 6)]
    settings = [(f"data.file={file}",) for file in files]
    alone, joint = both(settings, tmp_path, tiny_model, files[0])
    for one, other in zip(alone, joint, strict=True):
        for name, tensor in weights(one).items():
            assert float((weights(other)[name] - tensor).abs().max()) < 1e-6
    name = next(iter(weights(joint[0])))
    assert not torch.equal(weights(joint[0])[name], weights(joint[1])[name])


def test_without_compiled_kernels_the_adapters_are_those_of_separate_runs(
    tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_backend("torch", monkeypatch)
    alone, joint = both(DIFFERENT, tmp_path, tiny_model, tiny_data)
    for one, other in zip(alone, joint, strict=True):
        for name, tensor in weights(one).items():
            assert float((weights(other)[name] - tensor).abs().max()) < 1e-6


@pytest.mark.parametrize("tokens", [1, 200], ids=["each by itself", "some"])  # all at once: in bfloat16, above
def test_how_many_stand_in_a_pass_changes_nothing(
    tokens: int, tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_passes, "JOINED_TOKENS", tokens)
    alone, joint = both(DIFFERENT, tmp_path, tiny_model, tiny_data)
    for one, other in zip(alone, joint, strict=True):
        for name, tensor in weights(one).items():
            assert float((weights(other)[name] - tensor).abs().max()) < 1e-6


def test_with_recomputed_layers_the_adapters_are_those_of_separate_runs(
    tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    alone, joint = both(DIFFERENT, tmp_path, tiny_model, tiny_data, "compute.recompute=layers")
    for one, other in zip(alone, joint, strict=True):
        for name, tensor in weights(one).items():
            assert float((weights(other)[name] - tensor).abs().max()) < 1e-6


def test_one_that_diverges_ends_and_the_others_go_on(tmp_path: Path, tiny_model: Path, tiny_data: Path) -> None:
    configs = [
        run_config(tiny_model, tiny_data, tmp_path / str(number), *COMMON, f"train.learning_rate={rate}", *more)
        for number, (rate, more) in enumerate([(0.01, ()), (1e30, ("train.warmup=0", "train.clip=0")), (0.02, ())])
    ]
    outcomes = train_together([prepare_joint(config) for config in configs], ignore)
    assert [type(outcome) for outcome in outcomes] == [RunResult, Diverged, RunResult]
    assert read_events(tmp_path / "1" / "events.jsonl")[-1]["reason"] == "diverged"
    train(configs[0].model_copy(update={"output": str(tmp_path / "alone")}))
    for name, tensor in weights(tmp_path / "alone").items():
        assert float((weights(tmp_path / "0")[name] - tensor).abs().max()) < 1e-6


def test_stopped_together_and_gone_on_with(tmp_path: Path, tiny_model: Path, tiny_data: Path) -> None:
    def configs(where: str) -> list[RunConfig]:
        return [
            run_config(tiny_model, tiny_data, tmp_path / f"{where}-{number}", *COMMON, *own)
            for number, own in enumerate(DIFFERENT)
        ]

    train_together([prepare_joint(config) for config in configs("whole")], ignore)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    outcomes = train_together([prepare_joint(config) for config in configs("cut")], ignore, stop=stop)
    assert all(isinstance(outcome, Interrupted) for outcome in outcomes)
    train_together([prepare_joint(config, resume=True) for config in configs("cut")], ignore)
    for number in range(3):
        expected, found = weights(tmp_path / f"whole-{number}"), weights(tmp_path / f"cut-{number}")
        assert_same_tensors(found, expected)


def test_runs_go_on_with_the_threads_that_they_began_with(tmp_path: Path, tiny_model: Path, tiny_data: Path) -> None:
    """Their configurations leave them open, and the machine has others now."""
    settings = (*COMMON, "compute.threads=null")
    configs = [run_config(tiny_model, tiny_data, tmp_path / name, *settings) for name in ("one", "two")]
    before, asked = torch.get_num_threads(), iter([False, True, True])
    try:
        torch.set_num_threads(1)
        outcomes = train_together([prepare_joint(config) for config in configs], ignore, stop=lambda: next(asked))
        assert all(isinstance(outcome, Interrupted) for outcome in outcomes)
        torch.set_num_threads(2)
        train_together([prepare_joint(config, resume=True) for config in configs], ignore)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for config in configs:
        recorded = RunFolder(Path(config.output)).config()
        assert recorded is not None
        assert recorded.compute.threads == 1


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the tokens of the widest pass for which there is memory."""
    whole = Joint.sums

    def limit(tokens: int) -> None:
        def sums(joint: Joint, batches: Sequence[tuple[str, MicroBatch]]) -> list[Sums]:
            if sum(len(batch.tokens) for _, batch in batches) > tokens:
                torch.empty(1 << 58)
            return whole(joint, batches)

        monkeypatch.setattr(Joint, "sums", sums)

    return limit


@pytest.mark.scenario(number=20)
def test_without_memory_for_a_pass_narrower_ones_make_the_same_steps(
    room: Callable[[int], None], tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    dropped = [(*own, "lora.dropout=0.1") for own in DIFFERENT]
    alone, joint = both(dropped, tmp_path, tiny_model, tiny_data)
    room(300)
    narrow = [
        run_config(tiny_model, tiny_data, tmp_path / f"narrow-{number}", *COMMON, *own)
        for number, own in enumerate(dropped)
    ]
    outcomes = train_together([prepare_joint(config) for config in narrow], ignore)
    assert all(isinstance(outcome, RunResult) for outcome in outcomes)
    for one, other, config in zip(alone, joint, narrow, strict=True):
        for name, tensor in weights(one).items():
            assert float((weights(Path(config.output))[name] - tensor).abs().max()) < 1e-6
        assert losses(Path(config.output)) == pytest.approx(losses(other), abs=1e-5)
    said = [event["message"] for event in read_events(tmp_path / "narrow-0" / "events.jsonl") if "message" in event]
    assert any("tokens are computed at once from here on" in str(message) for message in said)


@pytest.mark.scenario(number=20)
def test_without_memory_for_a_micro_batch_its_run_takes_smaller_ones_and_the_others_do_not(
    room: Callable[[int], None], tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    sizes = [("compute.micro_batch_tokens=512",), ("compute.micro_batch_tokens=100", "train.seed=1")]
    alone, _ = both(sizes, tmp_path, tiny_model, tiny_data)
    room(150)
    configs = [
        run_config(tiny_model, tiny_data, tmp_path / f"small-{number}", *COMMON, *own)
        for number, own in enumerate(sizes)
    ]
    train_together([prepare_joint(config) for config in configs], ignore)
    for one, config in zip(alone, configs, strict=True):
        assert losses(Path(config.output)) == pytest.approx(losses(one), abs=1e-5)
    locks = [json.loads((Path(config.output) / "run.lock").read_text()) for config in configs]
    assert locks[0]["micro_batches"][0][0] == 1
    assert locks[0]["micro_batches"][0][1] <= 256
    assert "micro_batches" not in locks[1]


def test_without_memory_for_a_row_every_run_keeps_its_last_step(
    room: Callable[[int], None], tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    def filling(event: Event) -> None:
        if isinstance(event, RunEvent) and isinstance(event.event, StepDone) and event.event.step == 1:
            room(0)

    settings = ("train.steps=4", "train.examples_per_step=4", "train.save_every=100")
    configs = [run_config(tiny_model, tiny_data, tmp_path / name, *settings) for name in "ab"]
    with pytest.raises(OutOfMemory, match=r"(?s)computing step 2.*By the plan.*Fewer runs at a time \(--together\)"):
        train_together([prepare_joint(config) for config in configs], filling)
    for config in configs:
        assert RunFolder(Path(config.output)).checkpoint_steps() == [1]
        assert read_events(Path(config.output) / "events.jsonl")[-1]["reason"] == "out of memory"


def test_what_cannot_be_joined(tmp_path: Path, tiny_model: Path, tiny_data: Path) -> None:
    def prepared(number: int, *settings: str) -> Any:
        return prepare_joint(run_config(tiny_model, tiny_data, tmp_path / str(number), *settings))

    plain, ranked, four_bits = prepared(0), prepared(1, "lora.rank=8"), prepared(2, "method=qlora")
    full = prepared(3, "method=full")
    grown = prepared(5, "lora.new_tokens=[<extra>]")
    assert grown.base_key is None
    dropping = prepared(4, "compute.recompute=layers", "lora.dropout=0.1")
    assert plain.base_key == ranked.base_key != four_bits.base_key
    assert full.base_key is None
    assert dropping.base_key is None
    for runs in ([plain, four_bits], [full], [dropping, dropping]):
        with pytest.raises(ConfigError, match="the same base"):
            train_together(runs, ignore)
    one, both_runs = joint_bytes([plain]), joint_bytes([plain, ranked])
    assert one == plain.plan.choice.memory.peak < both_runs < 2 * one
