"""The choice of a micro-batch obeys its limit, and a refusal names the ways out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from helpers.cards import LLAMA_8B
from helpers.training.plan_setups import GB, LLAMA_65B, START, Alike, peak, setup
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING
from veneer.config import ComputeSection
from veneer.enums import Method, Recompute
from veneer.planning.base import decoded_bytes
from veneer.planning.batch_shape import BatchShape
from veneer.planning.choose import (
    CANDIDATES,
    TOLERANCE,
    Limit,
    MicroBatchChoice,
    choose,
    free_bytes,
    limit_of,
    own_size,
)
from veneer.planning.lanes import Spread
from veneer.planning.memory import GPU_START, MB, hosted_bytes, parked_bytes
from veneer.planning.setup import Setup
from veneer.planning.time import operations, overhead_operations

MIB = 1 << 20
NO_LIMIT = Limit(bytes=float("inf"), source="none")


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("limit_mb", [900, 1200, 1500, 2000, 3000, 6000, 10**6])
@pytest.mark.parametrize("length", [40, 300, 2000])
def test_the_choice_obeys_its_limit(method: Method, limit_mb: int, length: int) -> None:
    limit = Limit(bytes=limit_mb * MB, source="the test")
    of = setup(method=method)
    chosen, refusal = choose(of, ComputeSection(), Alike(length), limit, start=START)
    if refusal is None:
        assert chosen.memory.peak <= limit.bytes
        assert chosen.micro_batch_tokens >= length
        if chosen.recompute:  # only where nothing fits without
            assert peak(of, Alike(length).batch_shape(length)) > limit.bytes
    else:
        assert chosen.memory.peak > limit.bytes
        assert peak(of, Alike(length).batch_shape(length), recompute=True) > limit.bytes


@pytest.mark.parametrize("method", Method)
def test_the_choice_is_the_smallest_within_two_percent(method: Method) -> None:
    of = setup(method=method)

    def cost(tokens: int) -> float:
        cut = BatchShape.of_rows(64, tokens, 256)
        return operations(of, cut, recompute=False) + cut.micro_batches * overhead_operations(of)

    chosen, _ = choose(of, ComputeSection(), Alike(64, 256), NO_LIMIT, start=START)
    best = min(cost(tokens) for tokens in CANDIDATES)
    assert cost(chosen.micro_batch_tokens) <= (1 + TOLERANCE) * best
    smaller = [tokens for tokens in (64, *CANDIDATES) if tokens < chosen.micro_batch_tokens]
    assert all(cost(tokens) > (1 + TOLERANCE) * best for tokens in smaller)


def test_a_row_alone_has_a_micro_batch_of_whole_steps_of_64_tokens() -> None:
    assert [own_size(longest) for longest in (1, 64, 65, 100)] == [64, 64, 128, 128]


def test_what_is_given_is_taken() -> None:
    compute = ComputeSection.model_validate({"micro_batch_tokens": 300, "recompute": "layers"})
    chosen, refusal = choose(setup(), compute, Alike(100), NO_LIMIT, start=START)
    assert (chosen.micro_batch_tokens, chosen.recompute, refusal) == (300, True, None)


def test_the_choice_needs_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(time, "perf_counter", lambda: pytest.fail("a clock was read"))
    choose(setup(), ComputeSection(), Alike(100), NO_LIMIT, start=START)


@pytest.mark.parametrize("method", Method)
def test_a_refusal_names_value_limit_and_ways_that_fit(method: Method) -> None:
    limit = Limit(bytes=1000 * MB if method is not Method.FULL else 2200 * MB, source="compute.memory_limit_mb=1000")
    of = setup(method=method, lora=LoraSpec(rank=192, alpha=32.0))
    chosen, refusal = choose(of, ComputeSection(), Alike(8000), limit, start=START)
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
    _, refusal = choose(setup(), compute, Alike(256, 64), limit, start=START)
    assert refusal is not None
    assert "compute.recompute=layers" in refusal
    assert "compute.micro_batch_tokens=256" in refusal


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("compute", [{}, {"micro_batch_tokens": 4096}, {"recompute": "never"}, {"recompute": "layers"}])
@pytest.mark.parametrize("limit_mb", [600, 700, 800, 950, 1400, 2400])
def test_a_run_with_any_of_its_ways_out_fits(method: Method, compute: dict[str, Any], limit_mb: int) -> None:
    """It keeps the settings that a way does not name, and has several micro-batches in a step."""
    of, limit = setup(method=method, lora=LoraSpec(rank=64, alpha=32.0)), Limit(bytes=limit_mb * MB, source="the test")
    _, refusal = choose(of, ComputeSection.model_validate(compute), Alike(1000), limit, start=START)
    for line in (refusal or "").splitlines()[1:]:
        values = dict(word.split("=") for word in line.strip(" -").partition(" (")[0].split())
        own = {key.removeprefix("compute."): value for key, value in values.items() if key.startswith("compute.")}
        changed = replace(of, method=Method(values.get("method", method.value)))
        changed = changed if changed.full else changed.with_rank(int(values.get("lora.rank", 64)))
        rows = Alike(int(values.get("data.max_length", 1000)))
        assert choose(changed, ComputeSection.model_validate(compute | own), rows, limit, start=START)[1] is None, line


def test_the_ways_out_are_for_the_longest_row_wherever_it_is() -> None:
    """A larger micro-batch of short rows is not what must fit."""

    class Mixed(Alike):
        def batch_shape(self, micro_batch_tokens: int) -> BatchShape:
            short = BatchShape.of_rows(100, micro_batch_tokens, 100)
            long = BatchShape.of_rows(self.longest, micro_batch_tokens, 1)
            largest = max(short, long, key=lambda batch: batch.tokens)
            return replace(largest, longest=self.longest, micro_batches=100.0)

    compute, limit = ComputeSection(micro_batch_tokens=8000, recompute=Recompute.NEVER), Limit(bytes=GB, source="x")
    _, refusal = choose(setup(), compute, Mixed(700), limit, start=START)
    assert "compute.micro_batch_tokens=100" not in (refusal or "")
    assert "data.max_length=512" in (refusal or "")


def test_where_answers_are_sampled_they_are_shortened_and_not_the_prompts() -> None:
    class Sampled(Alike):
        def batch_shape(self, micro_batch_tokens: int) -> BatchShape:
            return replace(super().batch_shape(micro_batch_tokens), supervised=700, sampled=8)

    of, limit = setup(), Limit(bytes=900 * MB, source="the test")
    _, refusal = choose(of, ComputeSection(), Sampled(1000), limit, start=START)
    assert "grpo.max_completion_length=212 (" in (refusal or "")  # 512 with a prompt of 300
    assert "data.max_length" not in (refusal or "")


def test_no_row_of_a_remedy_is_longer_than_the_models_context() -> None:
    of, limit = setup(), Limit(bytes=2000 * MB, source="the test")
    _, refusal = choose(of, ComputeSection(), Alike(10**9), limit, start=START)
    assert f"data.max_length={of.spec.max_positions} " in (refusal or "")
    _, refusal = choose(of, ComputeSection(), Alike(10**9), replace(limit, bytes=limit.bytes * 100), start=START)
    assert f"data.max_length={of.spec.max_positions} " in (refusal or "")


def test_where_each_of_several_processes_holds_all_of_it_a_refusal_says_so_and_names_parts() -> None:
    of, limit = setup(method=Method.FULL), Limit(bytes=2200 * MB, source="the test")

    def refusal(spread: Spread) -> str:
        return choose(replace(of, spread=spread), ComputeSection(), Alike(64), limit, start=START)[1] or "fits"

    whole = refusal(Spread(lanes=8, processes=8))
    assert "Each of the 8 processes holds all of it." in whole
    assert "compute.sharding=full" in whole
    assert "compute.sharding" not in refusal(Spread())
    assert "Each of" not in refusal(Spread())


def test_what_nothing_makes_fit_is_said() -> None:
    _, refusal = choose(
        setup(LLAMA_65B, Method.QLORA), ComputeSection(), Alike(512), Limit(bytes=GB, source="x"), start=START
    )
    assert refusal is not None
    assert "smaller model" in refusal


def test_the_limit_is_what_is_given_or_nine_tenths_of_a_card_or_four_fifths_of_the_main_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert limit_of(ComputeSection(memory_limit_mb=1234)).bytes == 1234 * MB
    card = limit_of(ComputeSection(), 10 * GB)
    assert (card.bytes, card.source) == (9 * GB, "nine tenths of 10,000 MB")
    assert limit_of(ComputeSection()).bytes > 100 * MB
    monkeypatch.setattr("veneer.planning.choose.system_memory", lambda: (20 * GB, 15 * GB))
    monkeypatch.setattr("veneer.planning.choose.memory_limit", lambda: 10 * GB)
    main = limit_of(ComputeSection())
    assert (main.bytes, main.source) == (8 * GB, "four fifths of 10,000 MB")
    shared = limit_of(ComputeSection(), processes=4)
    assert (shared.bytes, shared.source) == (2 * GB, "four fifths of 10,000 MB, for one of 4 processes")


def test_of_a_card_no_more_is_taken_than_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert limit_of(ComputeSection(), 10 * GB, free=3 * GB).bytes == 3 * GB
    assert "the free part of 10,000 MB" in limit_of(ComputeSection(), 10 * GB, free=3 * GB).source
    assert limit_of(ComputeSection(), 10 * GB, free=85 * GB // 10).bytes == 8.5 * GB
    assert limit_of(ComputeSection(), 10 * GB, free=95 * GB // 10).bytes == 9 * GB
    assert limit_of(ComputeSection(memory_limit_mb=5000), 10 * GB, free=3 * GB).bytes == 5000 * MB
    asked: list[torch.device] = []

    def information(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return 2 * GB, 10 * GB

    monkeypatch.setattr(torch.cuda, "mem_get_info", information)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: GB)
    # What this process has already is its own, and its context is counted by the plan.
    assert free_bytes(torch.device("cuda:1")) == 3 * GB + GPU_START
    assert asked == [torch.device("cuda:1")]
    assert free_bytes(torch.device("cpu")) is None


def test_a_card_with_room_keeps_quantised_weights_decoded() -> None:
    of = setup(LLAMA_65B | {"num_hidden_layers": 8}, Method.QLORA, device="cuda")
    weights = 8 * (4 * 8192**2 + 3 * 8192 * 22016)

    def chosen(limit: float, of: Setup = of) -> MicroBatchChoice:
        found, refusal = choose(of, ComputeSection(), Alike(512), Limit(bytes=limit, source="x"), start=START)
        assert refusal is None
        return found

    plain = chosen(12 * GB)
    assert plain.memory.decoded == 0
    roomy = chosen(80 * GB)
    assert roomy.memory.decoded == decoded_bytes(of) == 2 * weights
    assert roomy.memory.phases["training"] == replace(roomy.memory, decoded=0).phases["training"] + 2 * weights
    assert chosen(roomy.memory.peak).memory == roomy.memory
    assert chosen(roomy.memory.peak - 1).memory.decoded == 0
    assert chosen(10**12, setup(LLAMA_65B | {"num_hidden_layers": 8}, Method.LORA, device="cuda")).memory.decoded == 0
    assert chosen(10**12, setup(LLAMA_65B | {"num_hidden_layers": 8}, Method.QLORA)).memory.decoded == 0


def test_qlora_of_8b_at_2048_tokens_fits_a_card_of_8_gb_with_its_embedding_in_the_main_memory() -> None:
    of = setup(LLAMA_8B, Method.QLORA, device="cuda", lora=LoraSpec(rank=16, alpha=32.0))

    def chosen(limit: float, of: Setup = of) -> tuple[MicroBatchChoice, str | None]:
        return choose(of, ComputeSection(), Alike(2048), Limit(bytes=limit, source="x"), start=START)

    plain, refusal = chosen(8.5 * GB)
    assert refusal is None
    assert (plain.memory.hosted, plain.recompute) == (0, True)
    small, refusal = chosen(6.5 * GB + GPU_START)
    assert refusal is None
    assert small.memory.peak - small.memory.runtime <= 6.5 * GB
    assert small.memory.hosted == 2 * 128_256 * 4096
    assert (small.memory.rounded, plain.memory.rounded) == (0, 2 * of.adapter_weights)
    saved = plain.memory.phases["training"] - small.memory.phases["training"]
    assert saved == small.memory.hosted + plain.memory.rounded
    # What is the head, or learns, stays where it is.
    for other in (
        setup(LLAMA_8B | {"tie_word_embeddings": True}, Method.QLORA, device="cuda"),
        setup(
            LLAMA_8B,
            Method.QLORA,
            device="cuda",
            lora=LoraSpec(rank=16, alpha=32.0, trainable_tokens={EMBEDDING: (5,)}),
        ),
        setup(LLAMA_8B, Method.QLORA),
    ):
        assert hosted_bytes(other) == 0


def test_where_nothing_else_fits_inputs_of_layers_are_in_the_main_memory() -> None:
    of = setup(LLAMA_8B, Method.QLORA, device="cuda", lora=LoraSpec(rank=16, alpha=32.0))

    def chosen(limit: float, compute: ComputeSection | None = None) -> tuple[MicroBatchChoice, str | None]:
        source = Limit(bytes=limit, source="x")
        return choose(of, compute or ComputeSection(), Alike(2048), source, start=START)

    hosted, _ = chosen(6.5 * GB + GPU_START)
    assert hosted.memory.parked == 0
    parked, refusal = chosen(hosted.memory.peak - 1)
    assert refusal is None
    # 32 layers, of which four inputs stay.
    assert parked.memory.parked == 28 * parked.batch.tokens * 4096 * 2
    assert parked.memory.hosted == hosted.memory.hosted
    assert parked.recompute
    assert hosted.memory.phases["training"] - parked.memory.phases["training"] == parked.memory.parked
    least, refusal = chosen(parked.memory.peak - 1)
    assert f"this run needs {least.memory.peak / MB:,.0f} MB" in (refusal or "")
    assert least.memory.peak <= parked.memory.peak
    assert chosen(least.memory.peak)[1] is None
    _, refusal = chosen(hosted.memory.peak - 1, ComputeSection(recompute=Recompute.NEVER))
    assert refusal is not None, "without recomputation there are no inputs to park"
    assert parked_bytes(setup(LLAMA_8B, Method.QLORA), parked.batch) == 0


@pytest.mark.parametrize("total", [8192, 8188, 7793])  # as drivers report cards that are sold with 8 GB
@pytest.mark.parametrize("display", [0, 500, 800])
@pytest.mark.parametrize("context", [300, 550])
def test_a_card_of_8_gb_takes_qlora_of_8b_at_2048_tokens_by_default(total: int, display: int, context: int) -> None:
    of = setup(LLAMA_8B, Method.QLORA, device="cuda", lora=LoraSpec(rank=16, alpha=32.0))
    # What `free_bytes` says: what is free beside the context, and what the plan counts for that.
    free = (total - display - context) * MIB + GPU_START
    limit = limit_of(ComputeSection(), total * MIB, free=free)
    found, refusal = choose(of, ComputeSection(), Alike(2048), limit, start=START)
    assert refusal is None
    assert found.memory.peak <= min(free, 0.9 * total * MIB)
    # Four fifths, which is the main memory's share, would refuse it.
    assert found.memory.peak > 0.8 * total * MIB
