"""A model ready to answer: weights, tokenizer, template, and an adapter if there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from traceback import clear_frames
from typing import Any, Protocol

from veneer.adapters.adapter import Adapter
from veneer.adapters.load import load_adapter
from veneer.adapters.origin import BaseCheck
from veneer.adapters.store import config_warnings, read_config, read_tokenizer
from veneer.arguments import check_type, check_types
from veneer.backends.describe import describe_model
from veneer.backends.load import load_language_model
from veneer.config import ComputeSection, QuantSection, RunConfig
from veneer.data.chat import Encoder, start_template, stop_tokens, template_of
from veneer.data.turns import Message, message_problem
from veneer.enums import Backend, Method, choice
from veneer.errors import DataError, OutOfMemory, listing
from veneer.events import Level, Note, Stage, Subscriber, broadcast
from veneer.generation.batch import OnProgress, OnToken, generate
from veneer.generation.context import cut_warning, is_cut, refuse_full
from veneer.generation.sampling import Sampling
from veneer.generation.share import WHOLE, Share
from veneer.generation.text import TextStream
from veneer.hardware import resolve_device, resolve_dtype
from veneer.io.checkpoint import Checkpoint, open_checkpoint, read_model_config
from veneer.io.tokenizer import Tokenizer
from veneer.loading.base_form import BaseForm, form_of
from veneer.loading.ends import end_notes
from veneer.loading.expected import check_vocabulary
from veneer.loading.forms import TableForm, WeightForm
from veneer.loading.unread import unread_notes
from veneer.model.decoder import CausalLM
from veneer.model.language import LanguageModel
from veneer.out_of_memory import KINDS, is_out_of_memory, message_of
from veneer.planning.weights import Held
from veneer.run_folder import recorded_run

LESS_TEXT = "Fewer prompts at a time, shorter ones, and shorter answers (--max-new-tokens) take less too."


@dataclass(frozen=True, kw_only=True, slots=True)
class AssistantRequest:
    """A model to evaluate or to talk to, as it is asked for."""

    model: str
    """A directory, a GGUF file or a hub id."""
    adapter: Path | None = None
    """The folder of an adapter, from veneer or PEFT."""
    method: Method | None = None
    """How the base is held; None takes what the adapter's run recorded, else LORA."""
    compute: ComputeSection = field(default_factory=ComputeSection)
    """Device, dtype and products."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    backend: Backend | None = None
    """Who computes the model; None takes what the adapter's run recorded, else AUTO."""
    held_as: Path | None = None
    """Without `adapter`: the folder of an adapter whose run says how the base is held, and that is not put on it."""


@dataclass(slots=True)
class Assistant:
    """What `evaluate`, `generate` and `chat` talk to."""

    model: LanguageModel
    tokenizer: Tokenizer
    encoder: Encoder
    stop_ids: frozenset[int]
    adapter: Adapter | None = None
    warnings: tuple[str, ...] = ()
    """Why its answers may not be what they should be: the adapter is of another base model."""
    files: tuple[Path, ...] = ()
    """The files of the base, for their digests."""
    generation_config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Content of the base's generation_config.json."""
    form: BaseForm = field(default_factory=BaseForm)
    """How the base's linear layers are held."""
    stored: bool = False
    """Whether the base's files hold weights quantised, which are then held so under every method."""

    request: AssistantRequest | None = None
    """The request that loaded it; None where it was put together from loaded parts."""
    share: Share = WHOLE
    """What this process computes of rows and prompts; all of them, where it is alone."""

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Within the block the model is its base, as it is anyway where there is no adapter. Blocks may be nested."""
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
        self._refuse_full(every)
        own, emit = self.share.own(len(every)), broadcast(subscribers)
        with Stage(emit, "answering", total=len(own), unit="prompts") as stage:
            outputs = self._continued(
                [every[number] for number in own], own, sampling, emit, on_progress=stage.advance_side_by_side
            )
        return self.share.all([self.tokenizer.decode(tokens) for tokens in outputs], len(every), lambda number: "")

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

        def push(row: int, token: int) -> None:
            pieces.push(token)

        self._refuse_full([prompt])
        self._continued([prompt], [0], sampling, broadcast(subscribers), on_token=push)
        pieces.finish()
        return pieces.text

    def _refuse_full(self, prompts: Sequence[Sequence[int]]) -> None:
        """Refuse prompts that leave no room in the model's context for an answer."""
        named = ((f"prompt {number}", len(one)) for number, one in enumerate(prompts, 1))
        refuse_full(named, self.model.spec.max_positions)

    def _continued(
        self,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[int],
        sampling: Sampling,
        emit: Subscriber,
        *,
        on_token: OnToken = lambda row, token: None,
        on_progress: OnProgress = lambda ended, under_way, made: None,
    ) -> list[list[int]]:
        """The tokens that continue each prompt, at most to the end of the model's context. `streams` are the numbers of
        the prompts among all, the first of which is 0."""
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
            emit(Note(message=cut_warning(cut, context), level=Level.WARNING))
        return outputs


