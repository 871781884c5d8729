"""The tokens that end an answer in llama.cpp for a GGUF file: by three roles, and by their texts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from veneer.errors import ModelError
from veneer.io.gguf.metadata import Metadata, Value

ENDS = frozenset(
    [
        "</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<turn|>", "<end_of_turn>", "<end_of_utterance>",
        "<|im_end|>", "<|end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "<|return|>",
        "<|call|>", "<|calls|>", "<|flush|>", "<|tool_response>",
    ]
)  # fmt: skip
"""The tokens that llama.cpp treats as control tokens because of their text, regardless of their type in the file. They
end an answer, with the exceptions of `_excepted`."""
ROLES = ("eos", "eot", "eom")
"""The roles of tokens that end an answer: end of text, of a turn, of a message."""


def read_ends(meta: Metadata) -> list[int]:
    """The ids that end an answer, in order; a number beyond the vocabulary has no effect, as in llama.cpp.

    llama.cpp ends at the marks between files of code (`<|file_sep|>`) too, which no answer needs.
    """
    tokens = meta.metadata.get("tokenizer.ggml.tokens", [])
    if not isinstance(tokens, list):
        return []  # reading the tokenizer later says what is wrong
    named = {index for role in ROLES if (index := meta.token(role)) is not None and index < len(tokens)}
    return sorted((named | _known(tokens)) - _excepted(tokens))


def write_ends(
    tokens: Sequence[str], ends: Collection[int], *, eos: int | None, unused: int | None, eos_written: bool
) -> dict[str, Value]:
    """The roles with which llama.cpp ends answers at all of `ends`.

    A file always names an eos: otherwise llama.cpp uses token 11 (SentencePiece: 2), whatever that is.

    Args:
        tokens: the texts of all ids.
        ends: the ids that end an answer.
        eos: the id of the tokenizer's own end of text.
        unused: an id that a model never produces, and whose text is empty for llama.cpp.
        eos_written: whether the chat template writes `eos_token`, which stays empty if the tokenizer has none.

    Raises:
        ModelError: there are more ends than roles, or no token can have the role of eos.
    """
    ends = {index for index in ends if 0 <= index < len(tokens)}
    left = sorted(ends - _known(tokens) - _excepted(tokens) - {eos})
    if eos is None and ends and not eos_written:
        eos = left.pop(0) if left else min(ends)
    if eos is None:
        eos = min(_known(tokens) - _excepted(tokens), default=None) if unused is None else unused
    if eos is None:
        raise ModelError(
            "the tokenizer names no end of text, and llama.cpp would use another token for it. Name eos_token in the "
            "base's tokenizer_config.json, or export with --to merged."
        )
    if len(left) >= len(ROLES):
        named = ", ".join(f"{tokens[index]!r} ({index})" for index in left)
        raise ModelError(
            f"besides {tokens[eos]!r} these tokens end an answer: {named}; GGUF has places for {len(ROLES) - 1} that "
            "llama.cpp does not know by their text. Name fewer under eos_token_id in the base's generation_config.json."
        )
    return {f"{role}_token_id": index for role, index in zip(ROLES, (eos, *left), strict=False)}


def _known(tokens: Sequence[str]) -> set[int]:
    return {index for index, token in enumerate(tokens) if token in ENDS}


def _excepted(tokens: Sequence[str]) -> set[int]:
    """The tokens that do not end an answer in llama.cpp because of other tokens in the vocabulary, regardless of their
    role.

    In gpt-oss's format `<|end|>` closes a thought, and the answer follows it; Gemma 4 writes `</s>` within texts.
    """
    there = ENDS.intersection(tokens)
    texts = set()
    if there & {"<|call|>", "<|calls|>"} and there & {"<|return|>", "<|flush|>"}:
        texts.add("<|end|>")
    if "<|tool_response>" in there:
        texts.add("</s>")
    return {index for index, token in enumerate(tokens) if token in texts}
