"""The message in the body of a server's error."""

from __future__ import annotations

import json


def error_message(body: bytes) -> str:
    """The message of an error, in OpenAI's form or another."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, RecursionError, KeyError, TypeError):
        return body.decode("utf-8", errors="replace")[:200] or "no answer"
