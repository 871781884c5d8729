"""What training asks of a card, counted without one: launches of a layer, waits of a step, bytes that are kept.

Shapes are those of an 8B Llama, with two or three layers, on the meta device (`cards`). How long anything takes is not
told by this; `benchmarks/gpu.py` measures it on a card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers.cards import LLAMA_8B, META, Tally, card, meta_model
from helpers.models.tiny_models import saved_for_backward
from veneer.adapters.layers.score import ScoreHead
from veneer.adapters.spec import LoraSpec
from veneer.config import (
    CpoSection,
    DistillationSection,
    DpoSection,
    KtoSection,
    OrpoSection,
    RewardSection,
    SimpoSection,
    TrainSection,
)
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.batches import MicroBatch
from veneer.data.micro_batches.packing import pack
from veneer.enums import Method, Schedule
from veneer.event_log import EventLog
from veneer.events import Event, StepDone
from veneer.model.decoder import CausalLM
from veneer.model.families.choose import spec_from_hf
from veneer.model.leaves import HostEmbedding
from veneer.model.recompute import Recomputation
from veneer.planning.activations import kept_activations
from veneer.planning.batch_shape import BatchShape
from veneer.planning.setup import Setup
from veneer.quant.packed import decoded_weights
from veneer.run_folder import RunFolder
from veneer.training.engine import Engine
from veneer.training.folder.checkpoint import CheckpointStore
from veneer.training.folder.progress import Progress
from veneer.training.objectives.base import Means, StepObjective
from veneer.training.objectives.cpo import Cpo
from veneer.training.objectives.distillation import Distillation
from veneer.training.objectives.divergences import Taught, TaughtRows
from veneer.training.objectives.dpo import Dpo
from veneer.training.objectives.kto import Kto
from veneer.training.objectives.orpo import Orpo
from veneer.training.objectives.reference import ReferenceTable
from veneer.training.objectives.reward import Reward
from veneer.training.objectives.simpo import Simpo
from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.base import RuleOptimizer
from veneer.training.over_model import OverModel
from veneer.training.passes import Passes
from veneer.training.rate_schedule import RateSchedule
from veneer.training.references.partners import Partners
from veneer.training.references.reference_point import WithReferencePoint
from veneer.training.trainable import AdapterTraining

MOST_LAUNCHES = {False: 100, True: 105}
"""Kernels of a layer and micro-batch, forward and backward, beside a base in 16 bits and in 4."""
WEIGHTS = {"cross_entropy": 1000.0}


def rows(count: int, length: int, shared: int = 0) -> list[Example]:
    """Rows of random tokens, the first `shared` of which are the same in all."""
    source = np.random.default_rng(0)
    front = source.integers(3, 90, shared).astype(np.int32)
    return [
        Example(
            np.concatenate((front, source.integers(3, 90, length).astype(np.int32))),
            np.arange(shared + length) > shared,
            "",
        )
        for _ in range(count)
    ]


def launches(patch: pytest.MonkeyPatch, layers: int, quantized: bool, **settings: Any) -> tuple[int, int]:
    """Kernels of a step's first micro-batch and of its second, whose gradients are added to those of the first."""
    model, _ = meta_model(layers=layers, quantized=quantized, **settings)
    (batch,) = pack(rows(2, 1024), 4096)
    counts = []
    with card(patch) as tally:
        for _ in range(2):
            before = tally.total
            OverModel(model).sums(batch).loss(WEIGHTS).backward()
            counts.append(tally.total - before)
    return counts[0], counts[1]


