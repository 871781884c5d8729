"""Several adapters over one model: each row gets what its adapter alone would give it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from helpers.models.tiny_models import documents, largest_difference, ours, packed_hidden, packed_logits, tiny_llama
from veneer.adapters.adapter_set import AdapterSet
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.load import load_adapter
from veneer.adapters.spec import LoraSpec
from veneer.adapters.vocabulary import resize_embeddings
from veneer.enums import Init, Scaling, Variant
from veneer.errors import AdapterError
from veneer.evaluation import scoring
from veneer.evaluation.scoring import example_losses
from veneer.generation.batch import BATCH_ROWS, generate
from veneer.generation.sampling import Sampling
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.model.attention import PackedAttention
from veneer.model.blocks import BlockAttention
from veneer.model.decoder import CausalLM

TEXTS = documents([21, 8, 30, 1, 17, 25], seed=8)

ROWS = ("plain", None, "wide", "plain", "rs", "wide")
PLAIN: dict[str, dict[str, Any]] = {
    "plain": {"rank": 4, "alpha": 8.0},
    "wide": {"rank": 8, "alpha": 4.0, "target_modules": ("q_proj", "down_proj"), "rank_pattern": {"q_proj": 6}},
    "rs": {"rank": 4, "alpha": 6.0, "scaling": Scaling.RSLORA, "target_modules": ("q_proj", "k_proj", "up_proj")},
}
OTHERS: dict[str, dict[str, Any]] = {
    "plain": {"rank": 4, "alpha": 8.0},
    "wide": {"rank": 5, "alpha": 4.0, "variant": Variant.DORA, "modules_to_save": ("norm", "input_layernorm")},
    "rs": {"rank": 3, "alpha": 6.0, "init": Init.PISSA, "target_modules": ("q_proj", "embed_tokens")},
}


def write_adapters(folder: Path, kinds: dict[str, dict[str, Any]]) -> dict[str, Path]:
    """Adapters with random values, as files."""
    found = {}
    for number, (name, settings) in enumerate(kinds.items()):
        model = ours(tiny_llama(), folder / "base")
        adapter = inject(model, LoraSpec(**settings), seed=number)
        generator = torch.Generator().manual_seed(number)
        for parameter in adapter.parameters():
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        found[name] = folder / name
        found[name].mkdir()
        save_adapter(found[name], adapter, base="owner/base")
    return found


def held(folder: Path, kinds: dict[str, dict[str, Any]], **form: Any) -> tuple[AdapterSet, dict[str, Path]]:
    folders = write_adapters(folder, kinds)
    adapters = AdapterSet(ours(tiny_llama(), folder / "base", **form))
    for name, path in folders.items():
        adapters.load(name, path)
    return adapters, folders


def alone(folders: dict[str, Path], name: str | None, **form: Any) -> CausalLM:
    """A model of its own, with one adapter."""
    path = next(iter(folders.values())).parent / "base"
    model = ours(tiny_llama(), path, **form)
    if name is not None:
        load_adapter(model, folders[name])
    return model


def routed_logits(adapters: AdapterSet, names: Sequence[str | None], texts: Sequence[Sequence[int]]) -> Tensor:
    with torch.no_grad(), adapters.by_row(names) as rows:
        rows.lay(range(len(texts)), [len(text) for text in texts])
        hidden = packed_hidden(adapters.model, texts)
    return adapters.model.logits(hidden)


@pytest.mark.parametrize("form", [WeightForm.FROZEN, WeightForm.QUANTIZED], ids=["dense", "4 bits"])
@pytest.mark.parametrize("kinds", [PLAIN, OTHERS], ids=["plain", "others"])
@torch.no_grad()
def test_each_row_is_as_with_its_adapter_alone(kinds: dict[str, Any], form: WeightForm, tmp_path: Path) -> None:
    if form is WeightForm.QUANTIZED and kinds is OTHERS:
        kinds = {name: settings | {"init": Init.KAIMING} for name, settings in kinds.items()}
    adapters, folders = held(tmp_path, kinds, form=form)
    found = routed_logits(adapters, ROWS, TEXTS).split([len(text) for text in TEXTS])
    models = {name: alone(folders, name, form=form) for name in set(ROWS)}
    base = packed_logits(models[None], TEXTS[:1])
    for name, text, logits in zip(ROWS, TEXTS, found, strict=True):
        expected = packed_logits(models[name], [text])
        assert largest_difference(logits, expected) < 1e-6 * max(1.0, float(expected.abs().max()))
    assert largest_difference(found[0], base) > 0.1


@pytest.mark.parametrize("kinds", [PLAIN, OTHERS], ids=["plain", "others"])
@torch.no_grad()
def test_one_in_use_is_as_loaded_alone_to_the_bit(kinds: dict[str, Any], tmp_path: Path) -> None:
    adapters, folders = held(tmp_path, kinds)
    assert adapters.names == tuple(kinds)
    assert adapters.active is None
    for name in (*kinds, None, *reversed(kinds)):
        adapters.use(name)
        assert adapters.active == name
        assert torch.equal(packed_logits(adapters.model, TEXTS), packed_logits(alone(folders, name), TEXTS))
    adapters.unload("plain")
    assert adapters.active is None
    assert "plain" not in adapters.names
    assert torch.equal(packed_logits(adapters.model, TEXTS), packed_logits(alone(folders, None), TEXTS))


def test_rows_equal_those_of_peft(tmp_path: Path) -> None:
    """Its `adapter_names`, the oracle for plain LoRA."""
    adapters, folders = held(tmp_path, PLAIN)
    theirs = peft.PeftModel.from_pretrained(tiny_llama(), folders["plain"], adapter_name="plain")
    for name in ("wide", "rs"):
        theirs.load_adapter(folders[name], adapter_name=name)
    texts = documents([19] * len(ROWS), seed=3)
    names = ["__base__" if name is None else name for name in ROWS]
    with torch.no_grad():
        expected = theirs.eval()(input_ids=torch.tensor(texts), adapter_names=names).logits.flatten(0, 1)
    assert largest_difference(routed_logits(adapters, ROWS, texts), expected) < 1e-5 * float(expected.abs().max())


@torch.no_grad()
def test_rows_that_begin_alike_share_that_within_their_adapter(tmp_path: Path) -> None:
    adapters, folders = held(tmp_path, PLAIN)
    model, shared = adapters.model, documents([12], seed=4)[0]
    names = ("plain", "wide", None)
    groups = [[shared, *documents([5, 9], seed=seed)] for seed in (1, 2, 3)]
    lengths = [sum(len(piece) for piece in group) for group in groups]
    layout = BlockAttention([PackedAttention([len(t) for t in group[1:]], 12) for group in groups], lengths)
    positions = torch.cat(
        [torch.cat([torch.arange(12), *(12 + torch.arange(len(t)) for t in group[1:])]) for group in groups]
    )
    tokens = torch.tensor([token for group in groups for piece in group for token in piece])
    with adapters.by_row(names) as rows:
        rows.lay([0, 1, 2], lengths)
        found = model.hidden(tokens, positions, layout).split(lengths)
    for name, group, hidden in zip(names, groups, found, strict=True):
        single = alone(folders, name)
        first, second = hidden[12:].split([len(t) for t in group[1:]])
        for own, text in ((first, group[1]), (second, group[2])):
            expected = packed_hidden(single, [shared + text])[12:]
            assert largest_difference(own, expected) < 2e-6 * float(expected.abs().max())


@pytest.mark.parametrize("kinds", [PLAIN, OTHERS], ids=["plain", "others"])
@pytest.mark.parametrize("batch_rows", [BATCH_ROWS, 4])
def test_generation_with_an_adapter_for_each_prompt(kinds: Any, batch_rows: int, tmp_path: Path) -> None:
    adapters, folders = held(tmp_path, kinds)
    prompts = documents([5, 9, 3, 7, 5, 2, 11, 4], seed=6)
    names = ("wide", None, "plain", "rs", "plain", "wide", "plain", None)
    for sampling in (Sampling(max_new_tokens=12), Sampling(max_new_tokens=12, temperature=0.8, seed=4)):
        with adapters.by_row(names) as rows:
            found = generate(
                adapters.model,
                prompts,
                sampling=sampling,
                stop_ids=frozenset([2, 40]),
                batch_rows=batch_rows,
                router=rows,
            )
        for name in set(names):
            expected = generate(alone(folders, name), prompts, sampling=sampling, stop_ids=frozenset([2, 40]))
            assert [found[i] for i, own in enumerate(names) if own == name] == [
                expected[i] for i, own in enumerate(names) if own == name
            ]


def test_losses_with_an_adapter_for_each_row(
    tmp_path: Path, tiny_model: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from helpers.models.tiny import examples
    from veneer.io.checkpoint import open_checkpoint
    from veneer.loading.load import load_model

    rows = examples(tiny_model, tiny_data)[:6]

    def base() -> CausalLM:
        return load_model(open_checkpoint(tiny_model), Loading(form=WeightForm.FROZEN, dtype=torch.float32))

    adapters = AdapterSet(base())
    expected = [example_losses(base(), rows)]
    for seed in (1, 2):
        model = base()
        adapter = inject(model, LoraSpec(rank=4, alpha=8), seed=seed)
        for parameter in adapter.parameters():
            parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        folder = tmp_path / str(seed)
        folder.mkdir()
        save_adapter(folder, adapter, base="base")
        adapters.load(str(seed), folder)
        expected.append(example_losses(model, rows))
    names = [None, "1", "2", "2", None, "1"]
    monkeypatch.setattr(scoring, "PASS_TOKENS", 100)
    with adapters.by_row(names) as router:
        found = example_losses(adapters.model, rows, router=router)
    for index, name in enumerate(names):
        (loss, count), (own, own_count) = expected[int(name or 0)][index], found[index]
        assert count == own_count
        assert own == pytest.approx(loss, rel=1e-6)


def test_names_that_are_taken_or_unknown(tmp_path: Path) -> None:
    adapters, folders = held(tmp_path, PLAIN)
    with pytest.raises(AdapterError, match="'plain' is already loaded"):
        adapters.load("plain", folders["wide"])
    for call in (adapters.use, adapters.unload, adapters.__getitem__):
        with pytest.raises(AdapterError, match="did you mean 'plain'"):
            call("plane")
    with pytest.raises(AdapterError, match="'plane'"), adapters.by_row(["plane"]):
        pass


def test_a_failed_load_changes_nothing(tmp_path: Path) -> None:
    adapters, folders = held(tmp_path, PLAIN)
    adapters.use("plain")
    before = packed_logits(adapters.model, TEXTS)
    (folders["wide"] / "adapter_model.safetensors").write_bytes(b"no such thing")
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors"):
        adapters.load("other", folders["wide"])
    assert adapters.names == tuple(PLAIN)
    assert torch.equal(packed_logits(adapters.model, TEXTS), before)


def test_an_adapter_with_tokens_of_its_own_is_refused(tmp_path: Path) -> None:
    adapters, _ = held(tmp_path, PLAIN)
    model = ours(tiny_llama(), tmp_path / "base")
    resize_embeddings(model, 100)
    adapter = inject(model, LoraSpec(rank=2, alpha=2, trainable_tokens={"model.embed_tokens": (98,), "lm_head": (98,)}))
    (tmp_path / "grown").mkdir()
    save_adapter(tmp_path / "grown", adapter, base="owner/base")
    adapters.use("plain")
    before = packed_logits(adapters.model, TEXTS)
    with pytest.raises(AdapterError, match="tokens of its own"):
        adapters.load("grown", tmp_path / "grown")
    assert adapters.names == tuple(PLAIN)
    assert torch.equal(packed_logits(adapters.model, TEXTS), before)


def test_heads_are_not_mixed_by_row(tmp_path: Path) -> None:
    kinds = {"plain": PLAIN["plain"], "head": {"rank": 2, "alpha": 2.0, "target_modules": ("q_proj", "lm_head")}}
    adapters, folders = held(tmp_path, kinds)
    with pytest.raises(AdapterError, match=r"change lm_head[^-]*- head\n"), adapters.by_row(["plain", "head"]):
        pass
    adapters.use("head")
    assert torch.equal(packed_logits(adapters.model, TEXTS), packed_logits(alone(folders, "head"), TEXTS))
