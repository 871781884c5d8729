"""A decoding step in one call computes what the modules compute for the whole text, whatever rows are beside it."""

from __future__ import annotations

import ctypes
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.models.family_variants import FAMILIES
from helpers.models.tiny_models import documents, largest_difference, ours, packed_logits, tiny, tiny_llama
from veneer.adapters.inject import inject
from veneer.adapters.spec import LoraSpec
from veneer.config import QuantSection
from veneer.enums import Bias, Scheme, Variant
from veneer.generation.batch import generate
from veneer.generation.sampling import Sampling
from veneer.io.checkpoint import open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model.compiled_step import RowsOfStep, layer_groups
from veneer.model.decoder import CausalLM
from veneer.native.library import kernels
from veneer.native.program import CacheBlocks

pytestmark = pytest.mark.skipif(kernels() is None, reason="no compiled kernels")
LENGTHS, STEPS, BLOCK = [1, 17, 4, 16, 9], 12, 8


def compiled(model: CausalLM) -> bool:
    return model.compiled_step(3) is not None


def steps_of_modules(model: CausalLM, texts: list[list[int]], lengths: list[int]) -> Tensor:
    """`steps_of` where the library does not know the model."""
    decoding = model.decoding(len(texts), max(map(len, texts)))
    prompts = [text[:length] for text, length in zip(texts, lengths, strict=True)]
    with torch.no_grad():
        found = [decoding.prefill(torch.tensor([token for prompt in prompts for token in prompt]), lengths).clone()]
        for made in range(STEPS):
            new = torch.tensor([text[length + made] for text, length in zip(texts, lengths, strict=True)])
            found.append(decoding.step(new).clone())
    return torch.stack(found)