class Answering(Protocol):
    """Whatever gives the next turn of a conversation: a model here (`Assistant`) or on a server."""

    def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        on_text: Callable[[str], None],
        *,
        subscribers: Sequence[Subscriber] = (),
    ) -> str:
        """The assistant's next turn; `on_text` gets it piece by piece, and `subscribers` what is to be said of it."""
        ...


@dataclass(slots=True)
class Conversation:
    """A conversation with an assistant, which remembers what was said."""

    assistant: Answering
    system: str | None = None
    """The system message that it begins with."""
    sampling: Sampling = field(default_factory=Sampling)
    """Length of the answers, and how tokens are chosen."""
    messages: list[Message] = field(init=False)
    """What was said, the system message included."""

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what was said."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]

    def say(
        self,
        text: str,
        on_text: Callable[[str], None] = lambda text: None,
        *,
        subscribers: Sequence[Subscriber] = (),
    ) -> str:
        """Say something.

        Args:
            text: the user's message.
            on_text: called with the answer piece by piece, as it comes.
            subscribers: called with what is to be said of the answer: that the model's context has cut it.

        Returns:
            The answer.

        Raises:
            ConfigError: it is no text.
            DataError: it is empty, or the chat template refuses the message; it is not remembered.
        """
        check_type("text", text, str)
        if not text:
            raise DataError("there is nothing to answer, the message is empty; say something")
        asked: list[Message] = [*self.messages, {"role": "user", "content": text}]
        answer = self.assistant.stream(asked, self.sampling, on_text, subscribers=subscribers)
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        return answer


