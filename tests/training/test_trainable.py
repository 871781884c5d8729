from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.models.tiny import tree
from helpers.models.tiny_models import documents, packed_logits
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.errors import CheckpointError
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.decoder import CausalLM
from veneer.training.trainable import AdapterTraining, FullTraining, Trainable


def made(kind: str, path: Path) -> tuple[CausalLM, Trainable]:
    origin = open_checkpoint(path)
    if kind == "full":
        model = load_model(origin, Loading(form=WeightForm.TRAINABLE, dtype=torch.float32))
        return model, FullTraining(model, origin)
    model = load_model(origin, Loading(dtype=torch.float32))
    return model, AdapterTraining(inject(model, LoraSpec(rank=4, alpha=8.0, dropout=0.3)), "base")


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_what_was_saved_comes_back_bit_by_bit(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    model, trainable = made(kind, tiny_model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable.named().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    folders = [tmp_path / name for name in ("one", "again")]
    for folder in folders:
        folder.mkdir()
        trainable.save(folder, {})
    assert tree(folders[0]) == tree(folders[1])
    other, fresh = made(kind, tiny_model)
    fresh.restore(folders[0])
    assert fresh.named().keys() == trainable.named().keys()
    texts = documents([9], vocab=200)
    with torch.no_grad():
        assert torch.equal(packed_logits(other.eval(), texts), packed_logits(model.eval(), texts))


def test_a_shared_weight_is_trained_once(tiny_model: Path) -> None:
    _, full = made("full", tiny_model)
    parameters = list(full.named().values())
    assert len({parameter.data_ptr() for parameter in parameters}) == len(parameters)
    assert all(parameter.requires_grad for parameter in parameters)


def test_the_draws_of_a_step_follow_from_its_seed_alone(tiny_model: Path) -> None:
    model, trainable = made("adapter", tiny_model)
    with torch.no_grad():
        for parameter in trainable.named().values():
            parameter.add_(0.1)
    model.train()
    texts, found = documents([30], vocab=200), []
    for seed in (1, 2, 1):
        trainable.seed_step(seed)
        found.append(packed_logits(model, texts).detach())
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert trainable.generator() is not None
    assert made("full", tiny_model)[1].generator() is None


def test_a_broken_model_is_not_saved(tiny_model: Path, tmp_path: Path) -> None:
    _, full = made("full", tiny_model)
    full.named()["model.norm.weight"].data[3] = torch.nan
    with pytest.raises(CheckpointError, match=r"NaN or infinite values and was not saved: model\.norm\.weight"):
        full.save(tmp_path, {})
    assert list(tmp_path.iterdir()) == []
