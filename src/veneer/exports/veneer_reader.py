"""veneer as a reader of a certificate: the live adapter, and the export as our loader reads it.

Everything is computed in float32, whatever the adapter was trained in and the export is written in. Computing in
bfloat16 rounds every activation, by more than a bfloat16 weight is rounded: two ways to the same model would differ by
a tenth of a nat, and a damaged tensor could hide in that. In float32 only the export's own rounding is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import torch
from torch import Tensor

from veneer.adapters.files.store import read_tokenizer
from veneer.adapters.load import load_adapter
from veneer.assistant.assistant import Assistant, make_assistant
from veneer.backends.load import load_language_model
from veneer.data.encoded.chat import template_of
from veneer.enums import Backend
from veneer.exports.base import MergeBase, TrainingBase
from veneer.exports.certificate import LISTED, Answer, ReaderOutput, TokenDistribution
from veneer.exports.prompts import Prompt, Prompts
from veneer.generation.batch import generate
from veneer.generation.sampling import Sampling
from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.io.tokenizer import Tokenizer
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.model.language import LanguageModel

CHUNK = 256
"""The number of tokens that are written into one text."""


@dataclass(frozen=True, slots=True)
class ReaderInput:
    """The questions for a reader."""

    prompts: Prompts
    texts: tuple[str, ...]
    """The texts whose token ids are compared: those of `prompts`, and the reference's renderings."""
    answers: tuple[Answer, ...]
    """The reference's."""
    stop_ids: frozenset[int]
    """The tokens that end the reference's answers."""
    renderings: tuple[str | None, ...]
    """The reference's texts of the conversations; None if there is nothing to render."""


def live(
    checkpoint: Checkpoint,
    adapter: Path,
    base: MergeBase,
    trained: TrainingBase,
    device: torch.device,
    backend: Backend = Backend.AUTO,
) -> Assistant:
    """The adapter on its base in float32.

    Args:
        checkpoint: the base.
        adapter: the folder of the adapter.
        base: the weights under the adapter. For a quantised base these are the codes of its training, made from the
            weights in the dtype of that time.
        trained: how the base was held in training.
        device: the device that computes.
        backend: the backend that computes the model.
    """
    quantised = base is MergeBase.DEQUANTISED and not checkpoint.stored
    model = load_language_model(
        checkpoint,
        backend,
        Loading(
            form=WeightForm.QUANTIZED if quantised else WeightForm.FROZEN,
            dtype=torch.float32,
            device=device,
            quant=trained.quant,
            quantised_from=trained.dtype,
        ),
    )
    model.requires_grad_(False).eval()
    plain = checkpoint.tokenizer()
    return make_assistant(model, checkpoint, load_adapter(model, adapter), read_tokenizer(adapter, plain))


def folder(path: Path, device: torch.device, backend: Backend = Backend.AUTO) -> Assistant:
    """A model's directory or file as stored, computed in float32."""
    checkpoint = open_checkpoint(path)
    model = load_language_model(
        checkpoint, backend, Loading(form=WeightForm.FROZEN, dtype=torch.float32, device=device)
    )
    model.requires_grad_(False).eval()
    return make_assistant(model, checkpoint, None)


def reference(
    assistant: Assistant, prompts: Prompts, *, opened: bool = False, composed: bool = False
) -> tuple[ReaderOutput, ReaderInput]:
    """The reference's answers, and the questions for the readers after it.

    Args:
        assistant: the reference.
        prompts: the prompts.
        opened: whether texts follow the tokenizer's `opening`.
        composed: whether the characters of texts are composed (NFC).
    """
    chosen = generate(
        assistant.model,
        [prompt.tokens for prompt in prompts.prompts],
        sampling=Sampling(max_new_tokens=prompts.new_tokens),
        stop_ids=assistant.stop_ids,
    )
    renderings = rendered(assistant.tokenizer, prompts.prompts)
    written = dict.fromkeys(one for one in renderings if one is not None)
    opening = assistant.tokenizer.opening if opened else ""
    plain = (*prompts.texts, *vocabulary_texts(assistant.tokenizer))
    texts = (*(opening + text for text in plain), *written)
    if composed:
        texts = tuple(normalize("NFC", text) for text in texts)
    answers = tuple(
        Answer(tuple(tokens), assistant.tokenizer.decode(tokens), _steps(assistant.model, prompt, tokens))
        for prompt, tokens in zip(prompts.prompts, chosen, strict=True)
    )
    live = ReaderOutput(
        "live adapter",
        renderings,
        ids_of(assistant.tokenizer, texts),
        answers,
        vocabulary(assistant.tokenizer),
        assistant.stop_ids,
    )
    return live, ReaderInput(prompts, texts, answers, assistant.stop_ids, renderings)


