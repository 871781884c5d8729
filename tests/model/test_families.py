"""Every family computes what transformers computes from the same files: one row a variant.

Documents are longer than the windows, so that a window that is ignored shows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
)

from helpers.models.family_variants import FAMILIES
from helpers.models.tiny import chat_tokenizer
from helpers.models.tiny_models import (
    SHAPES,
    documents,
    largest_difference,
    ours,
    packed_hidden,
    packed_logits,
    saved,
    saved_for_backward,
    their_logits,
    tiny,
)
from veneer.adapters.adapter_set import AdapterSet
from veneer.adapters.files.store import save_adapter
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.config import QuantSection
from veneer.defaults import with_sizes
from veneer.enums import Method
from veneer.exports.base import MergeBase, TrainingBase, open_source
from veneer.exports.merge import write_merged
from veneer.generation.batch import generate
from veneer.generation.sampling import Sampling
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.expected import expected_tensors
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.losses.linear_head import linear_cross_entropy
from veneer.model import shape
from veneer.model.attention import PackedAttention
from veneer.model.cache import KVCache
from veneer.model.decoder import CausalLM
from veneer.model.families import fields
from veneer.model.families.choose import spec_from_hf
from veneer.model.recompute import Recomputation
from veneer.model.shape import QkNorm
from veneer.planning.activations import kept_activations
from veneer.planning.batch_shape import BatchShape
from veneer.planning.setup import Setup

LENGTHS = [23, 1, 40, 9]
every_family = pytest.mark.parametrize("variant", FAMILIES)
_FIRST = {model_type: variant for variant, (model_type, _) in reversed(FAMILIES.items())}
one_of_each_family = pytest.mark.parametrize(
    "variant",
    [pytest.param(name, marks=() if name in _FIRST.values() else pytest.mark.slow) for name in FAMILIES],
)
"""One variant of each model_type in the fast suite, since the others hold their adapters in the same layers."""


def theirs_of(variant: str) -> PreTrainedModel:
    model_type, changes = FAMILIES[variant]
    return tiny(model_type, len(variant), changes)


@every_family
def test_logits_equal_transformers(variant: str, tmp_path: Path) -> None:
    theirs = theirs_of(variant)
    model = ours(theirs, tmp_path)
    texts = documents(LENGTHS)
    with torch.no_grad():
        expected, logits = their_logits(theirs, texts), packed_logits(model, texts)
    assert float(expected.std()) > 0.3  # so that 1e-4 says something
    assert largest_difference(logits, expected) < 1e-4


def test_a_window_that_is_ignored_would_show(tmp_path: Path) -> None:
    texts = documents(LENGTHS)
    for variant in ("mistral", "qwen2 window", "gemma2", "gemma3", "phi3 window", "smollm3 window"):
        model_type, changes = FAMILIES[variant]
        with torch.no_grad():
            without = their_logits(tiny(model_type, len(variant), changes | {"sliding_window": 4096}), texts)
            assert largest_difference(their_logits(theirs_of(variant), texts), without) > 0.1


def mean_loss(model: CausalLM, texts: list[list[int]]) -> Tensor:
    """The mean cross-entropy of every token but the first, as the engine computes it."""
    starts = torch.tensor([len(text) for text in texts]).cumsum(0)
    last = torch.zeros(int(starts[-1]), dtype=torch.bool)
    last[starts - 1] = True
    targets = torch.tensor([token for text in texts for token in text[1:]])
    hidden = packed_hidden(model, texts)[~last]
    loss = linear_cross_entropy(hidden, model.lm_head.weight, targets, chunk=7, shaping=model.spec.scores)
    return loss / len(targets)


def their_mean_loss(model: torch.nn.Module, texts: list[list[int]]) -> Tensor:
    losses = [
        functional.cross_entropy(model(torch.tensor([text])).logits[0, :-1], torch.tensor(text[1:]), reduction="sum")
        for text in texts
        if len(text) > 1
    ]
    return torch.stack(losses).sum() / sum(len(text) - 1 for text in texts)


def assert_same_gradients(gradients: dict[str, Tensor | None], references: dict[str, Tensor | None]) -> None:
    assert gradients.keys() == references.keys()
    for name, reference in references.items():
        gradient = gradients[name]
        assert gradient is not None, name
        assert reference is not None, name
        largest = float(reference.abs().max())
        assert largest > 1e-5, name
        assert largest_difference(gradient, reference) < 1e-4 * max(1.0, largest), name


@every_family
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_of_every_weight_equal_transformers(variant: str, recompute: bool, tmp_path: Path) -> None:
    theirs = theirs_of(variant)
    model = ours(theirs, tmp_path, form=WeightForm.TRAINABLE)
    if recompute:
        model.model.recomputation = Recomputation()
    texts = documents(LENGTHS)
    loss, expected = mean_loss(model, texts), their_mean_loss(theirs, texts)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    loss.backward()
    expected.backward()
    assert_same_gradients(
        {name: parameter.grad for name, parameter in model.named_parameters()},
        {name: parameter.grad for name, parameter in theirs.named_parameters()},
    )


@every_family
def test_prompts_and_steps_equal_the_whole_text(variant: str, tmp_path: Path) -> None:
    model = ours(theirs_of(variant), tmp_path)
    lengths, steps = [1, 17, 4, 16], 12  # none crosses LongRoPE's trained context
    texts = documents([length + steps for length in lengths])
    with torch.no_grad():
        whole = [packed_logits(model, [text]) for text in texts]
        cache = KVCache(model.spec, len(texts), max(lengths) + steps, dtype=torch.float32)
        tokens = torch.tensor([token for text, length in zip(texts, lengths, strict=True) for token in text[:length]])
        positions = torch.cat([torch.arange(length) for length in lengths])
        logits = model.logits(model.hidden(tokens, positions, cache.prefill(lengths))).split(lengths)
        for row, length in enumerate(lengths):
            assert largest_difference(logits[row], whole[row][:length]) < 1e-4
        for made in range(steps):
            new = torch.tensor([text[length + made] for text, length in zip(texts, lengths, strict=True)])
            step = model.logits(model.hidden(new, cache.lengths, cache.step()))
            for row, length in enumerate(lengths):
                assert largest_difference(step[row], whole[row][length + made]) < 1e-4


@every_family
def test_documents_that_share_a_beginning_are_computed_as_if_they_did_not(variant: str, tmp_path: Path) -> None:
    model = ours(theirs_of(variant), tmp_path)
    if model.spec.by_length:
        pytest.skip("what this model makes of a beginning depends on the length of the text: none are shared")
    (beginning, *rest) = documents([14, 11, 3, 19])
    lengths = [len(text) for text in rest]
    tokens = torch.tensor([token for text in (beginning, *rest) for token in text])
    places = [torch.arange(14), *(torch.arange(14, 14 + length) for length in lengths)]
    with torch.no_grad():
        hidden = model.hidden(tokens, torch.cat(places), PackedAttention(lengths, 14))
        logits = model.logits(hidden)[14:].split(lengths)
        for own, text in zip(logits, rest, strict=True):
            assert largest_difference(own, packed_logits(model, [beginning + text])[14:]) < 1e-4


# ---------------------------------------------------------------------------------------------------------- adapters


def randomise(parameters: Iterator[Tensor] | list[Tensor], seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.data.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@one_of_each_family
def test_an_adapter_is_the_same_in_peft(variant: str, tmp_path: Path) -> None:
    """Names of the files, logits, and the gradients of every factor."""
    theirs = theirs_of(variant)
    model = ours(theirs, tmp_path / "base")
    adapter = inject(model, LoraSpec(rank=4, alpha=6.0))
    randomise(list(adapter.parameters()))
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", adapter, base=str(tmp_path / "base"))
    reference = PeftModel.from_pretrained(theirs, tmp_path / "adapter", is_trainable=True)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    named = get_peft_model(theirs_of(variant), config).named_parameters()
    assert len(adapter.named_parameters()) == sum("lora_" in name for name, _ in named)
    texts = documents(LENGTHS)
    loss, expected = mean_loss(model, texts), their_mean_loss(reference, texts)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    loss.backward()
    expected.backward()
    prefix, middle = "base_model.model.", ".default"
    assert_same_gradients(
        {name.removesuffix(".weight"): parameter.grad for name, parameter in adapter.named_parameters().items()},
        {
            name.removeprefix(prefix).replace(middle, "").removesuffix(".weight"): parameter.grad
            for name, parameter in reference.named_parameters()
            if parameter.requires_grad
        },
    )
    with torch.no_grad():
        assert largest_difference(packed_logits(model, texts), their_logits(reference, texts)) < 1e-4


@every_family
def test_a_merged_model_is_read_by_transformers(variant: str, tmp_path: Path) -> None:
    theirs = theirs_of(variant)
    model = ours(theirs, tmp_path / "base")
    adapter = inject(model, LoraSpec(rank=4, alpha=6.0))
    randomise(list(adapter.parameters()))
    for name in ("adapter", "merged"):
        (tmp_path / name).mkdir()
    save_adapter(tmp_path / "adapter", adapter, base=str(tmp_path / "base"))
    chat_tokenizer().save(str(tmp_path / "base" / "tokenizer.json"))
    trained = TrainingBase(quantized=False, quant=QuantSection(), dtype=torch.float32)
    checkpoint = open_checkpoint(tmp_path / "base")
    source = open_source(checkpoint, tmp_path / "adapter", MergeBase.ORIGINAL, trained)
    write_merged(tmp_path / "merged", source, torch.float32)
    back = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", attn_implementation="eager", dtype=torch.float32
    ).eval()
    names = expected_tensors(model.spec).keys()
    weights, before = back.state_dict(), theirs.state_dict()
    assert names <= weights.keys()
    changed = {f"{path}.weight" for path in adapter.outermost}
    for name in names - changed:
        assert torch.equal(weights[name], before[name]), name
    assert all(not torch.equal(weights[name], before[name]) for name in changed)
    texts = documents(LENGTHS)
    with torch.no_grad():
        assert largest_difference(their_logits(back, texts), packed_logits(model, texts)) < 1e-4


@one_of_each_family
def test_qlora_learns_and_its_adapter_is_read_by_peft(variant: str, tmp_path: Path) -> None:
    theirs = theirs_of(variant)
    model = load_model(
        saved(theirs, tmp_path / "base"), Loading(form=WeightForm.QUANTIZED, dtype=torch.float32, quant=QuantSection())
    )
    adapter = inject(model, LoraSpec(rank=4, alpha=8.0))
    texts = documents(LENGTHS)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.02)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = mean_loss(model, texts)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", adapter, base=str(tmp_path / "base"))
    with torch.no_grad():
        for path in adapter.outermost:
            base: Any = adapter.base_of(path)
            theirs.get_submodule(path).weight.copy_(base.dequantize(torch.float32))
        reference = PeftModel.from_pretrained(theirs, tmp_path / "adapter")
        assert largest_difference(packed_logits(model.eval(), texts), their_logits(reference, texts)) < 1e-4


@every_family
def test_rows_under_different_adapters_are_computed_as_under_each_alone(variant: str, tmp_path: Path) -> None:
    """Updates of linear layers, and norms that are saved whole."""
    theirs = theirs_of(variant)
    model = ours(theirs, tmp_path / "base")
    norm = model.spec.qk_norm_names[0] if model.spec.qk_norm is not QkNorm.NONE else model.spec.norm_placement.norms[0]
    saved_too = () if norm == "q_layernorm" else (norm,)
    for number, name in enumerate(("one", "other")):
        one = ours(theirs, tmp_path / "base")
        adapter = inject(one, LoraSpec(rank=4, alpha=6.0, modules_to_save=saved_too))
        for tensor in adapter.parameters():
            generator = torch.Generator().manual_seed(number + tensor.numel())
            tensor.data.add_(0.1 * torch.randn(tensor.shape, generator=generator))
        (tmp_path / name).mkdir()
        save_adapter(tmp_path / name, adapter, base=str(tmp_path / "base"))
    adapters = AdapterSet(model)
    for name in ("one", "other"):
        adapters.load(name, tmp_path / name)
    names, texts = ("one", "other", None), documents([13, 20, 9])
    with torch.no_grad():
        with adapters.by_row(names) as rows:
            rows.lay(range(3), [13, 20, 9])
            together = packed_logits(model, texts).split([13, 20, 9])
        for name, text, logits in zip(names, texts, together, strict=True):
            adapters.use(name)
            assert largest_difference(logits, packed_logits(model, [text])) < 1e-4
    assert largest_difference(together[0], packed_logits(model, texts)[:13]) > 1e-3


# ------------------------------------------------------------------------------------- lengths, rounding, the plan


@pytest.mark.parametrize("variant", ["phi3 longrope", "phi4 mini", "gemma2", "cohere", "granite", "smollm3 window"])
def test_generation_continues_as_the_whole_text_says(variant: str, tmp_path: Path) -> None:
    """LongRoPE's rows cross the trained context of 32 tokens on their way."""
    model = ours(theirs_of(variant), tmp_path)
    prompts = documents([28, 3, 31, 32, 40])
    made = generate(model, prompts, sampling=Sampling(max_new_tokens=9), stop_ids=frozenset())
    for prompt, new in zip(prompts, made, strict=True):
        text = list(prompt)
        for token in new:
            with torch.no_grad():
                assert int(packed_logits(model, [text])[-1].argmax()) == token
            text.append(token)


