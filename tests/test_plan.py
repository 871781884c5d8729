"""The plan: sums that add up, what autograd really keeps, a choice within its limit, results that are known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tiny import run_config, tree
from tiny_models import ours, saved, saved_for_backward, tiny_llama
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.cli import main
from veneer.config import ComputeSection, QuantSection, read_yaml
from veneer.data.batches import pack
from veneer.data.chat import Example
from veneer.data.rows import load_rows
from veneer.enums import Bias, Factors, Init, Method, Products, Variant
from veneer.errors import AdapterError, ConfigError, Interrupted
from veneer.events import Note
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.load import WeightForm, expected_tensors, load_model
from veneer.model.recompute import Recomputation
from veneer.model.spec import spec_from_hf
from veneer.planning.activations import kept_activations
from veneer.planning.choose import CANDIDATES, TOLERANCE, Limit, choose, limit_of
from veneer.planning.memory import MB, base_bytes, memory, resident
from veneer.planning.plan import spoken
from veneer.planning.setup import BatchShape, Setup
from veneer.planning.time import CARDS, Rate, card, disk, operations, overhead_operations, probe, step_seconds
from veneer.quant.packed import PackedLinear
from veneer.training.objective import OverModel
from veneer.training.run import train
from veneer.training.steps import PackedSteps, Packing

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LLAMA_7B: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "max_position_embeddings": 2048,
}  # fmt: skip
LLAMA_65B = LLAMA_7B | {
    "hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 80, "num_attention_heads": 64,
}  # fmt: skip
SMOLLM2: dict[str, Any] = LLAMA_7B | {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
GB = 10**9
START = 265 * MB
NO_LIMIT = Limit(bytes=float("inf"), source="none")
HOLDINGS = {Method.LORA: WeightForm.FROZEN, Method.QLORA: WeightForm.QUANTIZED, Method.FULL: WeightForm.TRAINABLE}


def setup(config: dict[str, Any] = SMOLLM2, method: Method = Method.LORA, **settings: Any) -> Setup:
    return Setup(spec=spec_from_hf(config), method=method, **({"dtype": torch.bfloat16} | settings))


def rows_of(length: int, rows: int = 8) -> Any:
    return lambda tokens: BatchShape.of_rows(length, tokens, rows)


def peak(of: Setup, cut: BatchShape, *, recompute: bool = False) -> int:
    return memory(of, cut, recompute=recompute, start=START).peak


# ------------------------------------------------------------------------------------------------ sizes are exact


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return saved(tiny_llama(0, {"num_hidden_layers": 3}), tmp_path_factory.mktemp("plan"))


def adapters() -> list[tuple[Any, ...]]:
    targets: tuple[Any, ...] = (
        "all-linear", ("q_proj", "v_proj"), ("o_proj", "up_proj"), ("down_proj",), r".*layers\.1\..*",
    )  # fmt: skip
    return [
        *product((Method.LORA, Method.QLORA), targets, (0.0, 0.1), (False, True)),
        (Method.FULL, "all-linear", 0.0, False),
        (Method.FULL, "all-linear", 0.0, True),
    ]


def two_documents() -> list[Example]:
    source = np.random.default_rng(0)
    sizes = (40, 33)
    return [Example(source.integers(3, 90, size).astype(np.int32), np.arange(size) > size // 2, "") for size in sizes]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("method", "targets", "dropout", "recompute"), adapters())
def test_what_is_kept_is_what_autograd_keeps(
    method: Method, targets: Any, dropout: float, recompute: bool, dtype: torch.dtype, checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = load_model(checkpoint, form=HOLDINGS[method], dtype=dtype)
    generator = None
    if method is not Method.FULL:
        spec = LoraSpec(rank=4, alpha=8.0, dropout=dropout, target_modules=targets)
        generator = inject(model, spec).generator
    model.train()
    if recompute:
        model.model.recomputation = Recomputation(generator)
    (batch,) = pack(two_documents(), 200)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    with saved_for_backward(monkeypatch) as found:
        OverModel(model).sums(batch)
    really = sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in own)
    if recompute:
        really += len(batch.tokens) * model.spec.head_dim * 4  # cosine and sine, held without being saved
    of = Setup(
        spec=model.spec,
        method=method,
        dtype=dtype,
        lora=LoraSpec(rank=4, alpha=8.0, dropout=dropout, target_modules=targets),
    )
    cut = BatchShape(tokens=len(batch.tokens), longest=40, supervised=batch.supervised)
    assert kept_activations(of, cut, recompute=recompute) == really


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dora": ({"variant": Variant.DORA}, {}),
    "dora with dropout": ({"variant": Variant.DORA, "dropout": 0.1}, {}),
    "b alone": ({"factors": Factors.B}, {}),
    "b alone with dropout": ({"factors": Factors.B, "dropout": 0.1, "target_modules": ("v_proj", "up_proj")}, {}),
    "a start that is subtracted": ({"init": Init.PISSA}, {}),
    "patterns": ({"rank_pattern": {"down_proj": 7, "q_proj": 2}}, {}),
    "embedding": ({"target_modules": ("embed_tokens", "v_proj")}, {}),
    "embedding by dora": ({"target_modules": ("embed_tokens", "v_proj"), "variant": Variant.DORA}, {}),
    "head": ({"target_modules": ("lm_head", "v_proj")}, {}),
    "head by dora": ({"target_modules": ("lm_head", "v_proj"), "variant": Variant.DORA}, {}),
    "head, b alone": ({"target_modules": ("lm_head", "v_proj"), "factors": Factors.B}, {}),
    "a saved head": ({"modules_to_save": ("lm_head",)}, {}),
    "a saved embedding": ({"modules_to_save": ("embed_tokens",), "tied_modules": True}, {}),
    "saved norms": ({"modules_to_save": ("norm", "input_layernorm")}, {}),
    "a saved layer": ({"target_modules": ("q_proj",), "modules_to_save": ("up_proj",)}, {}),
    "biases": ({"bias": Bias.ALL, "target_modules": ("q_proj",)}, {"attention_bias": True}),
    "tokens": ({"trainable_tokens": {"model.embed_tokens": (3, 5)}}, {}),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_is_counted(
    kind: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, changes = KINDS[kind]
    lora = LoraSpec(**({"rank": 4, "alpha": 8.0} | settings))
    model = ours(tiny_llama(changes=changes | {"tie_word_embeddings": tied}), tmp_path, dtype=torch.bfloat16)
    adapter = inject(model, lora)
    model.train()
    (batch,) = pack(two_documents(), 200)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    with saved_for_backward(monkeypatch) as found:
        OverModel(model).sums(batch)
    really = sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in own)
    of = Setup(spec=model.spec, method=Method.LORA, dtype=torch.bfloat16, lora=lora)
    cut = BatchShape(tokens=len(batch.tokens), longest=40, supervised=batch.supervised)
    if of.scored:
        # The head's own pass is over, and what it kept is gone, when the loss is there.
        rows = torch.zeros(batch.supervised, model.spec.hidden_size, dtype=torch.bfloat16, requires_grad=True)
        with saved_for_backward(monkeypatch) as by_head:
            model.lm_head(rows)
        really -= sum(tensor.untyped_storage().nbytes() for place, tensor in by_head.items() if place not in own)
    assert kept_activations(of, cut, recompute=False) == really
    assert of.trained_weights == sum(tensor.numel() for tensor in adapter.parameters())


QUANT: tuple[dict[str, Any], ...] = (
    {}, {"double_quant": False}, {"scheme": "fp4", "block": 32}, {"scheme": "int8"},
    {"scheme": "fp4", "block": 4096, "double_quant": False},
    {"skip_modules": ("o_proj", "model.layers.1.mlp.down_proj")}, {"scheme": "int8", "skip_modules": ("q_proj",)},
)  # fmt: skip


@pytest.mark.parametrize("settings", QUANT)
@pytest.mark.parametrize("method", Method)
def test_the_base_takes_what_its_tensors_take(method: Method, settings: dict[str, Any], checkpoint: Checkpoint) -> None:
    quant = QuantSection.model_validate(settings)
    model = load_model(checkpoint, form=HOLDINGS[method], quant=quant)
    parameters = sum(tensor.nbytes for tensor in model.parameters())
    packed = sum(module.nbytes for module in model.modules() if isinstance(module, PackedLinear))
    of = Setup(spec=model.spec, method=method, dtype=torch.bfloat16, quant=quant)
    assert base_bytes(of) == parameters + packed


def test_trained_weights_are_counted(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint)
    whole = sum(parameter.numel() for parameter in model.parameters())
    assert Setup(spec=model.spec, method=Method.FULL, dtype=torch.bfloat16).trained_weights == whole
    assert whole == sum(int(np.prod(shape)) for shape in expected_tensors(model.spec).values())
    for targets in ("all-linear", ("q_proj", "down_proj"), r".*layers\.2\..*"):
        adapter = inject(load_model(checkpoint), LoraSpec(rank=3, alpha=1.0, target_modules=targets))
        of = Setup(
            spec=model.spec,
            method=Method.LORA,
            dtype=torch.bfloat16,
            lora=LoraSpec(rank=3, alpha=1.0, target_modules=targets),
        )
        assert of.trained_weights == sum(tensor.numel() for tensor in adapter.parameters())


def test_what_cannot_be_adapted_is_refused_as_it_would_be_in_training() -> None:
    with pytest.raises(AdapterError, match="does not have"):
        setup(lora=LoraSpec(rank=16, alpha=32.0, target_modules=("queries",)))
    with pytest.raises(AdapterError, match="rank 600 exceeds"):
        setup(lora=LoraSpec(rank=600, alpha=32.0, init=Init.PISSA))


def test_a_base_in_8_bits_takes_two_bytes_a_weight() -> None:
    exact, int8 = base_bytes(setup()), base_bytes(setup(products=Products.INT8))
    assert exact < int8 < 1.02 * exact


# ------------------------------------------------------------------------------------------------ sums and directions


def test_components_add_up() -> None:
    for method, recompute in product(Method, (False, True)):
        found = memory(setup(method=method), BatchShape.of_rows(256, 1024, 8), recompute=recompute, start=START)
        held = found.runtime + found.base + found.adapters
        trained = held + found.optimizer
        assert found.phases["loading"] == held - found.first_use + found.loading
        step = found.activations + max(found.logits, found.workspace) + found.forward_gradients
        assert found.phases["training"] == trained + max(step, found.gradients + found.summing) + found.heap
        assert found.phases["saving"] == trained + found.saving + found.heap
        assert found.peak == max(found.phases.values())
        assert all(size >= 0 for size in asdict(found).values())


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("recompute", [False, True])
def test_more_takes_more(method: Method, recompute: bool) -> None:
    of = setup(method=method)
    cuts = [BatchShape.of_rows(length, 2048, 8) for length in (64, 128, 256)]
    cuts += [BatchShape(tokens=tokens, longest=256, supervised=200) for tokens in (256, 512, 4096, 5000)]
    cuts += [BatchShape(tokens=5000, longest=5000, supervised=supervised) for supervised in (200, 4000)]
    sizes = [peak(of, cut, recompute=recompute) for cut in cuts[3:]]
    assert sizes == sorted(sizes)
    if method is not Method.FULL:
        ranks = [peak(of.with_rank(rank), cuts[2], recompute=recompute) for rank in (4, 16, 64, 192)]
        assert ranks == sorted(set(ranks))
    layers = [
        peak(setup(SMOLLM2 | {"num_hidden_layers": count}, method), cuts[2], recompute=recompute) for count in (4, 8)
    ]
    assert layers[0] < layers[1]


def test_methods_and_recomputation_stand_in_order() -> None:
    cut = BatchShape.of_rows(512, 1024, 8)
    qlora, lora, full = (peak(setup(method=method), cut) for method in (Method.QLORA, Method.LORA, Method.FULL))
    assert qlora < lora < full
    for method in Method:
        assert peak(setup(method=method), cut, recompute=True) < peak(setup(method=method), cut)


def test_gradients_of_a_single_micro_batch_do_not_stand_beside_its_activations() -> None:
    of = setup(method=Method.FULL)
    one, two = (BatchShape.of_rows(256, tokens, 4) for tokens in (1024, 512))
    assert memory(of, one, recompute=False).forward_gradients == 0
    assert memory(of, two, recompute=False).forward_gradients == 4 * of.trained_weights


def test_this_process_is_the_start() -> None:
    with_default = memory(setup(), BatchShape.of_rows(64, 64, 1), recompute=False)
    assert with_default.runtime > resident() / 2 > 50 * MB


# ------------------------------------------------------------------------------------------------ known results


def test_qlora_of_65b_fits_a_card_of_48_gb() -> None:
    """The headline of the QLoRA paper (arXiv:2305.14314): a 65B model on one card of 48 GB."""
    of = setup(LLAMA_65B, Method.QLORA, device="cuda", lora=LoraSpec(rank=16, alpha=32.0))
    assert peak(of, BatchShape.of_rows(512, 512, 1), recompute=True) < 48 * GB
    assert (
        peak(setup(LLAMA_65B, Method.LORA, device="cuda"), BatchShape.of_rows(512, 512, 1), recompute=True) > 130 * GB
    )


def test_the_4_bit_base_of_7b() -> None:
    """4.127 bits a weight of 6.476e9, and 2 · 32000 · 4096 in bfloat16."""
    assert base_bytes(setup(LLAMA_7B, Method.QLORA)) == pytest.approx(3.87 * GB, rel=0.005)
    plain = base_bytes(setup(LLAMA_7B, Method.QLORA, quant=QuantSection(double_quant=False)))
    assert plain == pytest.approx(4.17 * GB, rel=0.005)
    assert setup(LLAMA_7B, Method.FULL).trained_weights == 6_738_415_616


# ------------------------------------------------------------------------------------------------ the choice


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("limit_mb", [900, 1200, 1500, 2000, 3000, 6000, 10**6])
@pytest.mark.parametrize("length", [40, 300, 2000])
def test_the_choice_obeys_its_limit(method: Method, limit_mb: int, length: int) -> None:
    limit = Limit(bytes=limit_mb * MB, source="the test")
    of = setup(method=method)
    chosen, refusal = choose(of, ComputeSection(), length, rows_of(length), limit, start=START)
    if refusal is None:
        assert chosen.memory.peak <= limit.bytes
        assert chosen.micro_batch_tokens >= length
        if chosen.recompute:  # only where nothing fits without
            assert peak(of, rows_of(length)(length)) > limit.bytes
    else:
        assert chosen.memory.peak > limit.bytes
        assert peak(of, rows_of(length)(length), recompute=True) > limit.bytes


@pytest.mark.parametrize("method", Method)
def test_the_choice_is_the_smallest_within_two_percent(method: Method) -> None:
    of = setup(method=method)

    def cost(tokens: int) -> float:
        cut = BatchShape.of_rows(64, tokens, 256)
        return operations(of, cut, recompute=False) + cut.micro_batches * overhead_operations(of)

    chosen, _ = choose(of, ComputeSection(), 64, rows_of(64, 256), NO_LIMIT, start=START)
    best = min(cost(tokens) for tokens in CANDIDATES)
    assert cost(chosen.micro_batch_tokens) <= (1 + TOLERANCE) * best
    smaller = [tokens for tokens in (64, *CANDIDATES) if tokens < chosen.micro_batch_tokens]
    assert all(cost(tokens) > (1 + TOLERANCE) * best for tokens in smaller)


def test_what_is_given_is_taken() -> None:
    compute = ComputeSection.model_validate({"micro_batch_tokens": 300, "recompute": "layers"})
    chosen, refusal = choose(setup(), compute, 100, rows_of(100), NO_LIMIT, start=START)
    assert (chosen.micro_batch_tokens, chosen.recompute, refusal) == (300, True, None)


def test_the_choice_needs_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(time, "perf_counter", lambda: pytest.fail("a clock was read"))
    choose(setup(), ComputeSection(), 100, rows_of(100), NO_LIMIT, start=START)


@pytest.mark.parametrize("method", Method)
def test_a_refusal_names_value_limit_and_ways_that_fit(method: Method) -> None:
    limit = Limit(bytes=1000 * MB if method is not Method.FULL else 2200 * MB, source="compute.memory_limit_mb=1000")
    of = setup(method=method, lora=LoraSpec(rank=192, alpha=32.0))
    chosen, refusal = choose(of, ComputeSection(), 8000, rows_of(8000), limit, start=START)
    assert refusal is not None
    assert f"{chosen.memory.peak / MB:,.0f} MB" in refusal
    assert "compute.memory_limit_mb=1000" in refusal
    assert "  - " in refusal
    for line in refusal.splitlines()[1:]:
        change, _, size = line.strip(" -").partition(" (")
        assert float(size.removesuffix(" MB)").replace(",", "")) * MB <= limit.bytes
        assert change.partition("=")[0] in ("method", "lora.rank", "data.max_length", "compute.recompute")


def test_a_refusal_of_what_was_given_names_what_would_be_chosen() -> None:
    compute = ComputeSection.model_validate({"micro_batch_tokens": 4096, "recompute": "never"})
    limit = Limit(bytes=1100 * MB, source="the test")
    _, refusal = choose(setup(), compute, 256, rows_of(256, 64), limit, start=START)
    assert refusal is not None
    assert "compute.recompute=layers" in refusal
    assert "compute.micro_batch_tokens=256" in refusal


def test_what_nothing_makes_fit_is_said() -> None:
    _, refusal = choose(
        setup(LLAMA_65B, Method.QLORA), ComputeSection(), 512, rows_of(512), Limit(bytes=GB, source="x"), start=START
    )
    assert refusal is not None
    assert "smaller model" in refusal


def test_the_limit_is_what_is_given_or_four_fifths() -> None:
    assert limit_of(ComputeSection(memory_limit_mb=1234)).bytes == 1234 * MB
    assert limit_of(ComputeSection(), 10 * GB).bytes == 8 * GB
    assert limit_of(ComputeSection()).bytes > 100 * MB


# ------------------------------------------------------------------------------------------------ time and disk


def test_operations_are_those_of_the_products() -> None:
    of = setup()
    cut = BatchShape.of_rows(128, 1024, 8)
    plain, again = (operations(of, cut, recompute=recompute) for recompute in (False, True))
    weights = of.linear_weights * cut.step_tokens
    assert 4 * weights < plain < 6.5 * weights
    assert 1.2 < again / plain < 1.5
    full = operations(setup(method=Method.FULL), cut, recompute=False)
    assert full > plain
    rate = Rate(1e12, 0.5, measured=False)
    assert step_seconds(of, cut, rate, recompute=False) > plain / 0.5e12


def test_the_rate_is_measured_in_a_moment() -> None:
    found = probe(setup())
    assert found.measured
    assert 1e8 < found.flops < 1e15


def test_cards_are_known_by_name() -> None:
    assert card("RTX 4090") is CARDS["rtx4090"]
    with pytest.raises(ConfigError, match=r"did you mean 'h100'.*known: auto"):
        card("h1000")


def test_sizes_on_the_disk() -> None:
    of = setup(LLAMA_7B, Method.QLORA, lora=LoraSpec(rank=16, alpha=32.0))
    assert disk(of).result == pytest.approx(160 * MB, rel=0.01)
    assert disk(of).checkpoint == pytest.approx(3 * disk(of).result, rel=1e-4)
    assert disk(of).merged == pytest.approx(13.48 * GB, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "0.012 s"), (61.0, "61 s"), (100.0, "1.7 min"), (7300.0, "2 h"), (3e5, "3.5 days")]
)
def test_durations_have_two_digits(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


# ------------------------------------------------------------------------------------------------ in a run


def test_the_cut_is_that_of_the_run(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    for tokens in (64, 128, 100_000):
        settings = ("train.examples_per_step=5", f"compute.micro_batch_tokens={tokens}")
        config = run_config(tiny_model, tiny_data, tmp_path / "run", *settings)
        rows = load_rows(config.data, open_checkpoint(tiny_model).tokenizer())
        source = PackedSteps(rows, config.train, Packing(share=True, pad_to_multiple_of=16), tokens)
        cut = source.batch_shape(tokens)
        batches = [batch for step in range(1, source.total + 1) for batch in source.micro_batches(step)]
        assert cut.tokens == max(len(batch.tokens) for batch in batches) == len(source.largest().tokens)
        assert cut.supervised == max(batch.supervised for batch in batches)
        assert cut.micro_batches == len(batches) / source.total
        assert cut.step_tokens == pytest.approx(sum(batch.document_tokens for batch in batches) / source.total)


def test_a_run_says_and_records_what_was_chosen(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    result = train(
        run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=1"),
        subscribers=[lambda event: notes.append(event.message) if isinstance(event, Note) else None],
    )
    recorded = read_yaml(tmp_path / "run" / "config.yaml")["compute"]
    assert recorded["micro_batch_tokens"] == result.plan.choice.micro_batch_tokens
    assert recorded["recompute"] == "never"
    assert any(note.startswith("plan: ") and "MB at the peak" in note for note in notes)


def test_a_run_that_cannot_fit_is_refused_before_a_weight_is_read(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "veneer.training.build.load_language_model", lambda *args, **rest: pytest.fail("the model was read")
    )
    with pytest.raises(ConfigError, match=r"may take 100 MB \(compute.memory_limit_mb=100\)"):
        train(run_config(tiny_model, tiny_data, tmp_path / "run", "compute.memory_limit_mb=100"))


def test_a_resumed_run_takes_what_was_chosen_before(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=3", "compute.recompute=layers",
                       "compute.micro_batch_tokens=96")  # fmt: skip
    with pytest.raises(Interrupted):
        train(first, stop=lambda: True)
    later = run_config(tiny_model, tiny_data, tmp_path / "run", "train.steps=3", "compute.memory_limit_mb=5000")
    plan = train(later, resume=True).plan
    assert (plan.choice.micro_batch_tokens, plan.choice.recompute) == (96, True)
    train(first.model_copy(update={"output": str(tmp_path / "whole")}))
    name = "adapter_model.safetensors"
    assert tree(tmp_path / "run")[name] == tree(tmp_path / "whole")[name]


# ------------------------------------------------------------------------------------------------ the command


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["plan", *arguments])


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA_65B), encoding="utf-8")
    return file


@pytest.mark.parametrize("directory", [False, True])
def test_a_config_json_alone_is_enough(config_file: Path, directory: bool) -> None:
    model = str(config_file.parent if directory else config_file)
    ended = invoke("--model", model, "--device", "h100", "--length", "512", "--json")
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout)
    assert found["fits"]
    assert found["peak"] == max(found["phases"].values())
    assert not found["rate"]["measured"]


def test_the_table_names_every_part(config_file: Path) -> None:
    ended = invoke("--model", str(config_file), "--device", "h200", "--rows", "100", "--tokens", "300", "--rank", "8")
    assert ended.exit_code == 0, ended.output
    for word in ("base", "adapters", "activations", "loading", "training", "micro-batch", "time", "disk: result"):
        assert word in ended.stdout


def test_what_does_not_fit_is_shown_and_refused(config_file: Path) -> None:
    ended = invoke("--model", str(config_file), "--device", "h100", "--memory-limit-mb", "20000", "--json")
    assert ended.exit_code == 2
    assert not json.loads(ended.stdout)["fits"]
    assert "may take 20,000 MB" in ended.stderr


def test_rows_of_a_file_are_planned_as_they_would_be_trained(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    ended = invoke(
        "--model", str(tiny_model), "--method", "lora", "--data", str(tiny_data), "--rank", "4", "--device", "cpu",
        "--set", "compute.dtype=float32", "--json",
    )  # fmt: skip
    assert ended.exit_code == 0, ended.output
    plan = train(run_config(tiny_model, tiny_data, tmp_path / "run")).plan
    found = json.loads(ended.stdout)
    assert found["cut"] == asdict(plan.choice.batch)
    assert found["steps"] == plan.steps


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--device", "abacus"), "--device 'abacus' is unknown"),
        (("--rank", "100000", "--set", "lora.init=olora"), "init olora decomposes a layer"),
        (("--data", "rows.jsonl", "--tokens", "5"), "--data or --tokens"),
        (("--set", "lora.ranks=3"), "did you mean"),
    ],
)
def test_the_command_refuses_by_name(more: tuple[str, ...], named: str, config_file: Path) -> None:
    ended = invoke("--model", str(config_file), *more)
    assert ended.exit_code == 2
    assert named in ended.stderr


# ------------------------------------------------------------------------------------------------ measured


MEASURED = {
    "lora": "runs.grid()[24]",
    "full": "runs.grid()[28]",
    "qlora": "runs.grid()[29]",
    "dora": "next(one for one in runs.others() if one.shape == 'm30')",
    "mixture with windows": "next(one for one in runs.others() if one.model_type == 'gpt_oss')",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MEASURED)
def test_the_measured_peak_is_at_most_a_tenth_below_the_plan(case: str, tmp_path: Path) -> None:
    script = (
        "import json, sys; from pathlib import Path; import plan_cases as runs, plan_grid\n"
        f"case, folder = {MEASURED[case]}, Path(sys.argv[1])\n"
        "plan_grid.prepare(case, folder); print(json.dumps(plan_grid.measure(case, folder)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    result = json.loads(done.stdout.splitlines()[-1])
    assert 1.0 <= result["plan"]["peak"] / 1e6 / result["measured"] <= 1.1