def open_assistant(
    model: str | Path,
    *,
    adapter: str | Path | None = None,
    method: Method | str | None = None,
    compute: ComputeSection | None = None,
    revision: str | None = None,
    backend: Backend | str | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> Assistant:
    """Load a model, and the adapter on it.

    Args:
        model: directory, GGUF file or hub id.
        adapter: folder of an adapter, from veneer or PEFT.
        method: how the base is held: QLORA quantised, else in the compute dtype. By default as the adapter was
            trained, where its run says so: an adapter fits the base that it was trained beside. Files that are
            quantised already are taken as they are.
        compute: device, dtype and products. Products are exact unless asked for here, however the adapter was
            trained: so does every other program compute that loads it.
        revision: of a hub id.
        backend: who computes the model; by default as in the adapter's run, else as AUTO.
        subscribers: called with every event: how far loading is.

    Raises:
        ModelError, AdapterError, ConfigError: whatever cannot be used.
        OutOfMemory: there is no memory for it.
    """
    check_types(open_assistant, locals())
    request = assistant_request(model, adapter, method, compute, revision=revision, backend=backend)
    return load_assistant(request, subscribers=subscribers)


def assistant_request(
    model: str | Path,
    adapter: str | Path | None,
    method: Method | str | None,
    compute: ComputeSection | None,
    *,
    revision: str | None = None,
    backend: Backend | str | None = None,
) -> AssistantRequest:
    """What a caller says of a model, as one value. Raises ConfigError for an unknown name."""
    return AssistantRequest(
        model=str(model),
        adapter=None if adapter is None else Path(adapter),
        method=None if method is None else choice(Method, method, "method"),
        compute=compute or ComputeSection(),
        revision=revision,
        backend=None if backend is None else choice(Backend, backend, "backend"),
    )


@contextmanager
def enough_memory(request: AssistantRequest | None, doing: str, beside: str = "") -> Iterator[None]:
    """Turn want of memory within the block into an error that says what the model takes by the plan, and what takes
    less.

    Args:
        request: the model, if it was asked for.
        doing: what the block does: "answering".
        beside: what else takes less memory, a sentence.

    Raises:
        OutOfMemory: there was no memory.
    """
    try:
        yield
    except KINDS as error:
        if not is_out_of_memory(error):
            raise
        clear_frames(error.__traceback__)  # they hold tensors
        message = message_of(doing, str(error))
    else:
        return
    said = (message, "" if request is None else _advice(request), beside)
    raise OutOfMemory(" ".join(part for part in said if part))


def _advice(request: AssistantRequest) -> str:
    run = recorded_run(request.adapter)
    base_run = recorded_run(request.held_as) if request.adapter is None else run
    try:
        config = read_model_config(request.model, revision=request.revision)
        held = Held(
            description=describe_model(config, _backend(request, run)),
            method=_method(request, base_run),
            dtype=resolve_dtype(request.compute.dtype, resolve_device(request.compute.device)),
            device=resolve_device(request.compute.device).type,
            quant=QuantSection() if base_run is None else base_run.quant,
        )
        return held.advice()
    except KINDS as error:
        if not is_out_of_memory(error):
            raise
        return "A smaller model takes less, or --method qlora."


def _method(request: AssistantRequest, run: RunConfig | None) -> Method:
    return request.method or (run.method if run else Method.LORA)


def _backend(request: AssistantRequest, run: RunConfig | None) -> Backend:
    return request.backend or (run.backend if run else Backend.AUTO)


def load_assistant(request: AssistantRequest, *, subscribers: Sequence[Subscriber] = ()) -> Assistant:
    """Carry out a request, as `open_assistant` says."""
    with enough_memory(request, f"loading {request.model}"):
        return replace(_loaded(request, broadcast(subscribers)), request=request)


def _loaded(request: AssistantRequest, emit: Subscriber) -> Assistant:
    adapter, compute = request.adapter, request.compute
    warnings = [] if adapter is None else config_warnings(adapter, *read_config(adapter))
    run = recorded_run(adapter)
    base_run = recorded_run(request.held_as) if adapter is None else run  # it says how the base is held
    device = resolve_device(compute.device)
    checkpoint = open_checkpoint(request.model, revision=request.revision)
    base = None if adapter is None else BaseCheck(adapter, request.model, checkpoint.files())
    tokenizer = checkpoint.tokenizer()
    own = tokenizer if adapter is None else read_tokenizer(adapter, tokenizer)
    start_template(own)
    dtype = resolve_dtype(compute.dtype, device)
    rounded = resolve_dtype(base_run.compute.dtype, device) if base_run else dtype
    method, quant = _method(request, base_run), base_run.quant if base_run else None
    stage = Stage(emit, f"loading {request.model}", total=len(checkpoint.names()), unit="tensors")
    with stage:
        loaded = load_language_model(
            checkpoint,
            backend=_backend(request, run),
            form=WeightForm.QUANTIZED if method is Method.QLORA else WeightForm.FROZEN,
            dtype=dtype,
            device=device,
            products=compute.products,
            tables=TableForm.STORED,
            quant=quant,
            quantised_from=rounded,
            progress=lambda name: stage.advance(item=name),
        )
    loaded.requires_grad_(False).eval()
    if isinstance(loaded, CausalLM):
        warnings += unread_notes(checkpoint, loaded.spec)
    warnings += end_notes(checkpoint, loaded.spec.vocab_size)
    put_on = None if adapter is None else load_adapter(loaded, adapter)
    other = None if base is None else base.problem()
    if other is not None:
        warnings.append(f"{other}\nGive the base model that the adapter was trained beside.")
    for warning in warnings:
        emit(Note(message=warning, level=Level.WARNING))
    stored = bool(checkpoint.stored)
    form = form_of(method, quant, rounded, stored=stored)
    made = make_assistant(loaded, checkpoint, put_on, own)
    return replace(made, warnings=tuple(warnings), form=form, stored=stored)


def make_assistant(
    model: LanguageModel, checkpoint: Checkpoint, adapter: Adapter | None, tokenizer: Tokenizer | None = None
) -> Assistant:
    """Put a model in memory together with the tokenizer and template of the files that it came from, or of another."""
    tokenizer = tokenizer or checkpoint.tokenizer()
    check_vocabulary(tokenizer, model.spec.vocab_size, checkpoint.source)
    encoder = Encoder(tokenizer, template_of(tokenizer))
    return Assistant(
        model=model,
        tokenizer=tokenizer,
        encoder=encoder,
        stop_ids=stop_tokens(tokenizer, checkpoint.generation_config, encoder),
        adapter=adapter,
        files=tuple(checkpoint.files()),
        generation_config=checkpoint.generation_config,
    )


def turns(system: str | None, prompt: str) -> list[Message]:
    """A conversation of one question, with a system turn if there is one."""
    first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": prompt}]


def check_prompts(prompts: Sequence[str | Sequence[Message]]) -> None:
    """Refuse questions and conversations that ask nothing, or that have messages which are none, before a model is
    opened.

    Raises:
        DataError: all of them are named.
    """
    empty = [f"prompt {number}" for number, one in enumerate(prompts) if not one or _asks_nothing(one)]
    if empty:
        raise DataError(f"there is nothing to answer, the prompts are empty:\n{listing(empty)}")
    problems = [
        f"prompt {number}, message {place}: {problem}"
        for number, one in enumerate(prompts)
        if not isinstance(one, str)
        for place, message in enumerate(one, start=1)
        if (problem := message_problem(message)) is not None
    ]
    if problems:
        raise DataError(f'a message is {{"role": "user", "content": "..."}}; these are none:\n{listing(problems)}')


def _asks_nothing(prompt: str | Sequence[Message]) -> bool:
    """Whether a conversation ends with an empty question."""
    last = {} if isinstance(prompt, str) else prompt[-1]
    return last.get("role") == "user" and last.get("content") == ""


def lines_of(path: Path) -> Iterator[str]:
    """Prompts of a text file, one a line; empty lines are passed over."""
    # utf-8-sig: a byte-order mark is no part of the first prompt. Not splitlines(), which splits on rarer characters.
    for line in path.read_text(encoding="utf-8-sig").split("\n"):
        if line.strip():
            yield line
