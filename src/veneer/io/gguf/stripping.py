"""White space after control tokens: GGUF has no key for it, and llama.cpp decides by the name of the model.

Phi-3's tokenizer removes the white space after nearly all of its control tokens, so that a line break after `<|user|>`
is not a token. llama.cpp does so for every model whose `general.name` contains `phi-3` or `phi3`, and for no other. It
does not open such a model without the tokens that the rule names.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from veneer.io.tokenizer import Tokenizer

NAME = "general.name"
PHI3 = re.compile("phi-?3", re.IGNORECASE)
"""What llama.cpp looks for in a name."""
KEEPING = frozenset(("<unk>", "<s>", "<|endoftext|>"))
"""Control tokens after which white space stays, under the rule."""
END = "</s>"
"""A further token that the rule names, regardless of its type."""


def strips(name: object, tokens: Collection[str]) -> bool:
    """Whether llama.cpp removes the white space after the control tokens of a model with this name and these tokens."""
    return isinstance(name, str) and PHI3.search(name) is not None and KEEPING | {END} <= set(tokens)


def stripping_name(name: str, tokenizer: Tokenizer) -> str:
    """The name, changed if llama.cpp would otherwise treat white space differently than the tokenizer."""
    if _as_phi3(tokenizer):
        return name if PHI3.search(name) else f"{name} phi-3".strip()
    return PHI3.sub("phi 3", name)


def strip_notes(tokenizer: Tokenizer) -> list[str]:
    """A note on a tokenizer that removes white space in a way that no name of a model can express."""
    added = tokenizer.backend.get_added_tokens_decoder().values()
    found = sorted(token.content for token in added if token.rstrip or token.lstrip)
    if not found or _as_phi3(tokenizer):
        return []
    return [
        f"the tokenizer removes white space around {', '.join(found[:8])}{' …' if len(found) > 8 else ''}; llama.cpp "
        "does not, so leave none there"
    ]


def _as_phi3(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer removes white space exactly as the rule says."""
    added = tokenizer.backend.get_added_tokens_decoder().values()
    taking = {token.content for token in added if token.rstrip}
    named = all(tokenizer.backend.token_to_id(token) is not None for token in KEEPING | {END})
    return named and END in taking and taking == {token.content for token in added} - KEEPING
