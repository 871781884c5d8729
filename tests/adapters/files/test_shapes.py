"""Tensors of shapes that no part of an adapter has are refused by name, whichever tensor and whichever shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.adapters.peft_folders import write_adapter
from helpers.models.tiny_models import ours, tiny_llama
from veneer.adapters.arithmetic import CombinationType
from veneer.adapters.combine import Combination, WeightedAdapter, combine_adapters
from veneer.adapters.files.store import PEFT_PREFIX, WEIGHTS_FILE
from veneer.adapters.load import load_adapter
from veneer.adapters.targets import EMBEDDING, HEAD
from veneer.enums import Bias, Variant
from veneer.errors import AdapterError
from veneer.model.decoder import CausalLM

ODD: tuple[tuple[int, ...], ...] = ((), (0,), (4,), (0, 4), (4, 0), (2, 2, 2), (0, 0, 0))
KINDS: dict[str, dict[str, Any]] = {
    "factors": {"target_modules": ("q_proj", "embed_tokens", "lm_head")},
    "magnitudes": {"target_modules": ("q_proj", "embed_tokens"), "variant": Variant.DORA},
    "biases": {"target_modules": ("q_proj",), "bias": Bias.LORA_ONLY, "factor_bias": True},
    "saved": {"target_modules": ("q_proj",), "modules_to_save": ("embed_tokens", "lm_head", "norm")},
    "tokens": {"target_modules": ("q_proj",), "trainable_tokens": {EMBEDDING: (3, 5), HEAD: (3, 5)}},
}


def held(model: CausalLM) -> tuple[int, object, object]:
    return model.spec.vocab_size, model.embedding, model.lm_head


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_every_odd_shape_is_refused_and_the_model_stays_as_it_was(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    write_adapter(
        folder, ours(tiny_llama(changes={"attention_bias": kind == "biases"}), tmp_path / "base"), **KINDS[kind]
    )
    model = ours(tiny_llama(changes={"attention_bias": kind == "biases"}), tmp_path / "again")
    before, tensors, wrong = held(model), load_file(folder / WEIGHTS_FILE), []
    for name in tensors:
        for shape in ODD:
            save_file(tensors | {name: torch.ones(shape)}, folder / WEIGHTS_FILE)
            try:
                load_adapter(model, folder)
                wrong.append(f"{name} {shape}: accepted")
            except AdapterError as error:
                if name.removeprefix(PEFT_PREFIX) not in str(error):
                    wrong.append(f"{name} {shape}: not named in {error}")
            except Exception as error:
                wrong.append(f"{name} {shape}: {error!r}")
            assert held(model) == before, name
    assert not wrong, "\n".join(wrong)


def test_every_tensor_of_every_odd_shape_is_refused_in_a_combination(folder: Path, model: CausalLM) -> None:
    write_adapter(folder, model, **KINDS["factors"])
    how, tensors, wrong = Combination(kind=CombinationType.LINEAR), load_file(folder / WEIGHTS_FILE), []
    for name in tensors:
        for shape in ODD:
            save_file(tensors | {name: torch.ones(shape)}, folder / WEIGHTS_FILE)
            try:
                combine_adapters([WeightedAdapter.read(folder)], how)
                wrong.append(f"{name} {shape}: accepted")
            except AdapterError:
                pass
            except Exception as error:
                wrong.append(f"{name} {shape}: {error!r}")
    assert not wrong, "\n".join(wrong)


def test_all_offenders_are_named_at_once(folder: Path, model: CausalLM) -> None:
    write_adapter(folder, model, target_modules=("q_proj",))
    tensors = {name: torch.tensor(1.0) for name in load_file(folder / WEIGHTS_FILE)}
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(AdapterError) as caught:
        load_adapter(model, folder)
    assert all(name.removeprefix(PEFT_PREFIX) in str(caught.value) for name in tensors)
