"""`veneer.generate` and `veneer.chat`: open a model and ask it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import overload

from veneer.arguments import check_types
from veneer.assistant.conversation import Conversation
from veneer.assistant.load import open_assistant
from veneer.assistant.prompts import read_prompts
from veneer.config import ComputeSection
from veneer.data.forms.turns import Message
from veneer.enums import Method
from veneer.events import Subscriber
from veneer.generation.sampling import Sampling


# For a type checker a str is a sequence of str; the first overload that fits counts.
@overload
def generate(  # type: ignore[overload-overlap]
    model: str | Path,
    prompts: str,
    *,
    adapter: str | Path | None = ...,
    system: str | None = ...,
    sampling: Sampling | None = ...,
    method: Method | str | None = ...,
    compute: ComputeSection | None = ...,
    on_text: Callable[[str], None] = ...,
    subscribers: Sequence[Subscriber] = ...,
) -> str: ...


@overload
def generate(
    model: str | Path,
    prompts: Iterable[str | Sequence[Message]],
    *,
    adapter: str | Path | None = ...,
    system: str | None = ...,
    sampling: Sampling | None = ...,
    method: Method | str | None = ...,
    compute: ComputeSection | None = ...,
    on_text: Callable[[str], None] = ...,
    subscribers: Sequence[Subscriber] = ...,
) -> list[str]: ...


def generate(
    model: str | Path,
    prompts: str | Iterable[str | Sequence[Message]],
    *,
    adapter: str | Path | None = None,
    system: str | None = None,
    sampling: Sampling | None = None,
    method: Method | str | None = None,
    compute: ComputeSection | None = None,
    on_text: Callable[[str], None] = lambda text: None,
    subscribers: Sequence[Subscriber] = (),
) -> str | list[str]:
    """Answer one prompt, or several that are decoded together.

    Args:
        model: directory, GGUF file or hub id.
        prompts: a question, or a list of questions and conversations. A conversation is a list of messages with role
            and content; the content is a string or a list of text parts.
        adapter: folder of an adapter.
        system: the system message of every question, and of conversations that have none.
        sampling: length of the answers and how tokens are chosen; by default 256 tokens, the likeliest of each.
        method: the form of the base in memory, a `Method` or its name; by default as the adapter was trained.
        compute: device and dtype.
        on_text: receives the pieces of the answer to a single question, as they come.
        subscribers: receive every event, which shows the progress of loading and answering.

    Returns:
        The answer, or the answers in the order of `prompts`.

    Raises:
        DataError: a prompt is empty or fills the model's context, a message has no role or no content, or the chat
            template refuses it.
        VeneerError: model or adapter cannot be used.

    >>> answers = veneer.generate(model, ["Hello", "What is 1 + 1?"], sampling=veneer.Sampling(max_new_tokens=4))
    >>> len(answers)
    2
    """
    check_types(generate, locals())
    conversations = read_prompts([prompts] if isinstance(prompts, str) else prompts, system)
    assistant = open_assistant(model, adapter=adapter, method=method, compute=compute, subscribers=subscribers)
    if isinstance(prompts, str):
        return assistant.stream(conversations[0], sampling or Sampling(), on_text, subscribers=subscribers)
    return assistant.answers(conversations, sampling or Sampling(), subscribers=subscribers)


def chat(
    model: str | Path,
    *,
    adapter: str | Path | None = None,
    system: str | None = None,
    sampling: Sampling | None = None,
    method: Method | str | None = None,
    compute: ComputeSection | None = None,
    subscribers: Sequence[Subscriber] = (),
) -> Conversation:
    """Open a conversation with a model, which remembers what was said.

    Args:
        model: directory, GGUF file or hub id.
        adapter: folder of an adapter.
        system: the system message.
        sampling: length of the answers and how tokens are chosen; by default 512 tokens, the likeliest of each.
        method: the form of the base in memory, a `Method` or its name; by default as the adapter was trained.
        compute: device and dtype.
        subscribers: receive every event, which shows the progress of loading.

    Raises:
        VeneerError: model or adapter cannot be used.

    >>> talk = veneer.chat(model, system="Be brief.", sampling=veneer.Sampling(max_new_tokens=4))
    >>> answer = talk.say("Hello")
    >>> [message["role"] for message in talk.messages]
    ['system', 'user', 'assistant']
    """
    check_types(chat, locals())
    assistant = open_assistant(model, adapter=adapter, method=method, compute=compute, subscribers=subscribers)
    return Conversation(assistant, system, sampling or Sampling(max_new_tokens=512))
