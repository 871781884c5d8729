"""The loop: a step is made of its gradients, and every way of ending leaves a good checkpoint."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.models.tiny import examples
from helpers.run_folders.run_logs import read_events
from helpers.tensors import assert_same_tensors
from helpers.training.fixed_steps import CUTS, Cut, SmallMemory, adapted
from helpers.training.mean_losses import mean_loss
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.config import TrainSection
from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.batches import MicroBatch
from veneer.data.micro_batches.packing import pack
from veneer.enums import Schedule
from veneer.errors import Diverged, Interrupted, OutOfMemory
from veneer.event_log import EventLog
from veneer.events import Evaluated, Event, MicroBatchHalved, Note, StepDone
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.quant.packed import PackedLinear, decoded_weights
from veneer.run_folder import RunFolder
from veneer.training.engine import Engine
from veneer.training.folder.checkpoint import CheckpointStore, verify
from veneer.training.folder.progress import Progress
from veneer.training.objectives.base import Means, StepObjective, Sums
from veneer.training.objectives.sft import CROSS_ENTROPY
from veneer.training.optimizers.adamw import AdamW
from veneer.training.optimizers.base import RuleOptimizer
from veneer.training.over_model import OverModel
from veneer.training.passes import Passes
from veneer.training.rate_schedule import RateSchedule
from veneer.training.trainable import AdapterTraining, Trainable


class RecordingAdamW(RuleOptimizer):
    """Notes the gradients of every step, as they are applied."""

    def __init__(self, parameters: dict[str, nn.Parameter]):
        super().__init__(parameters, AdamW((0.9, 0.999)), weight_decay=0.0)
        self.seen: list[dict[str, torch.Tensor]] = []

    def step(self, learning_rate: float) -> None:
        self.seen.append({n: p.grad.clone() for n, p in self.parameters.items() if p.grad is not None})
        super().step(learning_rate)


@dataclass
class Bench:
    """An engine and what it wrote."""

    engine: Engine
    optimizer: RecordingAdamW
    trainable: Trainable
    events: list[Event] = field(default_factory=list)

    def run(self, progress: Progress | None = None) -> Progress:
        if progress is not None:
            self.engine.progress = progress
        with self.engine.log:
            self.engine.run()
        return self.engine.progress

    def steps(self) -> list[StepDone]:
        return [event for event in self.events if isinstance(event, StepDone)]


EVERY_STEP = TrainSection(eval_every=1, save_every=1, clip=0.0)
"""A run that evaluates and saves after every step, and clips nothing."""
AT_THE_END = TrainSection(clip=0.0)
"""A run that evaluates and saves after its last step alone, and clips nothing."""


def of_loss(loss: float | None) -> Means | None:
    return None if loss is None else Means({}, loss)


def bench(
    folder: Path,
    model: CausalLM,
    trainable: Trainable,
    source: Cut,
    *,
    steps: int = 1,
    train: TrainSection = EVERY_STEP,
    objective: StepObjective | None = None,
    evaluate: Callable[[], float | None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Bench:
    optimizer = RecordingAdamW(trainable.named())
    events: list[Event] = []
    folder.mkdir(parents=True, exist_ok=True)
    engine = Engine(
        progress=Progress(),
        model=model,
        passes=Passes(trainable=trainable, objective=objective or OverModel(model), source=source, seed=3),
        optimizer=optimizer,
        schedule=RateSchedule(peak=0.01, steps=steps, warmup=0.0, shape=Schedule.CONSTANT, end=0.0),
        train=train,
        evaluate=None if evaluate is None else lambda: of_loss(evaluate()),
        checkpoints=CheckpointStore(RunFolder(folder), keep=train.keep, identity={"a": 1}),
        log=EventLog(folder / "events.jsonl", events.append),
        stop=stop,
    )
    return Bench(engine, optimizer, trainable, events)


@pytest.fixture(scope="module")
def eight(tiny_model: Path, tiny_data: Path) -> list[Example]:
    found = examples(tiny_model, tiny_data)[:8]
    assert len({len(example.tokens) for example in found}) > 3  # of different lengths, as the claim is about
    return found


def test_the_step_reports_its_tokens_and_targets(eight: list[Example], tiny_model: Path, tmp_path: Path) -> None:
    model, trainable = adapted(tiny_model)
    found = bench(tmp_path, model, trainable, Cut([eight]), steps=2)
    progress = found.run()
    tokens = sum(len(row.tokens) for row in eight)
    assert [step.tokens for step in found.steps()] == [tokens, tokens]
    assert found.steps()[0].supervised == sum(row.supervised for row in eight)
    assert (progress.step, progress.tokens) == (2, 2 * tokens)


def test_what_is_applied_are_the_gradients_of_the_step_and_their_norm_is_reported(
    eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    found = bench(tmp_path, *adapted(tiny_model), CUTS["3+5"](eight))
    found.run()
    alone = bench(tmp_path / "alone", *adapted(tiny_model), CUTS["3+5"](eight)).engine.passes
    parameters = alone.trainable.named()
    alone.gradients(alone.prepare(1, None, 1), list(parameters.values()), lambda: False)
    (applied,) = found.optimizer.seen
    expected = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    assert_same_tensors(applied, expected)
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in expected.values()))
    assert found.steps()[0].grad_norm == pytest.approx(norm, rel=1e-6)


def test_clipping_limits_what_is_applied_and_reports_what_was(
    eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    model, trainable = adapted(tiny_model)
    found = bench(tmp_path, model, trainable, Cut([eight]), train=TrainSection(clip=0.01))
    found.run()
    applied = math.sqrt(sum(float(grad.double().square().sum()) for grad in found.optimizer.seen[0].values()))
    assert applied == pytest.approx(0.01, rel=1e-4)
    assert found.steps()[0].grad_norm > 0.1


# -------------------------------------------------------------------------------------------------------------- ending


@dataclass
class Broken:
    """The cross-entropy, changed at one call."""

    model: CausalLM
    call: int
    change: Callable[[torch.Tensor], torch.Tensor]
    calls: int = 0

    def prepared(self, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        return batches

    def weights(self, batches: Sequence[MicroBatch]) -> Mapping[str, float]:
        return OverModel(self.model).weights(batches)

    def sums(self, batch: MicroBatch) -> Sums:
        sums = OverModel(self.model).sums(batch)
        self.calls += 1
        return Sums({CROSS_ENTROPY: self.change(sums.total)}) if self.calls == self.call else sums


def broken_at(model: CausalLM, step: int, cut: Cut, value: float) -> Broken:
    """An objective whose loss is multiplied by `value` at one step."""
    return Broken(model, step * len(cut.lanes(1)[0]), lambda loss: loss * value)


def broken_gradient_at(model: CausalLM, step: int, trainable: Trainable) -> Broken:
    """An objective with a finite loss whose gradient is NaN at one step."""
    parameter = next(iter(trainable.named().values()))
    return Broken(model, step, lambda loss: loss + (parameter * 0).sum().sqrt())


def assert_no_nan_on_disk(folder: Path) -> None:
    from safetensors.torch import load_file

    for file in folder.rglob("*.safetensors"):
        assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(file).values()), file
    for file in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        assert "NaN" not in file.read_text()
        assert "Infinity" not in file.read_text()


@pytest.mark.scenario(number=17)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("cut", ["1x8", "8x1"])
def test_a_broken_loss_stops_the_run_and_keeps_the_weights_before(
    value: float, cut: str, eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    source = CUTS[cut](eight)
    model, trainable = adapted(tiny_model)
    found = bench(
        tmp_path, model, trainable, source, steps=9, train=AT_THE_END, objective=broken_at(model, 4, source, value)
    )
    with pytest.raises(Diverged, match=r"step 4: the loss is (nan|inf)") as caught:
        found.run()
    assert caught.value.exit_code == 3
    assert "step-000003" in str(caught.value)
    assert len(found.steps()) == 3

    healthy_model, healthy = adapted(tiny_model)
    bench(tmp_path / "healthy", healthy_model, healthy, source, steps=3).run()
    for name, parameter in healthy.named().items():
        assert torch.equal(trainable.named()[name], parameter)
    folder = tmp_path / "checkpoints" / "step-000003"
    assert verify(folder) is None
    _again_model, again = adapted(tiny_model)
    optimizer = RecordingAdamW(again.named())
    progress = found.engine.checkpoints.restore(again, optimizer, pytest.fail)
    assert progress.step == 3
    for name, parameter in healthy.named().items():
        assert torch.equal(again.named()[name], parameter)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000003"]
    assert_no_nan_on_disk(tmp_path)
    assert read_events(tmp_path / "events.jsonl")[-1]["reason"] == "diverged"


@pytest.mark.scenario(number=17)
def test_a_broken_gradient_under_a_finite_loss_stops_the_run(
    eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    model, trainable = adapted(tiny_model)
    found = bench(tmp_path, model, trainable, Cut([eight]), steps=5, objective=broken_gradient_at(model, 2, trainable))
    with pytest.raises(Diverged, match=r"step 2: the loss is [0-9.]+ and the gradient norm nan"):
        found.run()
    assert found.engine.checkpoints.folder.checkpoint_steps() == [1]
    assert_no_nan_on_disk(tmp_path)


def test_a_step_that_breaks_the_weights_ends_as_a_loss_that_is_not_finite(
    eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    """The next step's loss is NaN, and there is nothing that could be kept."""
    model, trainable = adapted(tiny_model)
    found = bench(tmp_path, model, trainable, Cut([eight]), steps=5, train=AT_THE_END)
    found.engine.schedule = replace(found.engine.schedule, peak=1e300)
    with pytest.raises(Diverged, match=r"step 2: the loss is nan") as caught:
        found.run()
    assert caught.value.exit_code == 3
    assert "The weights after step 1 are not kept: the adapter has NaN or infinite values" in str(caught.value)
    assert found.engine.checkpoints.folder.checkpoint_steps() == []
    assert_no_nan_on_disk(tmp_path)
    assert read_events(tmp_path / "events.jsonl")[-1]["reason"] == "diverged"


