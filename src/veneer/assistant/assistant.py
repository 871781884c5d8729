"""A model ready to answer: weights, tokenizer, template, and an adapter if there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veneer.adapters.adapter import Adapter
from veneer.assistant.memory import enough_memory
from veneer.assistant.request import AssistantRequest
from veneer.data.encoded.chat import Encoder, stop_tokens
from veneer.data.encoded.encoding import encoder_of
from veneer.data.forms.turns import Message
from veneer.events import Level, Note, Stage, Subscriber, broadcast
from veneer.generation.batch import OnProgress, OnToken, generate
from veneer.generation.context import cut_warning, is_cut, refuse_full
from veneer.generation.sampling import Sampling
from veneer.generation.share import WHOLE_SHARE, Share
from veneer.generation.text import TextStream, TokensBehind
from veneer.io.checkpoint import Checkpoint
from veneer.io.tokenizer import Tokenizer
from veneer.loading.base_form import AS_IN_FILES, BaseForm
from veneer.loading.expected import check_vocabulary
from veneer.model.language import LanguageModel

LESS_TEXT = "Fewer prompts at a time, shorter ones, and shorter answers (--max-new-tokens) need less too."


@dataclass(slots=True)
class Assistant:
    """The model behind `evaluate`, `generate` and `chat`."""

    model: LanguageModel
    tokenizer: Tokenizer
    encoder: Encoder
    stop_ids: frozenset[int]
    adapter: Adapter | None = None
    warnings: tuple[str, ...] = ()
    """A warning that its answers may be wrong, because the adapter was trained with another base model."""
    files: tuple[Path, ...] = ()
    """The files of the base, for their digests."""
    generation_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Content of the base's generation_config.json."""
    form: BaseForm = AS_IN_FILES
    """How the base's linear layers are held."""
    stored: bool = False
    """Whether the base's files hold quantised weights, which every method then keeps quantised."""

    request: AssistantRequest | None = None
    """The request that loaded it; None if it was made from loaded parts."""
    share: Share = WHOLE_SHARE
    """The share of rows and prompts that this process computes; all of them, if it is alone."""

    def holds(self, form: BaseForm) -> bool:
        """Whether the base is held in the form that a run recorded; quantised files always are."""
        return self.stored or self.form.text == form.text

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Within the block, the model is its base without the adapter, if there is one. Blocks may be nested."""
        with self.adapter.disabled() if self.adapter is not None else nullcontext():
            yield

    def answers(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        *,
        subscribers: Sequence[Subscriber] = (),
    ) -> list[str]:
        """The assistant's next turn in every conversation, decoded together; each has a random stream of its own.

        Raises:
            DataError: a conversation fills the model's context, or the chat template refuses it.
        """
        every = [self.encoder.prompt_tokens(messages) for messages in conversations]
        named = ((f"prompt {number}", len(one)) for number, one in enumerate(every, 1))
        refuse_full(named, self.model.spec.max_positions)
        own, emit = self.share.own(len(every)), broadcast(subscribers)
        with Stage(emit, "answering", total=len(own), unit="prompts") as stage:
            outputs = self._continued(
                [every[number] for number in own], own, sampling, emit, on_progress=stage.advance_side_by_side
            )
        return self.share.all([self.text_of(tokens) for tokens in outputs], len(every), lambda number: "")

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of an answer. Thoughts that the template writes as messages of their own are left out (gpt-oss), if
        words follow them."""
        behind = TokensBehind(self.encoder.lead)
        return self.tokenizer.decode([one for token in tokens for one in behind.push(token)] + behind.finish())

    def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        on_text: Callable[[str], None],
        *,
        subscribers: Sequence[Subscriber] = (),
    ) -> str:
        """The assistant's next turn; `on_text` gets it piece by piece.

        Raises:
            DataError: the conversation fills the model's context, or the chat template refuses it.
        """
        pieces = TextStream(self.tokenizer, on_text)
        prompt = self.encoder.prompt_tokens(messages)

        behind = TokensBehind(self.encoder.lead)

        def push(row: int, token: int) -> None:
            for one in behind.push(token):
                pieces.push(one)

        refuse_full([("the prompt, with all that was said", len(prompt))], self.model.spec.max_positions)
        self._continued([prompt], [0], sampling, broadcast(subscribers), on_token=push, named=False)
        for token in behind.finish():
            pieces.push(token)
        pieces.finish()
        return pieces.text

    def _continued(
        self,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[int],
        sampling: Sampling,
        emit: Subscriber,
        *,
        on_token: OnToken = lambda row, token: None,
        on_progress: OnProgress = lambda ended, under_way, made: None,
        named: bool = True,
    ) -> list[list[int]]:
        """The tokens that continue each prompt, at most to the end of the model's context. `streams` are the numbers of
        the prompts among all, the first of which is 0. A warning names prompts by these if they are `named`, and not
        where there is only one."""
        context, stop = self.model.spec.max_positions, self.stop_ids
        with enough_memory(self.request, "answering", LESS_TEXT):
            outputs = generate(
                self.model, prompts, sampling=sampling, stop_ids=stop, context=context, on_token=on_token,
                on_progress=on_progress, streams=streams,
            )  # fmt: skip
        cut = [
            f"prompt {number + 1}"
            for number, prompt, answer in zip(streams, prompts, outputs, strict=True)
            if is_cut(sampling, len(prompt), len(answer), context)
        ]
        if cut:
            emit(Note(message=cut_warning(cut if named else (), context), level=Level.WARNING))
        return outputs


def make_assistant(
    model: LanguageModel,
    checkpoint: Checkpoint,
    adapter: Adapter | None,
    tokenizer: Tokenizer | None = None,
    *,
    warnings: Sequence[str] = (),
    form: BaseForm = AS_IN_FILES,
    stored: bool = False,
    request: AssistantRequest | None = None,
    share: Share = WHOLE_SHARE,
) -> Assistant:
    """Put a model in memory together with the tokenizer and template of the files that it came from, or of another. The
    other arguments are fields of `Assistant`."""
    tokenizer = tokenizer or checkpoint.tokenizer()
    check_vocabulary(tokenizer, model.spec.vocab_size, checkpoint.source)
    encoder = encoder_of(tokenizer)
    return Assistant(
        model=model,
        tokenizer=tokenizer,
        encoder=encoder,
        stop_ids=stop_tokens(tokenizer, checkpoint.generation_config, encoder),
        adapter=adapter,
        warnings=tuple(warnings),
        files=tuple(checkpoint.files()),
        generation_config=checkpoint.generation_config,
        form=form,
        stored=stored,
        request=request,
        share=share,
    )
