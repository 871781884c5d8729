"""The bytes between veneer and the process in which a chat template runs.

In both directions they are frames: a length of eight bytes, followed by that many bytes. The content depends on the
writer:

- A request goes from veneer to its own child, which can trust it. It is in Python's `marshal` format, which takes a
  tenth of JSON's time. A conversation whose values are all text is sent directly. Any other is sent as JSON, so that a
  template sees only values that JSON has: values that only Parquet has (dates) become text.
- An answer comes from a process that ran an untrusted program. It is one line of JSON, followed by the rendered texts
  one after the other in UTF-8, with the lengths in that line. So it can only become numbers and text.
"""

from __future__ import annotations

import json
import marshal
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from veneer.data.templates.escape import GuardedChat
from veneer.data.templates.turn_shape import Span

FRAME_LENGTH = struct.Struct("<Q")
"""The length at the beginning of a frame."""
FIND = "find"
"""The request that contains any number of conversations."""

Conversation = tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]] | None, Sequence[int]]
"""Messages, tools, and the indices of the turns that are not trained."""

_VERSION = 2  # of marshal: the last version without references, which take time and are not needed here
_PLAIN = {str}
_REQUESTS = json.JSONEncoder(ensure_ascii=False, default=str)
_ANSWERS = json.JSONEncoder(ensure_ascii=False)


def frame(body: bytes) -> bytes:
    """The bytes of a frame."""
    return FRAME_LENGTH.pack(len(body)) + body


def request(verb: str, *arguments: Any) -> bytes:
    """The frame of a request."""
    return frame(marshal.dumps((verb, _json(_REQUESTS, arguments)), _VERSION))


def find_request(chats: Iterable[tuple[GuardedChat, Sequence[int]]]) -> bytes:
    """The frame of a request to find the trained spans of conversations, each with the turns that are not trained."""
    return frame(marshal.dumps((FIND, [_packed(chat, untrained) for chat, untrained in chats]), _VERSION))


def read_request(body: bytes) -> tuple[str, Any]:
    """The verb of a request with its content: the arguments, or packed conversations for `FIND`."""
    verb, asked = marshal.loads(body)
    return verb, asked if verb == FIND else json.loads(asked)


def unpacked(packed: bytes | Conversation) -> tuple[Conversation, int]:
    """A conversation of a request, and its approximate number of characters."""
    if isinstance(packed, bytes):
        return json.loads(packed), len(packed)
    return packed, sum(sum(map(len, message.values())) for message in packed[0])


def answer(values: Mapping[str, Any]) -> bytes:
    """The frame of an answer that is one object."""
    return frame(_json(_ANSWERS, values) + b"\n")


def find_answer(found: Iterable[tuple[str, Sequence[Span]] | str]) -> bytes:
    """The frame of the answer to a `FIND`: for each conversation its text and spans, or the error as text."""
    heads: list[list[int] | str] = []
    texts: list[bytes] = []
    for one in found:
        if isinstance(one, str):
            heads.append(one)
        else:
            texts.append(one[0].encode("utf-8", errors="surrogatepass"))
            heads.append([len(texts[-1]), *(position for span in one[1] for position in span)])
    return frame(b"".join((_json(_ANSWERS, heads), b"\n", *texts)))


def read_answer(body: bytes) -> dict[str, Any] | list[tuple[str, list[Span]] | str]:
    """The content of an answer: an object, or the results for the conversations of a `FIND`, with errors as text."""
    at = body.index(b"\n") + 1
    said = json.loads(body[:at].decode("utf-8", errors="surrogatepass"))
    if isinstance(said, dict):
        return said
    found: list[tuple[str, list[Span]] | str] = []
    for head in said:
        if isinstance(head, str):
            found.append(head)
        else:
            end = at + head[0]
            text = body[at:end].decode("utf-8", errors="surrogatepass")
            found.append((text, list(zip(head[1::2], head[2::2], strict=True))))
            at = end
    return found


def _packed(chat: GuardedChat, untrained: Sequence[int]) -> bytes | Conversation:
    asked = chat.messages, chat.tools, tuple(untrained)
    if chat.tools is None and all({*map(type, m), *map(type, m.values())} == _PLAIN for m in chat.messages):
        return asked
    return _json(_REQUESTS, asked)


def _json(encoder: json.JSONEncoder, value: Any) -> bytes:
    return encoder.encode(value).encode("utf-8", errors="surrogatepass")