def own(
    assistant: Assistant,
    asked: ReaderInput,
    name: str = "veneer",
    *,
    before_head: Callable[[Tensor], Tensor] = lambda hidden: hidden,
) -> ReaderOutput:
    """veneer's results for a model, along the reference's answers.

    Args:
        assistant: the model.
        asked: the questions.
        name: the model's name in the certificate.
        before_head: changes the hidden states `[positions, dim]` that the head multiplies.
    """
    answers = tuple(
        led(_steps(assistant.model, prompt, answer.tokens, before_head), asked, assistant.stop_ids, assistant.tokenizer)
        for prompt, answer in zip(asked.prompts.prompts, asked.answers, strict=True)
    )
    renderings = rendered(assistant.tokenizer, asked.prompts.prompts)
    ids = ids_of(assistant.tokenizer, asked.texts)
    return ReaderOutput(name, renderings, ids, answers, vocabulary(assistant.tokenizer), assistant.stop_ids)


def rendered(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> tuple[str | None, ...]:
    """Every prompt's conversation as the template writes it."""
    template = template_of(tokenizer)
    return tuple(
        None
        if template is None or prompt.messages is None
        else template.render(prompt.messages, add_generation_prompt=True, tools=prompt.tools)
        for prompt in prompts
    )


def ids_of(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Token ids of texts, control tokens read as such."""
    return tuple(tuple(tokenizer.encode(text)) for text in texts)


def composes(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer composes characters first (NFC)."""
    return tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


def vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """Every token that a model may have a row for, with its id."""
    tokens = tokenizer.backend.get_vocab(with_added_tokens=True)
    return {token: index for token, index in tokens.items() if index < tokenizer.rows}


def vocabulary_texts(tokenizer: Tokenizer) -> list[str]:
    """The vocabulary's printable ASCII tokens as texts, so that every merge among them is used once.

    `vocabulary` compares the others: programs cut rare characters by different versions of Unicode.
    """
    special = {tokenizer.backend.token_to_id(token) for token in tokenizer.special_tokens}
    spelled = (tokenizer.decode([token]) for token in range(tokenizer.vocab_size) if token not in special)
    plain = [text for text in spelled if text.isascii() and text.isprintable() and text.strip()]
    return ["\n".join(plain[start : start + CHUNK]) for start in range(0, len(plain), CHUNK)]


@torch.no_grad()
def _steps(
    model: LanguageModel,
    prompt: Prompt,
    along: Sequence[int],
    before_head: Callable[[Tensor], Tensor] = lambda hidden: hidden,
) -> tuple[TokenDistribution, ...]:
    """The distributions after a prompt and after every token of an answer that follows it."""
    tokens = torch.tensor([*prompt.tokens, *along], device=model.device)
    positions = torch.arange(len(tokens), device=model.device)
    hidden = model.documents(tokens, positions, [len(tokens)])
    return tuple(steps_of(model.logits(before_head(hidden[len(prompt.tokens) - 1 :]))))


def led(
    steps: Sequence[TokenDistribution], asked: ReaderInput, stop_ids: frozenset[int], tokenizer: Tokenizer
) -> Answer:
    """The answer of a reader that was led along the reference's: its own choice at every token, up to one that ends
    it."""
    chosen = [step.ids[0] for step in steps[: asked.prompts.new_tokens]]
    ended = next((at for at, token in enumerate(chosen) if token in stop_ids), len(chosen))
    return Answer(tuple(chosen[:ended]), tokenizer.decode(chosen[:ended]), tuple(steps))


def steps_of(logits: Tensor) -> list[TokenDistribution]:
    """The listed part of every row's distribution, from logits `[rows, vocab]`."""
    logprobs = logits.double().log_softmax(-1)
    values, ids = logprobs.topk(min(LISTED, logits.shape[-1]), dim=-1)
    return [
        TokenDistribution(tuple(row_ids), tuple(row))
        for row, row_ids in zip(values.tolist(), ids.tolist(), strict=True)
    ]
