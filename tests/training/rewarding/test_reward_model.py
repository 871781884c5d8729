"""A reward model learns which answer is preferred, is read by transformers and PEFT, and writes no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.models.tiny import run_config, write_rows
from helpers.rows.preference_rows import pairs
from helpers.training.training_runs import stopping_after
from veneer.adapters.files.store import read_spec
from veneer.adapters.load import load_adapter
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.data.rows import load_rows
from veneer.enums import Dtype, RowKind
from veneer.errors import AdapterError, ConfigError, DataError, Interrupted
from veneer.events import Evaluated, Event, Note, ignore
from veneer.io.checkpoint import open_checkpoint
from veneer.io.tokenizer import from_directory
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.planning.plan import Plan
from veneer.planning.time import step_seconds
from veneer.reproduction.run import reproduce
from veneer.reward_model import open_reward_model
from veneer.training.plan import plan_run
from veneer.training.rewarding.reward_model import RewardModel, reward_model_beside
from veneer.training.run import train
from veneer.training.supposed_steps import SupposedRows

SETTINGS = ("objective=reward", "train.steps=8", "train.examples_per_step=6", "data.held_out=0.2", "train.save_every=4")
WEIGHTS = "adapter_model.safetensors"
FLOAT32 = ComputeSection(device="cpu", dtype=Dtype.FLOAT32)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", pairs(30))


@pytest.fixture(scope="module")
def finished(tiny_model: Path, file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    events: list[Event] = []
    output = tmp_path_factory.mktemp("reward") / "run"
    train(run_config(tiny_model, file, output, *SETTINGS), emit=events.append)
    return output, events


@pytest.fixture(scope="module")
def reward(tiny_model: Path, finished: tuple[Path, list[Event]]) -> RewardModel:
    return open_reward_model(str(tiny_model), finished[0], compute=FLOAT32)


def answers(file: Path) -> list[dict[str, Any]]:
    """All answers of the pairs, chosen and rejected in turn, as rows of one."""
    found = []
    for row in pairs(30):
        found += [{"prompt": row["prompt"], "completion": row[key]} for key in ("chosen", "rejected")]
    return found


def test_held_out_pairs_are_told_apart(finished: tuple[Path, list[Event]]) -> None:
    evaluated = [event for event in finished[1] if isinstance(event, Evaluated)]
    assert evaluated[-1].metrics["rewards/accuracies"] == 1.0
    assert evaluated[-1].loss < evaluated[0].loss


def test_scores_are_those_of_transformers_and_peft(
    finished: tuple[Path, list[Event]], reward: RewardModel, tiny_model: Path, file: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    config = run_config(tiny_model, file, file.parent / "unused", *SETTINGS)
    rows = load_rows(config.data, from_directory(tiny_model), kind=RowKind.PAIRS)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, finished[0]).eval()
    examples = [*rows.train, *rows.eval]
    with torch.no_grad():
        expected = [float(theirs(torch.tensor(one.tokens, dtype=torch.int64)[None]).logits) for one in examples]
    assert reward.scores_of_examples(examples) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_an_adapter_of_peft_scores_alike(reward: RewardModel, tiny_model: Path, file: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1, dtype=torch.float32)
    torch.manual_seed(1)
    theirs = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS")).eval()
    with torch.no_grad():
        for name, tensor in theirs.named_parameters():
            if "lora_B" in name:
                tensor.normal_(std=0.1)
    theirs.save_pretrained(tmp_path / "peft")
    own = open_reward_model(str(tiny_model), tmp_path / "peft", compute=FLOAT32)
    rows = load_rows(
        run_config(tiny_model, file, tmp_path, *SETTINGS).data, from_directory(tiny_model), kind=RowKind.PAIRS
    )
    with torch.no_grad():
        expected = [float(theirs(torch.tensor(one.tokens, dtype=torch.int64)[None]).logits) for one in rows.eval]
    assert own.scores_of_examples(list(rows.eval)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_row_that_says_no_text_is_named(reward: RewardModel) -> None:
    with pytest.raises(DataError, match="1 row cannot be scored"):
        reward.scores([{"prompt": "a", "completion": "b"}, {"nothing": "known"}])
    with pytest.raises(ConfigError, match="row 1: must be a mapping, got 'text'"):
        reward.scores(["text"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="rows: must be a list"):
        reward.scores({"prompt": "a", "completion": "b"})  # type: ignore[arg-type]


def test_a_text_beyond_the_context_is_named(reward: RewardModel) -> None:
    events: list[Event] = []
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "late " * 400, "completion": "b"}]
    assert len(reward.scores(rows, subscribers=[events.append])) == 2
    said = [event.message for event in events if isinstance(event, Note)]
    assert said[0].startswith("1 text longer than the model's context of 512 tokens")
    assert "row 2" in said[0]


def test_a_base_in_memory_is_shared_and_stays_itself(
    finished: tuple[Path, list[Event]], reward: RewardModel, tiny_model: Path, file: Path
) -> None:
    base = load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32))
    tokens = torch.arange(5)
    before = base.documents(tokens, tokens, [5])
    beside = reward_model_beside(base, finished[0], from_directory(tiny_model))
    assert beside.scores(answers(file)[:6]) == pytest.approx(reward.scores(answers(file)[:6]), abs=1e-6)
    assert torch.equal(base.documents(tokens, tokens, [5]), before)
    assert beside.model.embedding.weight.data_ptr() == base.embedding.weight.data_ptr()


def test_an_interrupted_run_goes_on_to_the_same_bytes_and_is_reproduced(
    finished: tuple[Path, list[Event]], tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    config = run_config(tiny_model, file, tmp_path / "run", *SETTINGS)
    with pytest.raises(Interrupted):
        train(config, stop=stopping_after(3))
    train(config, resume=True)
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (finished[0] / WEIGHTS).read_bytes()
    assert reproduce(finished[0]).same


@pytest.mark.parametrize("settings", [("method=qlora", "lora.variant=dora"), ("backend=hf",)])
def test_other_methods_learn_as_well_from_the_adapter_of_a_language_model(
    settings: tuple[str, ...], tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    start = tmp_path / "sft"
    rows = write_rows(tmp_path / "rows.jsonl", answers(file)[::2])
    train(run_config(tiny_model, rows, start, "train.steps=1", *settings))
    config = run_config(
        tiny_model, file, tmp_path / "run", *SETTINGS, *settings, f"train.from_adapter={start}", "lora={}"
    )
    result = train(config)
    assert load_file(tmp_path / "run" / WEIGHTS)["base_model.model.score.weight"].shape == (1, 64)
    assert result.progress.best_loss is not None
    assert result.progress.best_loss < 0.7


def test_no_other_objective_goes_on_from_a_reward_model(
    finished: tuple[Path, list[Event]], tiny_model: Path, file: Path, tmp_path: Path
) -> None:
    config = run_config(
        tiny_model, file, tmp_path / "dpo", "objective=dpo", f"train.from_adapter={finished[0]}", "lora={}"
    )
    with pytest.raises(AdapterError, match="only objective reward continues from it, and this is objective dpo"):
        train(config)


def test_margins_of_rows_change_what_is_learned_and_are_said_to_be_passed_over_elsewhere(
    finished: tuple[Path, list[Event]], tiny_model: Path, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [row | {"margin": 1.5} for row in pairs(30)])
    train(run_config(tiny_model, file, tmp_path / "run", *SETTINGS))
    assert (tmp_path / "run" / WEIGHTS).read_bytes() != (finished[0] / WEIGHTS).read_bytes()
    events: list[Event] = []
    config = run_config(tiny_model, file, tmp_path / "dpo", "objective=dpo", "train.steps=1")
    train(config, emit=events.append)
    assert any(isinstance(event, Note) and "margin of pairs" in event.message for event in events)
    file = write_rows(tmp_path / "bad.jsonl", [row | {"margin": "much"} for row in pairs(3)])
    with pytest.raises(DataError, match="margin must be a number"):
        train(run_config(tiny_model, file, tmp_path / "bad", *SETTINGS))


def test_it_can_be_neither_asked_nor_merged_nor_loaded_as_a_language_model(
    finished: tuple[Path, list[Event]], tiny_model: Path
) -> None:
    said = "it scores text and writes none"
    with pytest.raises(AdapterError, match=said):
        read_spec(finished[0])
    with pytest.raises(AdapterError, match=said):
        load_adapter(load_model(open_checkpoint(tiny_model), Loading(dtype=torch.float32)), finished[0])
    with pytest.raises(AdapterError, match=said):
        open_assistant(str(tiny_model), adapter=finished[0])


def test_the_plan_counts_what_is_trained_and_no_logits(
    finished: tuple[Path, list[Event]], tiny_model: Path, file: Path
) -> None:
    supposed = SupposedRows(rows=40, tokens=64, longest=64)
    found = {}
    for objective in ("reward", "dpo"):
        config = run_config(tiny_model, file, file.parent / "unused", f"objective={objective}")
        found[objective] = plan_run(config, ignore, rows=supposed)
    reward, dpo = (found[name] for name in ("reward", "dpo"))
    assert isinstance(reward, Plan)
    assert isinstance(dpo, Plan)
    trained = {f"base_model.model.{name}": shape for name, shape in reward.setup.trained}
    assert trained == {name: tuple(tensor.shape) for name, tensor in load_file(finished[0] / WEIGHTS).items()}
    assert reward.choice.memory.logits < dpo.choice.memory.logits
    # At one rate: each plan measures its own, by more than the two differ.
    times = [
        step_seconds(one.setup, one.choice.batch, reward.rate, recompute=one.choice.recompute) for one in (reward, dpo)
    ]
    assert times[0] < times[1]


def test_what_makes_no_sense_is_refused_with_the_reason(tiny_model: Path, file: Path, tmp_path: Path) -> None:
    wrong = {
        ("method=full",): "trains an adapter with a score head",
        ("lora.new_tokens=[<new>]",): "its own head",
        ("lora.target_modules=[q_proj, lm_head]",): "its own head",
        ("train.samples_every=5",): "writes no text",
        ("reward.centring=-1",): "reward.centring",
    }
    for settings, message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            run_config(tiny_model, file, tmp_path, "objective=reward", *settings)
