"""What a tokenizer puts around a text, and the character ranges that its tokens keep: post-processors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import models

from veneer.text.strict_json import to_text


def keep_white_space_in_offsets(backend: tokenizers.Tokenizer) -> None:
    """Stop the post-processor from cutting white space off the character ranges, since loss masks are made from
    them."""
    processor = backend.post_processor
    if processor is None:
        return
    tree = json.loads(processor.__getstate__())
    parts = [tree, *tree.get("processors", [])]
    if not any(part.get("trim_offsets") for part in parts):
        return
    for part in parts:
        if "trim_offsets" in part:
            part["trim_offsets"] = False
    backend.post_processor = _post_processor(tree)


def surround(backend: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    """Make `backend` put `bos` before and `eos` after each text; None puts nothing."""
    # Not from a template string, in which a space, a colon or a dollar sign of a token would have another meaning.
    pieces = {
        sequence: [
            *([_special(bos, part)] if bos else []),
            {"Sequence": {"id": sequence, "type_id": part}},
            *([_special(eos, part)] if eos else []),
        ]
        for part, sequence in enumerate("AB")
    }
    tokens = [token for token in (bos, eos) if token]
    backend.post_processor = _post_processor(
        {
            "type": "TemplateProcessing",
            "single": pieces["A"],
            "pair": pieces["A"] + pieces["B"],
            "special_tokens": {
                token: {"id": token, "ids": [backend.token_to_id(token)], "tokens": [token]} for token in tokens
            },
        }
    )


def _special(token: str, part: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": part}}


def _post_processor(tree: Mapping[str, Any]) -> Any:
    """Make a post-processor from its JSON, which the library accepts only as a part of a tokenizer."""
    whole = json.loads(tokenizers.Tokenizer(models.BPE()).to_str())
    return tokenizers.Tokenizer.from_str(to_text(whole | {"post_processor": tree})).post_processor