def steps_of(model: CausalLM, texts: list[list[int]], lengths: list[int]) -> Tensor:
    """Logits of every step behind prompts of these lengths, `[steps, rows, vocab_size]`."""
    step = model.compiled_step(sum(lengths) + len(texts))
    if step is None:
        return steps_of_modules(model, texts, lengths)
    room = -(-max(map(len, texts)) // BLOCK)
    shapes = [group.block_shape(model.spec, BLOCK) for group in layer_groups(model.spec)]
    cache = [[torch.empty(shape, dtype=model.dtype) for _ in range(room * len(texts))] for shape in shapes]

    prompts = [(0, length) for length in lengths]

    def run(parts: list[tuple[int, int]]) -> Tensor:
        """The logits of the last token of each text's part [start, stop)."""
        tables = []
        for group in cache:
            own = [[block.data_ptr() for block in group[row * room : (row + 1) * room]] for row in range(len(texts))]
            arrays = [(ctypes.c_void_p * room)(*addresses) for addresses in own]
            tables.append([arrays[row] for row, (start, stop) in enumerate(parts) for _ in range(start, stop)])
        spans = [range(start, stop) for start, stop in parts]
        return step.run(
            RowsOfStep(
                tokens=[int(text[place]) for text, span in zip(texts, spans, strict=True) for place in span],
                positions=[place for span in spans for place in span],
                lengths=[stop for span, (_, stop) in zip(spans, parts, strict=True) for _ in span],
                blocks=CacheBlocks(dtype=model.dtype, block_tokens=BLOCK, addresses=tables),
                segments=(),
                wanted=[end - 1 for end in itertools.accumulate(map(len, spans))],
                first_prompt=0 if parts == prompts else len(texts),
            )
        )

    found = [run(prompts)]
    found += [run([(length + made, length + made + 1) for length in lengths]) for made in range(STEPS)]
    return torch.stack(found)


def check_against_the_whole_text(model: CausalLM, exact: CausalLM, tolerance: float) -> None:
    texts = documents([length + STEPS for length in LENGTHS], vocab=model.spec.vocab_size)
    found = steps_of(model, texts, LENGTHS)
    with torch.no_grad():
        for row, (text, length) in enumerate(zip(texts, LENGTHS, strict=True)):
            whole = packed_logits(exact, [text])[length - 1 :]
            assert largest_difference(found[:, row], whole) < tolerance


@pytest.mark.parametrize("variant", FAMILIES)
def test_every_family_steps_as_its_whole_text_says(variant: str, tmp_path: Path) -> None:
    model_type, changes = FAMILIES[variant]
    model = ours(tiny(model_type, seed=3, changes=changes), tmp_path)
    if model.spec.by_length:
        pytest.skip("LongRoPE's steps that outgrow the context are tested in test_families")
    assert compiled(model) == (model.spec.mixture is None)
    check_against_the_whole_text(model, model, 1e-4)


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", Variant)
def test_quantised_bases_with_adapters(scheme: Scheme, dtype: torch.dtype, variant: Variant, tmp_path: Path) -> None:
    tiny_llama(seed=5).save_pretrained(tmp_path)
    settings = {"form": WeightForm.QUANTIZED, "quant": QuantSection(scheme=scheme)}
    models = [load_model(open_checkpoint(tmp_path), Loading(dtype=one, **settings)) for one in (dtype, torch.float32)]
    for model in models:
        adapter = inject(model, LoraSpec(rank=4, alpha=8, variant=variant), seed=1)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        model.eval()
    assert compiled(models[0])
    if dtype == torch.float32:
        check_against_the_whole_text(models[0], models[1], 1e-4)
        return
    # Keys, values and the prompts are bfloat16: no further from float32 than the whole text in bfloat16 is.
    texts = documents([length + STEPS for length in LENGTHS])
    stepped = steps_of(models[0], texts, LENGTHS)
    with torch.no_grad():
        narrow, exact = (
            torch.stack([packed_logits(m, [t])[n - 1 :].float() for t, n in zip(texts, LENGTHS, strict=True)], 1)
            for m in models
        )
    errors = [float((found - exact).square().mean()) for found in (stepped, narrow)]
    assert errors[0] < 1.1 * errors[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_the_same_to_the_bit_alone_and_beside_others(dtype: torch.dtype, tmp_path: Path) -> None:
    model = ours(tiny_llama(seed=6), tmp_path, dtype=dtype)
    lengths = [20 + number % 5 for number in range(19)]
    texts = documents([length + STEPS for length in lengths])
    together = steps_of(model, texts, lengths)
    for row in (0, 7, 18):
        alone = steps_of(model, [texts[row]], [lengths[row]])
        assert torch.equal(alone[:, 0], together[:, row])


def test_answers_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    model = ours(tiny_llama(seed=7), tmp_path, dtype=torch.bfloat16)
    prompts = documents([18, 33, 20, 17, 41, 29, 16])
    settings = Sampling(max_new_tokens=25)
    whole = generate(model, prompts, sampling=settings, stop_ids=frozenset())
    for rows in (1, 2, 5):
        assert generate(model, prompts, sampling=settings, stop_ids=frozenset(), batch_rows=rows) == whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_a_step_is_the_same_to_the_bit_on_several_threads_and_elsewhere_in_the_program(
    threads: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """More threads than processors wait for each other too; a second thread's team is beside the first one's. Some 240
    tokens of prompts are enough for two or three threads to have rows of their own."""
    model = ours(tiny_llama(seed=6), tmp_path, dtype=dtype)
    lengths = [20 + number % 5 for number in range(11)]
    texts = documents([length + STEPS for length in lengths])
    alone = steps_of(model, texts, lengths)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        here = steps_of(model, texts, lengths)
        with ThreadPoolExecutor(1) as pool:
            elsewhere = pool.submit(steps_of, model, texts, lengths).result()
    finally:
        torch.set_num_threads(before)
    assert torch.equal(here, alone)
    assert torch.equal(elsewhere, alone)


@pytest.mark.parametrize("changes", [{"target_modules": (end, "q_proj")} for end in ("lm_head", "embed_tokens")])
def test_what_the_library_does_not_know_goes_through_the_modules(changes: dict[str, object], tmp_path: Path) -> None:
    model = ours(tiny_llama(seed=8, changes={"tie_word_embeddings": False}), tmp_path)
    inject(model, LoraSpec(rank=4, alpha=8, **changes), seed=1)  # type: ignore[arg-type]
    model.eval()
    check_against_the_whole_text(model, model, 1e-4)


@pytest.mark.parametrize("variant", Variant)
def test_biases_that_are_trained(variant: Variant, tmp_path: Path) -> None:
    model = ours(tiny("qwen2", seed=9), tmp_path)
    adapter = inject(model, LoraSpec(rank=4, alpha=8, bias=Bias.ALL, variant=variant), seed=1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.eval()
    assert compiled(model)
    check_against_the_whole_text(model, model, 1e-4)
