"""GRPO and its kin: losses, gradients and metrics of the formulas on full logits in float64, however a step is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.models.tiny import run_config, write_model, write_rows
from helpers.rows.preference_rows import full_logits, largest_difference, lora_factors, step_gradients, trainable_model
from veneer.config import GrpoSection
from veneer.data.encoded.chat import Example
from veneer.data.encoded.encoding import encoder_of
from veneer.data.micro_batches.packing import pack
from veneer.events import Event, StepDone
from veneer.formulas import ImportanceLevel
from veneer.io.tokenizer import from_directory
from veneer.model.decoder import CausalLM, shaped
from veneer.products import Scores
from veneer.training.objectives.grpo import CLIP_HIGH, CLIP_LOW, CLIP_REGION, ENTROPY, KL, SAMPLER, Grpo, k3
from veneer.training.rollouts.table import RolloutTable
from veneer.training.run import train

GROUP = 4
LONGEST = 16
VOCABULARY = 250


def sampled(seed: int = 0) -> list[Example]:
    """Three prompts of different lengths with four answers each, of different lengths."""
    source = np.random.default_rng(seed)
    found = []
    for prompt in (5, 12, 30):
        asked = source.integers(3, VOCABULARY, prompt)
        for _ in range(GROUP):
            answer = source.integers(3, VOCABULARY, int(source.integers(1, LONGEST + 1)))
            tokens = np.concatenate((asked, answer)).astype(np.int32)
            found.append(Example(tokens, np.arange(len(tokens)) >= prompt, "f"))
    return found


ANSWERS = sampled()
COUNTED = np.array([True] * 5 + [False] + [True] * 6)


def logps(model: CausalLM, example: Example, temperature: float = 1.0) -> Tensor:
    """Log-probability of each target under scores divided by the temperature, float64 `[targets]`."""
    table, targets = full_logits(model, example)
    return torch.log_softmax(table / temperature, dim=-1).gather(1, targets[:, None])[:, 0]


def table_for(model: CausalLM, settings: GrpoSection, *, apart: float, counted: np.ndarray = COUNTED) -> RolloutTable:
    """A table whose old and reference log-probabilities stand apart from the policy's by noise of this size."""
    source = np.random.default_rng(1)
    own = [logps(model, one, settings.temperature).detach().numpy() for one in ANSWERS]
    far = [one + source.normal(scale=0.3, size=len(one)) for one in own]
    return RolloutTable(
        advantages=source.normal(size=len(ANSWERS)),
        counted=counted,
        rewards=np.zeros(len(ANSWERS)),
        old=[one + source.normal(scale=apart, size=len(one)) for one in own] if apart else None,
        reference=far if settings.beta else None,
        metrics={"reward": np.where(counted, source.normal(size=len(ANSWERS)), np.nan)},
    )


def expected(model: CausalLM, settings: GrpoSection, table: RolloutTable) -> tuple[Tensor, dict[str, float]]:
    """The loss and the token metrics, written out answer by answer and token by token."""
    low, high = 1 - settings.epsilon, 1 + (settings.epsilon_high or settings.epsilon)
    level, kind = settings.importance_sampling_level.value, settings.loss_type.value
    sums, lengths, kls, logs, below, above = [], [], [], [], 0, 0
    for number, example in enumerate(ANSWERS):
        if not table.counted[number]:
            continue
        policy, gain = logps(model, example, settings.temperature), float(table.advantages[number])
        old = policy.detach() if table.old is None else torch.tensor(table.old[number])
        losses = []
        for t in range(len(policy)):
            whole = (policy - old).mean() if level == "sequence" else (policy - old).sum()
            ratio = ((policy - old)[t] if level == "token" else whole).exp()
            loss = -torch.minimum(ratio * gain, ratio.clamp(low, high) * gain)
            below += int(float(ratio.detach()) < low and gain < 0)
            above += int(float(ratio.detach()) > high and gain > 0)
            if table.reference is not None:
                d = float(table.reference[number][t]) - policy[t]
                kl = d.exp() - d - 1
                loss = loss + settings.beta * (ratio if level == "token" else 1.0) * kl
                kls.append(float(kl.detach()))
            losses.append(loss)
        sums.append(torch.stack(losses).sum())
        lengths.append(len(losses))
        logs += policy.detach().tolist()
    total, tokens = torch.stack(sums), torch.tensor(lengths, dtype=torch.float64)
    loss = {
        "grpo": (total / tokens).mean(),
        "dapo": total.sum() / tokens.sum(),
        "dr_grpo": total.sum() / (len(lengths) * settings.max_completion_length),
    }[kind]
    count = sum(lengths)
    metrics = {
        ENTROPY: -sum(logs) / count, CLIP_LOW: below / count, CLIP_HIGH: above / count,
        CLIP_REGION: (below + above) / count,
    }  # fmt: skip
    return loss, metrics | ({KL: sum(kls) / count} if kls else {})


