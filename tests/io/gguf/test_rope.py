"""Divisors of rotary frequencies become the settings that they were made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as hf

from helpers.gguf.files import tiny_model, write_model
from helpers.gguf.models import SIZES
from veneer.errors import ModelError
from veneer.io.gguf.config import describe
from veneer.io.gguf.reader import GgufCheckpoint
from veneer.io.gguf.rope import ORIGINAL, llama3_factors, rope_scaling_from_factors
from veneer.model.families.choose import spec_from_hf


@pytest.mark.parametrize(("factor", "original"), [(8.0, 8192), (32.0, 8192), (4.0, 48)])
def test_llama3_scaling_is_recovered(factor: float, original: int, tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }  # fmt: skip
    model = tiny_model(rope_parameters={"rope_theta": 10000.0, **scaling})
    plain = tiny_model()
    # The divisors that transformers itself applies: the oracle for llama3_factors.
    factors = (plain.model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq).numpy()
    np.testing.assert_allclose(llama3_factors(32, 10000.0, factor, original), factors, rtol=1e-5)
    write_model(tmp_path / "m.gguf", plain, factors=factors)
    found = GgufCheckpoint(tmp_path / "m.gguf").config["rope_scaling"]
    assert found == {**scaling, "factor": pytest.approx(factor, rel=1e-6)}


def test_factors_that_are_not_llama3s_are_passed_on() -> None:
    factors = np.array([1.0, 1.5, 2.0, 1.7], dtype=np.float32)
    scaling = rope_scaling_from_factors(factors, 8, 10000.0, 64)
    assert scaling == {"rope_type": "veneer_factors", "factors": [float(value) for value in factors]}
    assert rope_scaling_from_factors(np.ones(4, dtype=np.float32), 8, 10000.0, 64) is None


@pytest.mark.parametrize(
    ("outside", "inside", "original"), [(32, 64, 32), (None, 64, 4096), (32, None, 32), (None, None, 4096)]
)
def test_the_original_context_is_the_one_that_transformers_takes(
    outside: int | None, inside: int | None, original: int, tmp_path: Path
) -> None:
    """Phi-3 has it outside of the scaling, with a default; what stands inside is not read."""
    scaling: dict[str, Any] = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    scaling |= {} if inside is None else {ORIGINAL: inside}
    config = {**SIZES, "model_type": "phi3", "rms_norm_eps": 1e-5, "rope_scaling": scaling}
    config |= {} if outside is None else {ORIGINAL: outside}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    theirs = hf.AutoConfig.from_pretrained(tmp_path)
    assert theirs.rope_parameters[ORIGINAL] == original
    assert describe(config).values["phi3.rope.scaling.original_context_length"] == original
    assert spec_from_hf(config).rope.original_max_positions == original


def test_linear_scaling_and_kinds_that_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    write_model(file, tiny_model(), **{"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5})
    assert GgufCheckpoint(file).config["rope_scaling"] == {"rope_type": "linear", "factor": 2.5}
    write_model(file, tiny_model(), **{"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.5})
    expected = {"rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 128}
    assert GgufCheckpoint(file).config["rope_scaling"] == expected
    write_model(file, tiny_model(), **{"llama.rope.scaling.type": "spiral", "llama.rope.scaling.factor": 2.5})
    with pytest.raises(ModelError, match="rope scaling of the type 'spiral'"):
        GgufCheckpoint(file)
    write_model(file, tiny_model(), factors=np.full(16, np.nan, dtype=np.float32))
    with pytest.raises(ModelError, match="not positive numbers"):
        GgufCheckpoint(file)