@pytest.mark.parametrize("variant", ["gemma2", "gemma3", "olmo2", "cohere", "stablelm", "granite", "qwen3"])
def test_bfloat16_is_as_close_to_float32_as_transformers_is(variant: str, tmp_path: Path) -> None:
    theirs = theirs_of(variant)
    narrow, model = ours(theirs, tmp_path, dtype=torch.bfloat16), ours(theirs, tmp_path)
    texts = documents([40, 17])
    with torch.no_grad():
        exact = packed_logits(model, texts)
        mine = packed_logits(narrow, texts).float() - exact
        other = their_logits(theirs.bfloat16(), texts).float() - exact
    assert float(mine.square().mean().sqrt()) < 1.15 * float(other.square().mean().sqrt())


@every_family
@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_the_plan_counts_what_is_kept(
    variant: str, method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and trained tensors to the element, activations at least; and not half as much again."""
    form = WeightForm.FROZEN if method is Method.LORA else WeightForm.TRAINABLE
    model = ours(theirs_of(variant), tmp_path, form=form)
    lora = LoraSpec(rank=4, alpha=8.0)
    trained = list(model.parameters()) if method is Method.FULL else list(inject(model, lora).parameters())
    texts = documents([40, 33])
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    with saved_for_backward(monkeypatch) as found:
        mean_loss(model, texts)
    really = sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in own)
    setup = Setup(spec=model.spec, method=method, dtype=torch.float32, lora=lora)
    counted = kept_activations(setup, BatchShape(tokens=73, longest=40, supervised=71), recompute=False)
    assert really <= counted < 1.5 * really
    names = {id(parameter) for parameter in trained}
    assert setup.trained_weights == sum(p.numel() for p in model.parameters() if id(p) in names)
    assert setup.linear_weights + setup.other_weights == sum(
        math.prod(s) for s in expected_tensors(model.spec).values()
    )


def test_the_documented_function_is_the_family() -> None:
    page = (Path(__file__).parents[2] / "docs" / "adding-a-model.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(def mistral.*?)```", page, re.S)
    names = {**vars(fields), **vars(shape)}
    exec(compile(f"from __future__ import annotations\n{code}", "adding-a-model.md", "exec"), names)
    for variant, (model_type, changes) in FAMILIES.items():
        if model_type == "mistral":
            config = {**SHAPES, **changes, "model_type": "mistral"}
            assert names["mistral"](with_sizes(config)) == spec_from_hf(config), variant
    assert f'"mistral": {FAMILIES["mistral"]},'.replace("'", '"') in page