def test_broken_weights_at_a_checkpoint_that_is_due_end_as_a_loss_that_is_not_finite(
    eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    model, trainable = adapted(tiny_model)
    found = bench(tmp_path, model, trainable, Cut([eight]), steps=5)
    found.engine.schedule = replace(found.engine.schedule, peak=1e300)
    with pytest.raises(Diverged, match=r"step 1: the step made weights NaN or infinite.* after step 1 are not kept"):
        found.run()
    assert found.engine.checkpoints.folder.checkpoint_steps() == []
    assert read_events(tmp_path / "events.jsonl")[-1]["reason"] == "diverged"


def test_a_broken_first_step_writes_no_checkpoint(eight: list[Example], tiny_model: Path, tmp_path: Path) -> None:
    source = Cut([eight])
    model, trainable = adapted(tiny_model)
    before = {name: p.detach().clone() for name, p in trainable.named().items()}
    found = bench(tmp_path, model, trainable, source, steps=5, objective=broken_at(model, 1, source, math.nan))
    with pytest.raises(Diverged, match="Nothing was trained before it"):
        found.run()
    assert not (tmp_path / "checkpoints").exists()
    assert_same_tensors(before, trainable.named())


def test_a_broken_evaluation_stops_the_run_and_is_never_the_best(
    eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    losses = iter([2.0, math.nan, 1.0])
    model, trainable = adapted(tiny_model)
    found = bench(tmp_path, model, trainable, Cut([eight]), steps=3, evaluate=lambda: next(losses))
    with pytest.raises(Diverged, match=r"step 2: the evaluation loss is nan.* are kept in .*step-000002"):
        found.run()
    last = read_events(tmp_path / "events.jsonl")[-1]
    assert (last["reason"], last["best_step"], last["best_loss"]) == ("diverged", 1, 2.0)
    folder = found.engine.checkpoints.folder
    assert folder.checkpoint_steps() == [1, 2]
    assert json.loads((folder.checkpoint(2) / "state.json").read_text())["progress"]["evaluation_due"]
    assert_no_nan_on_disk(tmp_path)


def test_a_stop_ends_after_the_step_with_a_checkpoint(eight: list[Example], tiny_model: Path, tmp_path: Path) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 2

    model, trainable = adapted(tiny_model)
    found = bench(tmp_path, model, trainable, Cut([eight]), steps=5, train=AT_THE_END, stop=stop)
    with pytest.raises(Interrupted, match="stopped after step 2 of 5; continue with --resume") as caught:
        found.run()
    assert caught.value.exit_code == 130
    assert found.engine.checkpoints.folder.checkpoint_steps() == [2]
    assert verify(found.engine.checkpoints.folder.checkpoint(2)) is None
    assert read_events(tmp_path / "events.jsonl")[-1]["reason"] == "interrupted"


@pytest.mark.parametrize("when", [{}, {"late": True}, {"before": True}])
def test_a_step_that_does_not_fit_is_made_in_smaller_micro_batches(
    when: dict[str, bool], eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    largest = len(pack(eight, 10**6)[0].tokens)
    whole = bench(tmp_path / "whole", *adapted(tiny_model), Cut([eight]), steps=3)
    whole.run()
    model, trainable = adapted(tiny_model)
    memory = SmallMemory(OverModel(model), largest // 3, **when)
    found = bench(tmp_path / "run", model, trainable, Cut([eight]), steps=3, objective=memory)
    progress = found.run()
    assert [step.loss for step in found.steps()] == pytest.approx([step.loss for step in whole.steps()], abs=1e-5)
    halved = [event for event in found.events if isinstance(event, MicroBatchHalved)]
    assert [(event.step, event.before) for event in halved][:1] == [(1, largest)]
    assert [event.step for event in halved] == [1, 1]  # and the later steps keep to it
    assert progress.micro_batches == [[1, halved[-1].tokens]]
    # A resumed run keeps to it as well, whatever memory it has.
    again = bench(tmp_path / "run", *adapted(tiny_model), Cut([eight]), steps=4)
    restored = again.engine.checkpoints.restore(again.trainable, again.optimizer, pytest.fail)
    assert restored.micro_batches == progress.micro_batches
    again.engine.progress = restored
    assert max(len(batch.tokens) for batch in again.engine.prepare().batches) <= largest // 3


@dataclass(frozen=True)
class MemoryOfKept(SmallMemory):
    """An objective for which there is no memory either as long as decoded weights are kept."""

    def sums(self, batch: MicroBatch) -> Sums:
        if any(module.keeps_decoded for module in self.over.model.modules() if isinstance(module, PackedLinear)):
            torch.empty(1 << 58)
        return SmallMemory.sums(self, batch)


def quantised(model_path: Path) -> tuple[CausalLM, AdapterTraining]:
    model = load_model(open_checkpoint(model_path), Loading(form=WeightForm.QUANTIZED, dtype=torch.float32))
    return model, AdapterTraining(inject(model, LoraSpec(rank=4, alpha=8.0), seed=1), str(model_path))


@pytest.mark.parametrize("tried_first", [False, True])
def test_decoded_weights_are_given_back_before_micro_batches_are_halved(
    tried_first: bool, eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    largest = len(pack(eight, 10**6)[0].tokens)
    whole = bench(tmp_path / "whole", *quantised(tiny_model), Cut([eight]), steps=1)
    whole.run()
    for fits, halvings in ((largest, []), (largest // 3, [1, 1])):
        model, trainable = quantised(tiny_model)
        found = bench(tmp_path / f"run-{fits}", model, trainable, Cut([eight]), steps=1)
        found.engine.passes.objective = MemoryOfKept(OverModel(model), fits)
        with decoded_weights(model.modules(), model.dtype, 10**9), found.engine.log:
            if tried_first:
                found.engine.rehearse(lambda most, source=found.engine.passes.source: source.lanes(1, most)[0][0])
                assert [type(event) for event in found.events] == [Note, *[MicroBatchHalved] * len(halvings)]
            found.engine.run()
        assert [type(event) for event in found.events].count(Note) == 1
        assert isinstance(found.events[0], Note)
        assert [event.step for event in found.events if isinstance(event, MicroBatchHalved)] == halvings
        assert (found.engine.progress.micro_batches == []) is (halvings == [])
        exact = [step.loss for step in whole.steps()]
        assert [step.loss for step in found.steps()] == (pytest.approx(exact, abs=1e-5) if halvings else exact)


def test_micro_batches_are_halved_three_times_at_most(eight: list[Example], tiny_model: Path, tmp_path: Path) -> None:
    model, trainable = adapted(tiny_model)
    several = [*eight] * 4
    found = bench(tmp_path, model, trainable, Cut([several]), objective=SmallMemory(OverModel(model), 0))
    with pytest.raises(OutOfMemory, match=r"computing step 1 .*requested.*halved 3 times before, to"):
        found.run()
    assert len([event for event in found.events if isinstance(event, MicroBatchHalved)]) == 3
    assert read_events(tmp_path / "events.jsonl")[-1]["reason"] == "out of memory"
    assert all(parameter.grad is None for parameter in trainable.named().values())


def test_a_row_that_does_not_fit_ends_the_run_with_its_last_step(
    eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    model, trainable = adapted(tiny_model)
    found = bench(tmp_path, model, trainable, Cut([eight], 1), steps=3, train=AT_THE_END)
    with found.engine.log:
        step = found.engine.prepare()
        found.engine.start()
        found.engine.complete(step, found.engine._gradients(step), 0.0)
        found.engine.passes.objective = SmallMemory(OverModel(model), 0)
        with pytest.raises(OutOfMemory, match=r"computing step 2 .*one row of \d+ tokens, which cannot be cut"):
            found.engine.run()
    assert found.engine.checkpoints.folder.checkpoint_steps() == [1]


def test_an_evaluation_that_does_not_fit_is_made_when_the_run_is_gone_on_with(
    eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    def full() -> float:
        raise OutOfMemory("out of memory while evaluating")

    every_second = TrainSection(eval_every=2)
    found = bench(tmp_path, *adapted(tiny_model), Cut([eight]), steps=3, evaluate=full, train=every_second)
    with pytest.raises(OutOfMemory, match="while evaluating"):
        found.run()
    again = bench(tmp_path, *adapted(tiny_model), Cut([eight]), steps=3, evaluate=lambda: 1.5, train=every_second)
    progress = again.engine.checkpoints.restore(again.trainable, again.optimizer, pytest.fail)
    assert (progress.step, progress.evaluation_due) == (2, True)
    again.run(progress)
    assert [event.step for event in again.events if isinstance(event, Evaluated)] == [2, 3]


def test_weights_that_are_half_changed_are_not_kept(
    eight: list[Example], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = bench(tmp_path, *adapted(tiny_model), Cut([eight]), steps=3, train=AT_THE_END)
    step = found.optimizer.step

    def full(rate: float) -> None:
        step(rate)
        if len(found.optimizer.seen) == 2:
            torch.empty(1 << 58)

    monkeypatch.setattr(found.optimizer, "step", full)
    with pytest.raises(OutOfMemory, match="out of memory while changing the weights in step 2"):
        found.run()
    assert found.engine.checkpoints.folder.checkpoint_steps() == []


def test_other_errors_of_the_model_are_not_taken_for_want_of_memory(
    eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    model, trainable = adapted(tiny_model)
    found = bench(tmp_path, model, trainable, Cut([eight]))
    model.lm_head.weight = nn.Parameter(torch.zeros(7, 3))
    with pytest.raises(RuntimeError, match=r"size|shape"):
        found.run()


def test_a_signal_gives_up_the_step_under_way_and_a_resumed_run_is_the_whole_one(
    eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    whole = bench(tmp_path / "whole", *adapted(tiny_model, dropout=0.2), Cut([eight], 100), steps=3)
    whole.run()
    found = bench(tmp_path / "run", *adapted(tiny_model, dropout=0.2), Cut([eight], 100), steps=3, train=AT_THE_END)
    batches = len(found.engine.passes.source.lanes(1)[0])
    assert batches > 2
    asked = iter(range(10**6))
    found.engine.signalled = lambda: next(asked) == batches + 2  # in the middle of the second step
    with pytest.raises(Interrupted, match="stopped after step 1 of 3"):
        found.run()
    assert found.engine.checkpoints.folder.checkpoint_steps() == [1]
    assert all(parameter.grad is None for parameter in found.trainable.named().values())
    again = bench(tmp_path / "run", *adapted(tiny_model, dropout=0.2), Cut([eight], 100), steps=3, train=AT_THE_END)
    again.run(again.engine.checkpoints.restore(again.trainable, again.optimizer, pytest.fail))
    theirs = whole.trainable.named()
    assert_same_tensors(again.trainable.named(), theirs)


def test_a_signal_before_the_first_step_is_done_leaves_no_checkpoint(
    eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    found = bench(tmp_path, *adapted(tiny_model), Cut([eight]), steps=3)
    found.engine.signalled = lambda: True
    with pytest.raises(Interrupted, match="before the first step was done; the same command starts again"):
        found.run()
    assert not found.engine.checkpoints.folder.resumable


@pytest.mark.parametrize("steps", [2, 3])
def test_an_evaluation_that_a_signal_ended_is_made_by_the_resumed_run(
    steps: int, eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    """At the last step of two, and in the middle of three."""
    losses: Iterator[float | None] = iter([5.0, None])
    found = bench(tmp_path, *adapted(tiny_model), Cut([eight]), steps=steps, evaluate=lambda: next(losses))
    with pytest.raises(Interrupted, match="stopped after step 2"):
        found.run()
    again = bench(tmp_path, *adapted(tiny_model), Cut([eight]), steps=steps, evaluate=lambda: 4.0)
    progress = again.engine.checkpoints.restore(again.trainable, again.optimizer, pytest.fail)
    assert (progress.step, progress.evaluation_due, progress.best_step) == (2, True, 1)
    again.run(progress)
    assert (progress.step, progress.evaluation_due, progress.best_step, progress.best_loss) == (steps, False, 2, 4.0)
    evaluated = [event["step"] for event in read_events(tmp_path / "events.jsonl") if event["event"] == "Evaluated"]
    assert evaluated == [*range(1, steps + 1)]


@pytest.mark.parametrize("steps", [2, 3])
def test_an_evaluation_that_a_signal_ended_at_the_end_is_made_once_also_where_the_run_is_longer_now(
    steps: int, eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    """The longer run would make none after this step by itself."""
    found = bench(tmp_path, *adapted(tiny_model), Cut([eight]), steps=2, train=AT_THE_END, evaluate=lambda: None)
    with pytest.raises(Interrupted, match="stopped after step 2"):
        found.run()
    store = found.engine.checkpoints
    for number in (0, 1):
        again = bench(tmp_path, *adapted(tiny_model), Cut([eight]), steps=steps, train=AT_THE_END, evaluate=lambda: 4.0)
        progress = store.restore(again.trainable, again.optimizer, pytest.fail)
        assert (progress.evaluation_due, progress.best_step) == ((True, None), (False, 2))[number]
        assert verify(store.folder.checkpoint(2)) is None
        again.run(progress)
        made = [event.step for event in again.events if isinstance(event, Evaluated)]
        assert made == {2: ([2], []), 3: ([2, 3], [3])}[steps][number]
        shutil.rmtree(store.folder.checkpoint(3), ignore_errors=True)


def test_a_stop_at_the_last_step_is_a_complete_run(eight: list[Example], tiny_model: Path, tmp_path: Path) -> None:
    model, trainable = adapted(tiny_model)
    found = bench(tmp_path, model, trainable, Cut([eight]), steps=1, stop=lambda: True)
    assert found.run().step == 1
    assert read_events(tmp_path / "events.jsonl")[-1]["reason"] == "complete"


def test_checkpoints_come_when_they_should_and_the_best_is_among_them(
    eight: list[Example], tiny_model: Path, tmp_path: Path
) -> None:
    losses = iter([5.0, 3.0, 4.0, 6.0])
    model, trainable = adapted(tiny_model)
    settings = TrainSection(eval_every=2, save_every=3, keep=1)
    found = bench(tmp_path, model, trainable, Cut([eight]), steps=7, evaluate=lambda: next(losses), train=settings)
    progress = found.run()
    assert (progress.best_step, progress.best_loss) == (4, 3.0)
    assert found.engine.checkpoints.folder.checkpoint_steps() == [4, 7]
    events = read_events(tmp_path / "events.jsonl")
    assert [event["step"] for event in events if event["event"] == "Evaluated"] == [2, 4, 6, 7]
    # Better at 2 and 4, on time at 3 and 6, and the last.
    assert [event["step"] for event in events if event["event"] == "CheckpointSaved"] == [2, 3, 4, 6, 7]
    assert [event["best"] for event in events if event["event"] == "Evaluated"] == [True, True, False, False]


def test_the_draws_of_a_step_follow_from_its_number(eight: list[Example], tiny_model: Path, tmp_path: Path) -> None:
    model, trainable = adapted(tiny_model, dropout=0.3)
    found = bench(tmp_path / "a", model, trainable, Cut([eight]), steps=4)
    found.run()
    again_model, again = adapted(tiny_model, dropout=0.3)
    with_evaluation = bench(
        tmp_path / "b",
        again_model,
        again,
        Cut([eight]),
        steps=4,
        evaluate=lambda: mean_loss(again_model, pack(eight, 99)),
    )
    with_evaluation.run()
    assert [step.loss for step in found.steps()] == [step.loss for step in with_evaluation.steps()]
    assert len({step.loss for step in found.steps()}) == 4
    # Another stream at every step: with the weights held still the loss still moves.
    losses = set()
    for number in (1, 2, 1):
        trainable.seed_step(number)
        losses.add(float(OverModel(model.train()).sums(pack(eight, 10**6)[0]).total.detach()))
    assert len(losses) == 2


def test_every_step_of_every_seed_has_draws_of_its_own(
    eight: list[Example], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(AdapterTraining, "seed_step", lambda trainable, seed: seeds.append(seed))

    def seeds_of(name: str, seed: int, done: int = 0) -> list[int]:
        seeds.clear()
        found = bench(tmp_path / name, *adapted(tiny_model), Cut([eight[:1]]), steps=5)
        found.engine.passes.seed = seed
        found.run(Progress(step=done))
        return list(seeds)

    whole, other = seeds_of("a", 0), seeds_of("b", 1)
    assert len(set(whole) | set(other)) == 10
    assert seeds_of("c", 0, done=3) == whole[3:]


def test_a_complete_run_goes_on_with_nothing(eight: list[Example], tiny_model: Path, tmp_path: Path) -> None:
    model, trainable = adapted(tiny_model)
    found = bench(tmp_path, model, trainable, Cut([eight]), steps=2)
    progress = found.run()
    again = bench(tmp_path, model, trainable, Cut([eight]), steps=2)
    assert again.run(progress).step == 2
    assert again.steps() == []
    assert json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])["reason"] == "complete"
