from __future__ import annotations

import math
from typing import Any

import peft
import pytest
import torch

from helpers.adapters.random_adapters import PATHS
from helpers.models.tiny_models import tiny_llama
from veneer.adapters.spec import DECOMPOSING, LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.config import LoraSection
from veneer.enums import Init, Scaling
from veneer.errors import AdapterError
from veneer.text import expressions

PATTERNS: list[dict[str, Any]] = [
    {},
    {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3.0}},
    {"rank_pattern": {r"layers\.1\..*": 16}, "alpha_pattern": {r".*\.mlp\..*": 5.0}},
    {"rank_pattern": {"layers.0.self_attn.k_proj": 8, "k_proj": 6}},
]


@pytest.mark.parametrize("scaling", Scaling)
@pytest.mark.parametrize("patterns", PATTERNS)
def test_rank_and_scale_of_every_layer_are_pefts(patterns: dict[str, Any], scaling: Scaling) -> None:
    spec = LoraSpec(rank=4, alpha=6.0, scaling=scaling, **patterns)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules="all-linear", use_rslora=scaling is Scaling.RSLORA, **patterns
    )
    theirs = peft.get_peft_model(tiny_llama(), config)
    for path in PATHS:
        layer = theirs.get_submodule(f"base_model.model.{path}")
        assert spec.rank_of(path) == layer.r["default"], path
        assert spec.scale_of(path) == pytest.approx(layer.scaling["default"]), path
    assert spec.scale == (6 / 2 if scaling is Scaling.RSLORA else 6 / 4)


def test_one_rank_for_all_forgets_the_patterns() -> None:
    spec = LoraSpec(rank=4, alpha=6.0, rank_pattern={"q_proj": 2}).with_rank(7)
    assert {spec.rank_of(path) for path in PATHS} == {7}
    assert spec.alpha == 6.0


def test_modules_to_save_are_no_targets_unless_they_are_named_as_such() -> None:
    saved = LoraSpec(rank=4, alpha=8.0, modules_to_save=("q_proj", "layers.1.mlp.up_proj"))
    targets = saved.targets(PATHS)
    left = [path for path in PATHS if path.endswith("q_proj") or path == "model.layers.1.mlp.up_proj"]
    assert targets == [path for path in PATHS if path not in left]
    assert saved.saved(PATHS, targets) == left
    both = LoraSpec(rank=4, alpha=8.0, target_modules=("q_proj",), modules_to_save=("q_proj", "nrm"))
    with pytest.raises(AdapterError) as caught:
        both.saved([*PATHS, "model.norm"], both.targets(PATHS))
    assert "'nrm': no such module (did you mean 'norm'?)" in str(caught.value)
    assert "model.layers.0.self_attn.q_proj: is in target_modules too; train it one way" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": "(([a-z_.0-9])+)+[A-Z]+$"}, "takes more than 2 seconds to match"),
        ({"exclude_modules": "([a-z_.0-9]+)+A$"}, "takes more than 2 seconds to match"),
        ({"rank_pattern": {"([a-z_.0-9]+)+B": 2}}, "takes more than 2 seconds to match"),
        ({"target_modules": "a{99999999999999999999}"}, "not a regular expression"),
    ],
)
def test_expressions_of_a_runs_settings_are_tried_before_they_are_used(
    settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not end would hold the whole process, a studio's too."""
    monkeypatch.setattr(expressions, "SECONDS", 1)
    spec = LoraSpec.of(LoraSection(rank=4, **settings), tied=False)
    with pytest.raises(AdapterError, match=message):
        spec.targets(PATHS)


@pytest.mark.parametrize("init", Init)
def test_only_a_start_by_decomposition_limits_the_rank(init: Init) -> None:
    spec = LoraSpec(rank=16, alpha=8.0, init=init, rank_pattern={"small": 4, "large": 64})
    sizes = {"a.wide": 16, "a.narrow": 15, "a.small": 4, "a.large": 32}
    if init in DECOMPOSING:
        with pytest.raises(AdapterError) as caught:
            spec.check_ranks(sizes)
        assert "a.narrow: rank 16, at most 15" in str(caught.value)
        assert "a.large: rank 64, at most 32" in str(caught.value)
        assert "a.wide" not in str(caught.value)
        assert "a.small" not in str(caught.value)
    else:
        spec.check_ranks(sizes)


def test_tokens_that_cannot_be_trained_are_all_named() -> None:
    LoraSpec(rank=4, alpha=8.0, trainable_tokens={EMBEDDING: (0, 9)}).check_tokens(10, tied=True, busy=())
    spec = LoraSpec(rank=4, alpha=8.0, trainable_tokens={EMBEDDING: (3, 10, 3, -1)})
    with pytest.raises(AdapterError) as caught:
        spec.check_tokens(10, tied=True, busy=[HEAD, "model.norm"])
    for line in (
        *("token 10 is not below the vocabulary's 10", "token -1 is below 0", "token 3 is given twice"),
        f"{HEAD}: carries an update",
    ):
        assert line in str(caught.value)
    with pytest.raises(AdapterError) as caught:
        spec.check_tokens(10, tied=False, busy=[HEAD])
    assert HEAD not in str(caught.value), "an untied head has rows of its own"
    of_head = LoraSpec(rank=4, alpha=8.0, trainable_tokens={HEAD: (3,)}, tied_modules=True)
    of_head.check_tokens(10, tied=False, busy=[EMBEDDING])
    with pytest.raises(AdapterError, match=f"{HEAD}: carries an update or is saved whole"):
        of_head.check_tokens(10, tied=True, busy=[EMBEDDING])


def test_a_tied_embedding_in_modules_to_save_stands_for_the_head_beside_it() -> None:
    section = LoraSection.model_validate({"rank": 8, "modules_to_save": ["norm", "lm_head", "embed_tokens"]})
    assert LoraSpec.of(section, tied=True).modules_to_save == ("norm", "embed_tokens")
    for kept in (LoraSpec.of(section, tied=False), LoraSpec.of(section, tied=True, keeps_tie=False)):
        assert kept.modules_to_save == section.modules_to_save
    alone = section.model_copy(update={"modules_to_save": ("lm_head",)})
    assert LoraSpec.of(alone, tied=True).modules_to_save == ("lm_head",)


@pytest.mark.parametrize("tied", [False, True])
def test_the_section_of_a_configuration_becomes_the_adapter(tied: bool) -> None:
    section = LoraSection.model_validate(
        {"rank": 8, "alpha": 12.0, "dropout": 0.1, "scaling": "rslora", "trainable_tokens": [3, 5]}
    )
    spec = LoraSpec.of(section, tied=tied)
    assert (spec.rank, spec.alpha, spec.dropout, spec.scaling) == (8, 12.0, 0.1, Scaling.RSLORA)
    assert spec.scale == pytest.approx(12 / math.sqrt(8))
    assert set(spec.trainable_tokens) == ({EMBEDDING} if tied else {EMBEDDING, HEAD})
    assert LoraSpec.of(LoraSection.model_validate({"rank": 8}), tied=tied).trainable_tokens == {}


def test_updates_have_the_rank_and_scale_of_their_layer(tmp_path: Any) -> None:
    from helpers.models.tiny_models import ours
    from veneer.adapters.inject import inject

    spec = LoraSpec(rank=4, alpha=6.0, **PATTERNS[2])
    for path, update in inject(ours(tiny_llama(), tmp_path), spec).updates().items():
        assert len(update.lora_A) == spec.rank_of(path)
        assert update.scale == spec.scale_of(path)
        assert update.lora_A.dtype is torch.float32
