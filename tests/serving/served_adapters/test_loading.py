"""Adapters are read beside the base: as factors where the compiled step knows them, refused where they do not fit."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.adapters.peft_folders import randomise
from helpers.models.family_variants import FAMILIES
from helpers.models.tiny_models import ours, tiny, tiny_llama
from serving.test_isolation import run, write
from veneer.adapters.files import store
from veneer.adapters.files.integrity import LOCK_FILE
from veneer.adapters.files.origin import write_base
from veneer.adapters.files.store import CONFIG_FILE, WEIGHTS_FILE
from veneer.errors import AdapterError
from veneer.generation.build import build_engine
from veneer.generation.request import GenerationRequest
from veneer.generation.sampling import Sampling
from veneer.io import digests
from veneer.io.digests import file_digest
from veneer.io.tokenizer import from_directory
from veneer.model.decoder import CausalLM
from veneer.native.library import kernels
from veneer.serving.served_adapters.folder import AdapterFolder
from veneer.serving.served_adapters.loading import adapter_loader


@pytest.fixture
def model(tmp_path: Path) -> CausalLM:
    found = ours(tiny_llama(seed=2), tmp_path / "base")
    found.eval()
    return found


@pytest.fixture
def folder(tmp_path: Path, model: CausalLM) -> Path:
    write(tmp_path, model, "kite", seed=1)
    write(tmp_path, model, "norm", seed=1, modules_to_save=("norm",))
    return tmp_path


@pytest.mark.skipif(kernels() is None, reason="no compiled kernels")
def test_updates_of_layers_become_factors_and_all_else_modules(folder: Path, model: CausalLM) -> None:
    wide, narrow = (adapter_loader(model, dtype=dtype)(folder / "kite") for dtype in (torch.float32, torch.bfloat16))
    assert wide.factors is not None
    assert narrow.factors is not None
    assert wide.nbytes == 2 * narrow.nbytes
    assert wide.key != narrow.key
    norm = adapter_loader(model)(folder / "norm")
    assert norm.factors is None
    assert norm.model is not None


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("variant", ["gemma2", "gemma3 cap", "qwen2", "qwen3", "mistral"])
def test_answers_under_adapters_that_peft_wrote_are_those_of_transformers(
    variant: str, dora: bool, tmp_path: Path
) -> None:
    model_type, changes = FAMILIES[variant]
    theirs = tiny(model_type, seed=3, changes=changes)
    model = ours(theirs, tmp_path / "base")
    wrapped = peft.get_peft_model(
        theirs, peft.LoraConfig(r=8, lora_alpha=12, target_modules="all-linear", use_dora=dora)
    )
    named = dict(wrapped.named_parameters())
    randomise([one for name, one in named.items() if "lora_A" in name or "lora_B" in name], seed=5)
    for name, magnitudes in named.items():
        if "magnitude" in name:
            magnitudes.data.mul_(1 + 0.5 * torch.rand_like(magnitudes))
    wrapped.eval().save_pretrained(tmp_path / "adapters" / "kite")
    adapters = AdapterFolder(tmp_path / "adapters", adapter_loader(model), 10**8)
    engine = build_engine(model, adapters=adapters)
    prompt = tuple(range(5, 27))
    sampling = Sampling(max_new_tokens=12, temperature=3.0, seed=1)
    under, base = (
        run(engine, engine.submit(GenerationRequest(prompt=prompt, sampling=sampling, adapter=name, logprobs=1)))[0]
        for name in ("kite", None)
    )
    adapters.close()
    assert under.logprobs[0] != base.logprobs[0]
    assert len(set(under.tokens)) > 6
    for found, without in ((under, nullcontext()), (base, wrapped.disable_adapter())):
        with torch.no_grad(), without:
            logits = wrapped(input_ids=torch.tensor([[*prompt, *found.tokens]])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)
        for place, own in enumerate(found.logprobs):
            assert own.logprob == pytest.approx(expected[place, own.token].item(), abs=1e-4)


def test_broken_adapters_and_those_of_other_shapes_are_refused_by_their_own_path(
    folder: Path, model: CausalLM, tmp_path: Path
) -> None:
    wide = ours(tiny_llama(seed=2, changes={"hidden_size": 96}), tmp_path / "wide")
    with pytest.raises(AdapterError, match="does not fit this model"):
        adapter_loader(wide)(folder / "kite")
    file = folder / "kite" / WEIGHTS_FILE
    tensors = load_file(file)
    tensors[sorted(tensors)[0]][0, 0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(AdapterError, match=r"(?i)nan") as caught:
        adapter_loader(model)(folder / "kite")
    assert str(folder / "kite") in str(caught.value)


def test_an_adapter_that_says_its_base_is_checked_against_it(folder: Path, model: CausalLM) -> None:
    weights = folder / "base" / "model.safetensors"
    load = adapter_loader(model, base_files=[weights])
    write_base(folder / "kite", {weights.name: file_digest(weights)})
    load(folder / "kite")
    write_base(folder / "kite", {weights.name: "0" * 64})
    with pytest.raises(AdapterError, match=r"a base other than this one:\n  - model.safetensors: has other content"):
        load(folder / "kite")


def test_an_adapter_whose_tokenizer_has_more_tokens_is_refused_by_its_own_path(
    folder: Path, model: CausalLM, tiny_model: Path
) -> None:
    tokenizer = from_directory(tiny_model)
    load = adapter_loader(model, tokenizer=tokenizer)
    tokenizer.save(folder / "kite")  # programs save the base's tokenizer beside their adapters
    load(folder / "kite")
    tokenizer.with_tokens(["<claim>"]).save(folder / "kite")
    with pytest.raises(AdapterError, match=f"^{re.escape(str(folder / 'kite'))} has tokens of its own"):
        load(folder / "kite")
    (folder / "kite" / "tokenizer.json").write_text("{}")
    with pytest.raises(AdapterError, match=re.escape(str(folder / "kite" / "tokenizer.json"))):
        load(folder / "kite")


def test_a_tokenizer_that_many_adapters_share_is_read_once(
    folder: Path, model: CausalLM, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[Path]()
    monkeypatch.setattr(store, "from_directory", lambda path: read.append(path) or from_directory(path))
    tokenizer = from_directory(tiny_model)
    load = adapter_loader(model, tokenizer=tokenizer)
    for name in ("kite", "norm"):
        tokenizer.save(folder / name)
        load(folder / name)
    assert len(read) == 1


def test_the_file_that_is_read_may_be_shortened_meanwhile(folder: Path, model: CausalLM) -> None:
    """The tensors do not depend on the file any more once it has been read."""
    found = adapter_loader(model)(folder / "norm")
    with torch.no_grad():
        (folder / "norm" / WEIGHTS_FILE).write_bytes(b"")
        assert found.model is not None
        assert all(bool(torch.isfinite(parameter).all()) for parameter in found.model.parameters())


def test_copies_are_checked_against_the_record_and_their_digests_are_not_remembered(
    folder: Path, model: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "KEPT_FROM", 0)
    monkeypatch.setattr(digests, "kept_file", lambda: tmp_path / "digests.json")
    written = {name: file_digest(folder / "kite" / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
    (folder / "kite" / LOCK_FILE).write_text(json.dumps({"base": {}, "result": written}))
    kept = (tmp_path / "digests.json").read_text()
    adapter_loader(model)(folder / "kite")
    assert (tmp_path / "digests.json").read_text() == kept
    (folder / "kite" / LOCK_FILE).write_text(json.dumps({"base": {}, "result": {**written, WEIGHTS_FILE: "0" * 64}}))
    with pytest.raises(AdapterError, match=f"kite/{WEIGHTS_FILE} has changed since it was written"):
        adapter_loader(model)(folder / "kite")
