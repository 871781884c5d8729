"""Every pair of options either trains, is saved and read again as it was, or is refused with its reason."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.models.tiny_mixtures import tiny_mixture
from helpers.models.tiny_models import documents, largest_difference, packed_hidden, packed_logits, saved, tiny_llama
from veneer.adapters.exclusions import Feature, features, reason_against, refuse
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import InitSources, inject
from veneer.adapters.load import load_adapter
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING
from veneer.enums import Bias, Factors, Init, Method, Scaling, Variant
from veneer.errors import AdapterError
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.losses.linear_head import linear_cross_entropy
from veneer.losses.module_head import scored_cross_entropy
from veneer.model.decoder import CausalLM, plain_weight
from veneer.planning.setup import Setup

ROOT = Path(__file__).parents[2]
TEXTS = documents([17, 9], seed=3)
SETTINGS: dict[Feature, dict[str, Any]] = {
    Feature.GAUSSIAN: {"init": Init.GAUSSIAN},
    Feature.ORTHOGONAL: {"init": Init.ORTHOGONAL},
    Feature.PISSA: {"init": Init.PISSA},
    Feature.PISSA_FAST: {"init": Init.PISSA_FAST},
    Feature.OLORA: {"init": Init.OLORA},
    Feature.LOFTQ: {"init": Init.LOFTQ},
    Feature.EVA: {"init": Init.EVA},
    Feature.RSLORA: {"scaling": Scaling.RSLORA},
    Feature.DORA: {"variant": Variant.DORA},
    Feature.B_ALONE: {"factors": Factors.B},
    Feature.DROPOUT: {"dropout": 0.2},
    Feature.RANK_PATTERN: {"rank_pattern": {"v_proj": 2}},
    Feature.ALPHA_PATTERN: {"alpha_pattern": {"v_proj": 3.0}},
    Feature.EXCLUDE: {"exclude_modules": ("layers.0.self_attn.v_proj",)},
    Feature.LAYERS: {"layers_to_transform": (1,)},
    Feature.EMBEDDING: {"target_modules": ("v_proj", "up_proj", "embed_tokens")},
    Feature.HEAD: {"target_modules": ("v_proj", "up_proj", "lm_head")},
    Feature.EXPERTS: {"target_modules": ("v_proj", "gate_up_proj", "down_proj")},
    Feature.FEED_FORWARD: {"target_modules": ("v_proj", "gate")},
    Feature.BIAS: {"bias": Bias.ALL},
    Feature.FACTOR_BIAS: {"factor_bias": True},
    Feature.SAVED: {"modules_to_save": ("norm",)},
    Feature.SAVED_EMBEDDING: {"modules_to_save": ("embed_tokens",), "tied_modules": True},
    Feature.TOKENS: {"trainable_tokens": {EMBEDDING: (TEXTS[0][3], TEXTS[1][2])}},
    Feature.DENSE: {},
    Feature.QUANTIZED: {},
}

MIXTURES = {Feature.EXPERTS, Feature.FEED_FORWARD}


def spec_with(*used: Feature) -> LoraSpec:
    settings: dict[str, Any] = {"rank": 4, "alpha": 8.0, "target_modules": ("v_proj", "up_proj")}
    for feature in used:
        for key, value in SETTINGS[feature].items():
            both = isinstance(value, tuple) and key in ("target_modules", "modules_to_save") and key in settings
            settings[key] = tuple(dict.fromkeys((*settings[key], *value))) if both else value
    if MIXTURES & set(used):
        settings["target_modules"] = tuple(name for name in settings["target_modules"] if name != "up_proj")
    return LoraSpec(**settings)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    changes = {"attention_bias": True, "tie_word_embeddings": True, "num_hidden_layers": 2}
    return saved(tiny_llama(changes=changes), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("mixture")
    tiny_mixture("mixtral", tie_word_embeddings=True).save_pretrained(folder)
    return open_checkpoint(folder)


def model_for(checkpoint: Checkpoint, used: tuple[Feature, ...]) -> CausalLM:
    quantized = Feature.QUANTIZED in used or Feature.LOFTQ in used
    return load_model(
        checkpoint, Loading(form=WeightForm.QUANTIZED if quantized else WeightForm.FROZEN, dtype=torch.float32)
    )


def loss_of(model: CausalLM) -> torch.Tensor:
    rows = [*range(16), *range(17, 25)]
    targets = torch.tensor([token for text in TEXTS for token in text[1:]])
    hidden, weight = packed_hidden(model, TEXTS)[rows], plain_weight(model.lm_head)
    if weight is not None:
        return linear_cross_entropy(hidden, weight, targets) / len(rows)
    return scored_cross_entropy(hidden, model.lm_head, targets) / len(rows)


def sources(checkpoint: Checkpoint, spec: LoraSpec) -> InitSources:
    generator = torch.Generator().manual_seed(0)
    paths = [f"model.layers.{n}.{leaf}" for n in (0, 1) for leaf in ("self_attn.v_proj", "mlp.up_proj", "mlp.gate")]
    return InitSources(
        original=lambda name: checkpoint.read(name, torch.float32),
        directions={
            path: torch.linalg.qr(torch.randn(64, spec.rank_of(path), generator=generator))[0].t().contiguous()
            for path in [*paths, "lm_head"]
        },
    )


PAIRS = list(combinations(Feature, 2))
WORKING = [pair for pair in PAIRS if reason_against(*pair) is None]
# Two options of which one is a start: with a tied head, rows and head cannot both be trained, whatever the start is.
TIED_CLASH = {Feature.TOKENS, Feature.HEAD}


def names(pair: tuple[Feature, Feature]) -> str:
    return " + ".join(feature.name.lower() for feature in pair)


@pytest.mark.parametrize("pair", [p for p in WORKING if set(p) != TIED_CLASH], ids=names)
def test_a_pair_that_works_learns_and_is_read_again_as_it_was(
    pair: tuple[Feature, Feature], checkpoint: Checkpoint, mixture: Checkpoint, tmp_path: Path
) -> None:
    experts, beside = Feature.EXPERTS in pair, Feature.FEED_FORWARD in pair
    checkpoint, spec = mixture if experts or beside else checkpoint, spec_with(*pair)
    method = next((m for f, m in ((Feature.DENSE, Method.LORA), (Feature.QUANTIZED, Method.QLORA)) if f in pair), None)
    refuse(spec, method, experts=experts, feed_forward=beside)
    assert set(pair) <= set(features(spec, method, experts=experts, feed_forward=beside))
    model = model_for(checkpoint, pair)
    with torch.no_grad():
        base = packed_logits(model, TEXTS)
    adapter = inject(model, spec, seed=1, sources=sources(checkpoint, spec))
    model.train()
    parameters = adapter.named_parameters()
    first = float(loss_of(model).detach())
    for _ in range(3):
        loss_of(model).backward()
        with torch.no_grad():
            for name, parameter in parameters.items():
                assert parameter.grad is not None, name
                assert bool(torch.isfinite(parameter.grad).all()), name
                parameter -= 0.05 * parameter.grad
                parameter.grad = None
    model.eval()
    assert float(loss_of(model).detach()) < first
    save_adapter(tmp_path, adapter, base="base")
    with torch.no_grad():
        expected = packed_logits(model, TEXTS)
        again = model_for(checkpoint, pair).eval()
        load_adapter(again, tmp_path)
        # The same to the bit, but for a start that is subtracted: its file is one adapter of twice the rank.
        assert largest_difference(packed_logits(again, TEXTS), expected) < 1e-5
        with adapter.disabled():
            assert torch.equal(packed_logits(model, TEXTS), base)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if reason_against(*pair) is not None], ids=names)
def test_a_pair_that_does_not_is_refused_with_the_reason(pair: tuple[Feature, Feature]) -> None:
    reason = reason_against(*pair)
    assert reason is not None
    starts = {value for feature in pair for key, value in SETTINGS[feature].items() if key == "init"}
    if len(starts) == 2 or set(pair) == {Feature.DENSE, Feature.QUANTIZED}:
        return  # one key, which has one value
    method = Method.LORA if Feature.DENSE in pair else None
    experts, beside = Feature.EXPERTS in pair, Feature.FEED_FORWARD in pair
    with pytest.raises(AdapterError, match="do not go together") as caught:
        refuse(spec_with(*pair), method, experts=experts, feed_forward=beside)
    assert reason in str(caught.value)
    assert all(feature.value in str(caught.value) for feature in pair)


@pytest.mark.parametrize("target", [Feature.EXPERTS, Feature.FEED_FORWARD], ids=lambda feature: feature.name.lower())
@pytest.mark.parametrize(
    "option", [Feature.DORA, Feature.DROPOUT, Feature.FACTOR_BIAS], ids=lambda feature: feature.name.lower()
)
def test_what_stands_on_parameters_in_peft_is_refused_by_a_plan_and_by_a_model_alike(
    option: Feature, target: Feature, mixture: Checkpoint
) -> None:
    spec, model = spec_with(option, target), model_for(mixture, ())
    before = packed_logits(model, TEXTS)
    reason = reason_against(option, target)
    assert reason is not None
    with pytest.raises(AdapterError, match=re.escape(reason)) as put_on:
        inject(model, spec)
    with pytest.raises(AdapterError) as planned:
        Setup(spec=model.spec, method=Method.LORA, dtype=torch.float32, lora=spec)
    assert str(planned.value) == str(put_on.value)
    assert torch.equal(packed_logits(model, TEXTS), before)


def test_rows_of_a_tied_head_are_trained_one_way(checkpoint: Checkpoint) -> None:
    model = load_model(checkpoint, Loading(dtype=torch.float32))
    before = packed_logits(model, TEXTS)
    with pytest.raises(AdapterError, match="lm_head: carries an update or is saved whole"):
        inject(model, spec_with(*TIED_CLASH))
    assert torch.equal(packed_logits(model, TEXTS), before)


def test_an_odd_rank_cannot_be_halved() -> None:
    with pytest.raises(AdapterError, match="rank 3: it halves the rank"):
        refuse(LoraSpec(rank=3, alpha=1.0, init=Init.ORTHOGONAL))


def test_every_setting_of_an_adapter_is_a_feature() -> None:
    """A new setting without a row in the table fails here."""
    settings = {key for feature in SETTINGS.values() for key in feature}
    # The last three are the base's and the objective's, for PEFT to know.
    known = {"rank", "alpha", "fan_in_fan_out", "mixture", "task"}
    assert {field.name for field in fields(LoraSpec)} - settings == known


def test_the_page_is_made_from_the_table() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_combinations.py")], capture_output=True, text=True, check=True
    ).stdout
    assert made == (ROOT / "docs" / "combinations.md").read_text(encoding="utf-8"), "run `make docs`"