@pytest.mark.parametrize("quantized", [False, True])
def test_a_layer_launches_few_kernels(quantized: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    two, three = (launches(monkeypatch, layers, quantized) for layers in (2, 3))
    of_a_layer = [more - fewer for fewer, more in zip(two, three, strict=True)]
    print(f"quantized={quantized}: {of_a_layer} launches a layer and micro-batch")
    assert all(50 < count <= MOST_LAUNCHES[quantized] for count in of_a_layer)


def test_decoded_weights_that_are_kept_cost_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = meta_model(layers=2, quantized=True)
    (batch,) = pack(rows(2, 1024), 4096)
    counts = []
    with card(monkeypatch) as tally:
        for room in (0, 10**12):
            with decoded_weights(model.modules(), torch.bfloat16, room):
                before = tally.launches["triton_decode"]
                OverModel(model).sums(batch).loss(WEIGHTS).backward()
                counts.append(tally.launches["triton_decode"] - before)
    # Forward of both layers, and the gradients of inputs: of the first layer's three products none is needed. Kept
    # weights are decoded once each, when the block begins.
    assert counts == [2 * 14 - 3, 0]


MOST_IN_AN_ANSWER = 28
"""Kernels of a layer in a step of answers, beside a base in 4 bits."""


@torch.no_grad()
def step_of_answers(patch: pytest.MonkeyPatch, layers: int, rows: int, *, packed: bool = True) -> Counter[str]:
    """Kernels of a step in which each of `rows` answers gets a token, with an adapter beside a base in 4 bits."""
    model, _ = meta_model(layers=layers, quantized=True)
    model.eval()
    with card(patch, packed=packed) as tally:
        decoding = model.decoding(rows, 64)
        decoding.prefill(torch.zeros(20 * rows, dtype=torch.int64, device=META), [20] * rows)
        before = tally.launches.copy()
        decoding.step(torch.zeros(rows, dtype=torch.int64, device=META))
        return tally.launches - before


@pytest.mark.parametrize("rows", [1, 16])
def test_a_step_of_answers_decodes_no_weight(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    two, three = (step_of_answers(monkeypatch, layers, rows) for layers in (2, 3))
    decoded = [step_of_answers(monkeypatch, layers, rows, packed=False) for layers in (2, 3)]
    print(f"{rows} rows: {(three - two).total()} launches a layer, {(decoded[1] - decoded[0]).total()} with decoding")
    assert two["triton_packed_product"] == 2 * 7
    assert two["triton_decode"] == 0
    assert 10 < (three - two).total() <= MOST_IN_AN_ANSWER
    # Decoding, the product with B, and the large one added onto it were three.
    assert (decoded[1] - decoded[0]).total() - (three - two).total() == 2 * 7


def test_more_answers_than_the_kernel_takes_share_a_decoded_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    found = step_of_answers(monkeypatch, 2, 17)
    assert found["triton_packed_product"] == 0
    assert found["triton_decode"] == 2 * 7


class Asked(TorchDispatchMode):
    """Operations and the shapes that they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[object, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        leaves = tree_leaves((args, kwargs))
        self.found.append((func, *(tuple(x.shape) if isinstance(x, Tensor) else x for x in leaves)))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_steps_of_answers_ask_the_same_of_the_card_and_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what capturing one needs. After 64 tokens more of the cache is looked at."""
    model, _ = meta_model(layers=2, quantized=True)
    model.eval()
    steps, waits = [], []
    with card(monkeypatch) as tally:
        decoding = model.decoding(3, 200)
        decoding.prefill(torch.zeros(200, dtype=torch.int64, device=META), [20, 120, 60])
        for _ in range(120, 130):
            assert decoding.widths() == [1, 1, 1]
            before = len(tally.waits), tally.sent
            with Asked() as asked:
                decoding.step(torch.zeros(3, dtype=torch.int64, device=META))
            steps.append(asked.found)
            waits.append((len(tally.waits) - before[0], tally.sent - before[1]))
    # The tables of the 4-bit code are sent once, in the first step.
    assert waits[1:] == [(0, 0)] * 9
    # The step at 120 tokens makes the 121st key; 128 are looked at until there are as many.
    assert all(step == steps[1] for step in steps[1:8])
    assert steps[8] == steps[9] != steps[1]


def test_scores_are_made_in_large_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk reads the head, a gigabyte, twice."""
    model, _ = meta_model(layers=1, quantized=False)
    (batch,) = pack(rows(2, 1500), 4096)
    assert batch.supervised == 2998
    with card(monkeypatch) as tally:
        OverModel(model).sums(batch)
    assert tally.launches["triton_row"] == 3


def test_dropout_costs_launches_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count is of real operations: dropping inputs takes a mask and two products for each of seven layers."""
    plain, dropping = (launches(monkeypatch, 2, False, dropout=dropout)[0] for dropout in (0.0, 0.1))
    assert dropping - plain >= 2 * 7 * 3


class Steps:
    """Two micro-batches a step (`StepSource`)."""

    def lanes(self, step: int, most: int | None = None) -> Sequence[Sequence[MicroBatch]]:
        batches = pack(rows(4, 500, shared=12), 1100)
        assert len(batches) == 2
        return [batches]

    def epoch(self, step: int) -> float:
        return 0.0


def engine(folder: Path, quantized: bool) -> tuple[Engine, list[Event]]:
    model, adapter = meta_model(layers=2, quantized=quantized)
    trainable = AdapterTraining(adapter, "base")
    events: list[Event] = []
    folder.mkdir(parents=True)
    made = Engine(
        progress=Progress(),
        model=model,
        passes=Passes(trainable=trainable, objective=OverModel(model), source=Steps(), seed=3),
        optimizer=RuleOptimizer(trainable.named(), AdamW((0.9, 0.999)), weight_decay=0.0),
        schedule=RateSchedule(peak=0.01, steps=100, warmup=0.0, shape=Schedule.CONSTANT, end=0.0),
        train=TrainSection(clip=0.5),
        evaluate=None,
        checkpoints=CheckpointStore(RunFolder(folder), keep=1, identity={}),
        log=EventLog(folder / "events.jsonl", events.append),
        stop=lambda: False,
    )
    return made, events


@pytest.mark.parametrize("quantized", [False, True])
def test_a_step_waits_for_the_card_once(quantized: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, events = engine(tmp_path / "run", quantized)
    waits: list[tuple[int, int]] = []
    with card(monkeypatch) as tally:
        made.start()
        for _ in range(3):
            begun = len(tally.waits)
            step, means = made._computed()
            inside = len(tally.waits) - begun
            made.complete(step, means, 0.1)
            waits.append((inside, len(tally.waits) - begun - inside))
    assert [event.step for event in events if isinstance(event, StepDone)] == [1, 2, 3]
    # The tables of the 4-bit code are sent once, in the first step.
    assert waits[1:] == [(0, 1), (0, 1)]
    assert tally.sent > 0


def objectives(model: CausalLM, examples: Sequence[Example]) -> dict[str, tuple[StepObjective, int]]:
    """Every objective over a model, with the number of documents of its rows."""
    count = len(examples)
    known = ReferenceTable(np.full(count, -3.0))
    partners = Partners.among(examples, seed=0)
    references = dict.fromkeys(partners.of(range(count)), -4.0)
    kto = OverModel(model, Kto(KtoSection(), known, np.arange(count) % 2 == 0))
    vocabulary = model.spec.vocab_size

    class Teacher:
        def of(self, batch: MicroBatch) -> TaughtRows:
            return lambda rows: Taught(
                torch.zeros(len(range(*rows.indices(batch.supervised))), vocabulary, device=META)
            )

    return {
        "sft": (OverModel(model), 1),
        "dpo": (OverModel(model, Dpo(DpoSection(), known)), 2),
        "orpo": (OverModel(model, Orpo(OrpoSection())), 2),
        "simpo": (OverModel(model, Simpo(SimpoSection())), 2),
        "cpo": (OverModel(model, Cpo(CpoSection())), 2),
        "kto": (WithReferencePoint(kto, partners, references), 1),
        "reward": (
            OverModel(model, Reward(RewardSection(), ScoreHead(nn.Parameter(torch.zeros(1, 4096, device=META))))),
            2,
        ),
        "distillation": (OverModel(model, Distillation(DistillationSection(), Teacher())), 1),
    }


@pytest.mark.parametrize("name", ["sft", "dpo", "orpo", "simpo", "cpo", "kto", "reward", "distillation"])
def test_no_objective_waits_within_a_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = meta_model(layers=1, quantized=False)
    examples = rows(4, 40)
    with card(monkeypatch) as tally:
        objective, together = objectives(model, examples)[name]
        batches = objective.prepared(pack(examples, 90, together=together))
        assert len(batches) == 2
        means = Means(objective.weights(batches))
        for batch in batches:
            sums = objective.sums(batch)
            sums.loss(means.weights).backward()
            means.add(sums)
        assert tally.waits == []
        means.read(torch.zeros((), dtype=torch.float64, device=META))
        assert len(tally.waits) == 1


def test_an_embedding_in_the_main_memory_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = engine(tmp_path / "run", False)
    model = made.model
    assert isinstance(model, CausalLM)
    table = torch.randn(100, 4096)
    model.set_embeddings(HostEmbedding(table, META), model.lm_head, model.spec.vocab_size)
    with card(monkeypatch) as tally:
        step, means = made._computed()
        assert tally.waits == []
        made.complete(step, means, 0.1)
        assert tally.launches["aten::embedding"] == 0
    found = HostEmbedding(table, torch.device("cpu"))(torch.tensor([3, 7, 3]), torch.bfloat16)
    assert torch.equal(found, table[[3, 7, 3]].bfloat16())


def test_the_optimiser_is_a_few_launches_however_many_factors_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = engine(tmp_path / "run", False)
    with card(monkeypatch) as tally:
        step, means = made._computed()
        before = Tally(launches=tally.launches.copy()).total
        made.complete(step, means, 0.1)
        found = tally.total - before
    assert len(made.optimizer.parameters) == 28
    assert found <= 10


def place(tensor: Tensor) -> int:
    """What tells the storages of tensors without memory."""
    return tensor.untyped_storage()._cdata


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("shared", [0, 300])
def test_what_is_kept_on_a_card_is_what_the_plan_says(
    shared: int, quantized: bool, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = meta_model(layers=2, quantized=quantized)
    if recompute:
        model.model.recomputation = Recomputation(None)
    (batch,) = pack(rows(5, 150, shared=shared), 10**4)
    assert batch.shared == shared
    with card(monkeypatch):
        own = {place(tensor) for tensor in (*model.parameters(), *model.buffers())}
        with saved_for_backward(monkeypatch, place) as found:
            OverModel(model).sums(batch)
        really = sum(x.untyped_storage().nbytes() for at, x in found.items() if at not in own and x.device == META)
        if recompute:
            really += len(batch.tokens) * model.spec.head_dim * 4  # cosine and sine, held without being saved
    of = Setup(
        spec=spec_from_hf(LLAMA_8B | {"num_hidden_layers": 2}),
        method=Method.QLORA if quantized else Method.LORA,
        dtype=torch.bfloat16,
        device="cuda",
        lora=LoraSpec(rank=16, alpha=32.0),
    )
    cut = BatchShape(
        tokens=len(batch.tokens), documents=5, longest=150 + shared, supervised=batch.supervised, shared=shared
    )
    assert kept_activations(of, cut, recompute=recompute) == really