KINDS: list[dict[str, Any]] = [
    {},
    {"loss_type": "grpo", "beta": 0.3},
    {"loss_type": "dr_grpo", "temperature": 0.7, "epsilon_high": 0.28},
    {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.01, "epsilon_high": 0.02, "beta": 0.1},
    {"loss_type": "grpo", "importance_sampling_level": "product"},
]
NAMES = ["dapo", "grpo", "dr_grpo", "gspo", "rloo"]


def settings_of(kind: dict[str, Any]) -> GrpoSection:
    return GrpoSection(num_generations=GROUP, max_completion_length=LONGEST, **kind)


@pytest.mark.parametrize("apart", [0.0, 0.25])
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_loss_gradients_and_metrics_are_those_of_the_formula(
    kind: dict[str, Any], apart: float, tiny_model: Path
) -> None:
    model, settings = trainable_model(tiny_model), settings_of(kind)
    table = table_for(model, settings, apart=apart)
    loss, metrics = expected(model, settings, table)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    means, found = step_gradients(model, Grpo(settings, table), pack(ANSWERS, 120, together=GROUP))
    assert means.loss == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-7)
    assert largest_difference(found, gradients) < 5e-6
    assert metrics == pytest.approx({name: means.metrics[name] for name in metrics}, rel=1e-5, abs=1e-6)
    if apart:
        assert metrics[CLIP_LOW] > 0, "the test clips"
        assert metrics[CLIP_HIGH] > 0
    assert means.metrics["reward"] == pytest.approx(float(np.nanmean(table.metrics["reward"])))


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_scores_are_divided_by_the_temperature_after_they_are_capped(softcap: float | None, tiny_model: Path) -> None:
    objective = Grpo(
        settings_of({"temperature": 0.7}), table_for(trainable_model(tiny_model), settings_of({}), apart=0)
    )
    logits, shaping = torch.linspace(-9.0, 9.0, 20, dtype=torch.float64), Scores(scale=0.5, softcap=softcap)
    found = shaped(logits, objective.scaled(shaping))
    torch.testing.assert_close(found, shaped(logits, shaping) / 0.7, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_any_split_of_a_step_has_the_same_gradients(kind: dict[str, Any], tiny_model: Path) -> None:
    model, settings = trainable_model(tiny_model), settings_of(kind)
    objective = Grpo(settings, table_for(model, settings, apart=0.25))
    whole, expected_gradients = step_gradients(model, objective, pack(ANSWERS, 10**6, together=GROUP))
    for together in (1, 2, 4):
        for most in (1, 60, 150):
            batches = pack(ANSWERS, most, together=together)
            means, found = step_gradients(model, objective, batches)
            assert largest_difference(found, expected_gradients) < 1e-6
            assert means.loss == pytest.approx(whole.loss, rel=1e-6, abs=1e-8)
            assert means.metrics == pytest.approx(whole.metrics, rel=1e-5, abs=1e-6)


def test_an_answer_that_does_not_count_leaves_numerator_and_denominator(tiny_model: Path) -> None:
    """As if it had not been sampled."""
    model, settings = trainable_model(tiny_model), settings_of({})
    table = table_for(model, settings, apart=0.25)
    assert table.old is not None
    means, found = step_gradients(model, Grpo(settings, table), pack(ANSWERS, 10**6, together=GROUP))
    kept = np.flatnonzero(COUNTED)
    without = RolloutTable(
        advantages=table.advantages[kept], counted=np.ones(len(kept), dtype=np.bool_),
        old=[table.old[number] for number in kept],
    )  # fmt: skip
    alone, other = step_gradients(model, Grpo(settings, without), pack([ANSWERS[number] for number in kept], 10**6))
    assert means.loss == pytest.approx(alone.loss, rel=1e-6)
    assert means.metrics[ENTROPY] == pytest.approx(alone.metrics[ENTROPY], rel=1e-6)
    assert largest_difference(found, other) < 1e-6


def test_a_step_of_which_no_answer_counts_changes_nothing(tiny_model: Path) -> None:
    model, settings = trainable_model(tiny_model), settings_of({"beta": 0.1})
    table = table_for(model, settings, apart=0.0, counted=np.zeros(len(ANSWERS), dtype=np.bool_))
    means, found = step_gradients(model, Grpo(settings, table), pack(ANSWERS, 10**6))
    assert means.loss == 0.0
    assert all(not bool(gradient.any()) for gradient in found.values())


def test_the_loss_is_zero_while_it_learns(tiny_model: Path) -> None:
    """With ratios of 1, `grpo` is minus the mean advantage: 0, and its gradient is not."""
    model, settings = trainable_model(tiny_model), settings_of({"loss_type": "grpo"})
    table = table_for(model, settings, apart=0.0, counted=np.ones(len(ANSWERS), dtype=np.bool_))
    table.advantages -= table.advantages.mean()
    means, found = step_gradients(model, Grpo(settings, table), pack(ANSWERS, 10**6))
    assert means.loss == pytest.approx(0.0, abs=1e-12)
    assert max(float(gradient.abs().max()) for gradient in found.values()) > 1e-3


def test_equal_rewards_leave_the_pull_of_the_reference(tiny_model: Path) -> None:
    """Advantages of 0 and β above 0: the divergence still has a gradient, by design."""
    model, settings = trainable_model(tiny_model), settings_of({"beta": 0.1})
    table = table_for(model, settings, apart=0.0, counted=np.ones(len(ANSWERS), dtype=np.bool_))
    table.advantages[:] = 0.0
    means, found = step_gradients(model, Grpo(settings, table), pack(ANSWERS, 10**6))
    assert means.metrics["policy_loss"] == 0.0
    assert means.loss == pytest.approx(0.1 * means.metrics[KL], rel=1e-9)
    assert max(float(gradient.abs().max()) for gradient in found.values()) > 1e-4


def test_the_sampler_is_compared_where_it_told_something(tiny_model: Path) -> None:
    model, settings = trainable_model(tiny_model), settings_of({})
    table = table_for(model, settings, apart=0.0)
    own = [logps(model, one).detach().numpy() for one in ANSWERS]
    table.sampled = [np.append(one[:-1] + 0.01, np.nan) for one in own]
    means, _ = step_gradients(model, Grpo(settings, table), pack(ANSWERS, 100))
    assert means.metrics[SAMPLER] == pytest.approx(0.01, rel=1e-3)
    table.sampled = None
    means, _ = step_gradients(model, Grpo(settings, table), pack(ANSWERS, 100))
    assert SAMPLER not in means.metrics, "nothing compared is no difference of 0"


def test_k3_is_never_negative_and_has_its_digits_near_zero() -> None:
    policy = torch.tensor([-1.0, -1.0, -3.0], dtype=torch.float64)
    reference = torch.tensor([-1.0, -1.0 + 1e-6, -0.5], dtype=torch.float64)
    assert k3(policy, reference).tolist() == pytest.approx([0.0, 5e-13, np.exp(2.5) - 3.5], rel=1e-3)


STEPS, PROMPTS, IN_STEP, GENERATIONS = 20, 20, 4, 4
"""Of a run beside TRL's."""
TOLD = """
import json, pathlib
def even(prompts, completion_ids):
    with (pathlib.Path(__file__).parent / "told.jsonl").open("a") as file:
        file.write(json.dumps([prompts, [list(ids) for ids in completion_ids]]) + "\\n")
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]
"""
"""A reward that writes down what it is asked about."""
THEIRS = {
    "dapo": ("grpo.loss_type=dapo", "grpo.beta=0.1"),
    "grpo, two steps a sampling": ("grpo.loss_type=grpo", "grpo.num_iterations=2", "grpo.epsilon=0.02"),
    "dr_grpo": ("grpo.loss_type=dr_grpo", "grpo.scale_rewards=none", "grpo.beta=0.05"),
    "gspo": ("grpo.loss_type=grpo", "grpo.importance_sampling_level=sequence", "grpo.num_iterations=2",
             "grpo.epsilon=3e-4", "grpo.epsilon_high=4e-4"),
}  # fmt: skip


@pytest.fixture(scope="module")
def padded_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a token that fills up, which TRL wants."""
    path = write_model(tmp_path_factory.mktemp("trl") / "model")
    file = path / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(settings | {"pad_token": "<|endoftext|>"}), encoding="utf-8")
    return path


def trained_by_trl(
    trl: Any, model: Path, settings: GrpoSection, asked: list[tuple[str, list[list[int]]]], output: Path
) -> Any:
    """TRL's run over the same answers: its log, and the adapter's weights.

    Args:
        asked: the prompts of all samplings, in order, and the answers to each.
    """
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    encoder, given = encoder_of(from_directory(model)), iter(asked)

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        found = [next(given) for _ in prompts[::GENERATIONS]]
        assert [prompt for prompt, _ in found for _ in range(GENERATIONS)] == prompts
        tokens = [encoder.prompt_tokens([{"role": "user", "content": prompt}]) for prompt in prompts]
        answers = [ids for _, own in found for ids in own]
        return {"prompt_ids": tokens, "completion_ids": answers, "logprobs": None}

    def even(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(0)
    policy = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    trainer = trl.GRPOTrainer(
        model=policy,
        reward_funcs=even,
        rollout_func=rollout,
        args=trl.GRPOConfig(
            output_dir=str(output), per_device_train_batch_size=IN_STEP * GENERATIONS, num_generations=GENERATIONS,
            steps_per_generation=1, num_iterations=settings.num_iterations, max_steps=STEPS, learning_rate=0.01,
            lr_scheduler_type="constant", warmup_steps=0, logging_steps=1, report_to="none", save_strategy="no",
            beta=settings.beta, loss_type=settings.loss_type.value, scale_rewards=settings.scale_rewards.value,
            epsilon=settings.epsilon, epsilon_high=settings.epsilon_high,
            importance_sampling_level=settings.importance_sampling_level.value, shuffle_dataset=False,
            max_completion_length=settings.max_completion_length, bf16=False, use_cpu=True, max_grad_norm=1.0,
            gradient_checkpointing=False, weight_decay=0.0, adam_epsilon=1e-8,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt, _ in asked]),
        processing_class=AutoTokenizer.from_pretrained(model),
    )  # fmt: skip
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line], lora_factors(policy)


@pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning")
@pytest.mark.parametrize("kind", THEIRS)
def test_losses_and_rewards_of_the_first_steps_are_trls(kind: str, padded_model: Path, tmp_path: Path) -> None:
    """TRL is given the answers that veneer samples."""
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    (tmp_path / "rewards.py").write_text(TOLD, encoding="utf-8")
    events: list[Event] = []
    config = run_config(
        padded_model, write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n}: when?"} for n in range(PROMPTS)]),
        tmp_path / "run", "objective=grpo", f"rewards=[{{python: '{tmp_path / 'rewards.py'}:even'}}]",
        f"grpo.num_generations={GENERATIONS}", "grpo.max_completion_length=12", f"train.steps={STEPS}",
        f"train.examples_per_step={IN_STEP}", "train.schedule=constant", "train.warmup=0", *THEIRS[kind],
    )  # fmt: skip
    train(config, emit=events.append)
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [
        (prompts[at], answers[at : at + GENERATIONS])
        for prompts, answers in told
        for at in range(0, len(prompts), GENERATIONS)
    ]
    log, weights = trained_by_trl(trl, padded_model, config.grpo, asked, tmp_path / "theirs")
    steps = [event for event in events if isinstance(event, StepDone)]
    assert len(log) == len(steps) == STEPS
    for step, line in zip(steps, log, strict=True):
        assert step.loss == pytest.approx(line["loss"], abs=1e-3)
        assert step.grad_norm == pytest.approx(line["grad_norm"], abs=1e-3)
        # TRL tells rewards in the steps alone in which it samples. Under GSPO it counts clipped answers, not tokens.
        names = (
            {"reward", KL}
            if config.grpo.importance_sampling_level is ImportanceLevel.SEQUENCE
            else {"reward", KL, CLIP_LOW, CLIP_HIGH}
        )
        for name in names & line.keys():
            assert step.metrics[name] == pytest.approx(line[name], abs=1e-3), (step.step, name)
    own = load_file(tmp_path / "run" / "adapter_model.safetensors")
    for name, tensor in own.items():
        assert float((tensor - weights[name.removeprefix("base_model.model.")]).abs().max()) < 1e-3, name
