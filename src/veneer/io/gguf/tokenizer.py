"""Makes a tokenizer from the metadata of a GGUF file, with llama.cpp's ids.

The reference is llama.cpp, because it serves such files. Two kinds of vocabulary are read:

- ``gpt2`` is byte-level BPE. A cascade of regular expressions cuts the text, each of them the pieces of the one before.
  The file only *names* the cascade (``tokenizer.ggml.pre``), and lists the merges.
- ``llama`` is SentencePiece. Neighbouring symbols are merged whenever their concatenation is a token, the highest score
  first. That is BPE whose merges are all ways to split a token in two, ranked by the token's score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from veneer.errors import ModelError, listing, nearest
from veneer.io.gguf.ends import ENDS
from veneer.io.gguf.stripping import KEEPING, NAME, strips
from veneer.io.post_processor import surround
from veneer.io.tokenizer import Tokenizer, add_all, finish
from veneer.io.tokenizer_files import DEFAULT

TEMPLATE = "tokenizer.chat_template"
"""The key of the default chat template; others have this key, a dot and their name."""
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

LONGEST = 512
"""The most characters of a token that others may merge into, since each place to cut it is tried. Those of real
vocabularies have far fewer: runs of spaces are the longest."""
MERGES = 1 << 21
"""The largest number of merges that scores may imply. Gemma 3's 262,000 tokens have 515,000."""
MERGED = 1 << 25
"""The largest number of characters of all these merges together, which limits their memory."""

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CONTRACTION = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_LINES_AND_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"(?:(?=\p{L})[^a-z])"
_LOWER = r"(?:(?=\p{L})[^A-Z])"


def _words(digits: str) -> str:
    """The expression of Llama 3 and its relatives, which differ in how many digits stay together."""
    return (
        rf"(?:{_CONTRACTION})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|"
        rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_LINES_AND_SPACES}"
    )


def _cased_words(digits: str, tail: str) -> str:
    """An expression that cuts where the case changes; llama.cpp knows the case of ASCII letters only."""
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{tail}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{tail}|{digits}|"
        rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES_AND_SPACES}"
    )


_REMEDY = "Use the model's safetensors checkpoint, which carries its tokenizer."


@dataclass(frozen=True)
class _Cut:
    """One named pre-tokeniser."""

    expressions: tuple[str, ...]
    whole_words: bool = False
    """Whether a piece that is a token stays whole, regardless of the merges."""
    add_bos: bool = False
    """Whether a text starts with bos if the file does not say."""


_DIGITS_ALONE = _Cut((r"\p{N}", _GPT2))
_PLAIN = _Cut((_GPT2,))
_LLAMA3 = _Cut((_words(r"\p{N}{1,3}"),), whole_words=True, add_bos=True)
_QWEN2 = _Cut((_words(r"\p{N}"),))

PRE_TOKENIZERS: dict[str, _Cut] = {
    "default": _Cut((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "gpt-2": _PLAIN,
    "phi-2": _PLAIN,
    "mpt": _PLAIN,
    "olmo": _PLAIN,
    "smollm": _DIGITS_ALONE,
    "starcoder": _DIGITS_ALONE,
    "refact": _DIGITS_ALONE,
    "command-r": _DIGITS_ALONE,
    "codeshell": _DIGITS_ALONE,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "smaug-bpe": _Cut(_LLAMA3.expressions),
    "dbrx": _Cut(_LLAMA3.expressions),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "stablelm2": _QWEN2,
    "tekken": _Cut((_cased_words(r"\p{N}", ""),), whole_words=True, add_bos=True),
    "gpt-4o": _Cut((_cased_words(r"\p{N}{1,3}", rf"(?:{_CONTRACTION})?"),)),
}
"""For each name in ``tokenizer.ggml.pre``, the expressions that split a text, and further implications of the name."""


def from_gguf(metadata: Mapping[str, Any], *, source: str = "the GGUF file") -> Tokenizer:
    """Make the tokenizer that a GGUF file's metadata describes.

    Args:
        metadata: the keys ``tokenizer.*`` with their values, as `veneer.io.gguf.header.read_header` returns them.
        source: the name of the file in messages.

    Raises:
        ModelError: there is no tokenizer, its kind or its pre-tokeniser is not known, or its parts do not fit together.
    """
    reader = _Reader(metadata, source)
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        backend, add_bos = _byte_level(reader)
    elif kind == "llama":
        backend, add_bos = _sentence_piece(reader), True
    else:
        raise ModelError(
            f"{source} has the tokenizer model {kind!r}; only 'gpt2' (byte-level BPE) and 'llama' are read."
        )
    taken = strips(metadata.get(NAME), reader.tokens)
    # These tokens are found in the raw text, as in llama.cpp.
    add_all(
        backend,
        [
            AddedToken(token, special=kind != USER_DEFINED, normalized=False, rstrip=taken and token not in KEEPING)
            for token, kind in zip(reader.tokens, reader.types, strict=True)
            if kind in (CONTROL, UNKNOWN, USER_DEFINED)
        ],
    )
    names = {
        "bos_token": reader.named("bos"),
        "eos_token": reader.named("eos"),
        "pad_token": reader.named("padding"),
        "unk_token": reader.named("unknown"),
    }
    bos = names["bos_token"] if reader.flag("add_bos_token", add_bos) else None
    eos = names["eos_token"] if reader.flag("add_eos_token", False) else None
    if bos or eos:
        surround(backend, bos, eos)
    return finish(backend, names, _templates(metadata), {})


def _templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates by name."""
    values = {DEFAULT: metadata.get(TEMPLATE)}
    values |= {
        key.removeprefix(f"{TEMPLATE}."): value for key, value in metadata.items() if key.startswith(f"{TEMPLATE}.")
    }
    return {name: value for name, value in values.items() if isinstance(value, str)}


class _Reader:
    """Reads and checks the parts of the metadata that every kind of vocabulary has."""

    def __init__(self, metadata: Mapping[str, Any], source: str) -> None:
        self.metadata = metadata
        self.source = source
        tokens = self.list_of("tokens", str)
        # This is llama.cpp's own name for an entry without text: a model can produce it, nobody can type it.
        self.tokens: list[str] = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]
        if not self.tokens:
            raise ModelError(f"{source} has no tokenizer: tokenizer.ggml.tokens is missing or empty.")
        self.vocab = {token: index for index, token in enumerate(self.tokens)}
        if len(self.vocab) != len(self.tokens):
            twice = next(token for index, token in enumerate(self.tokens) if self.vocab[token] != index)
            raise ModelError(f"{source}: tokenizer.ggml.tokens has {twice!r} twice.")
        types = self.list_of("token_type", int)
        self.types: list[int] = types or [NORMAL] * len(self.tokens)
        self.same_length(self.types, "token_type")
        self.types = [CONTROL if token in ENDS else kind for token, kind in zip(self.tokens, self.types, strict=True)]

    def list_of(self, name: str, kind: type) -> list[Any]:
        value = self.metadata.get(f"tokenizer.ggml.{name}", [])
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            raise ModelError(f"{self.source}: tokenizer.ggml.{name} is not a list of {kind.__name__}.")
        return value

    def same_length(self, values: list[Any], name: str) -> None:
        if len(values) != len(self.tokens):
            raise ModelError(
                f"{self.source}: tokenizer.ggml.{name} has {len(values)} entries for {len(self.tokens)} tokens."
            )

    def named(self, role: str) -> str | None:
        """The text of the token with a role, or None if the file names none, or one that is never used."""
        index = self.metadata.get(f"tokenizer.ggml.{role}_token_id")
        if index is None:
            return None
        if type(index) is not int or not 0 <= index < len(self.tokens):
            raise ModelError(f"{self.source}: tokenizer.ggml.{role}_token_id is {index!r}, not a token's number.")
        return None if self.types[index] == UNUSED else self.tokens[index]

    def flag(self, name: str, default: bool) -> bool:
        value = self.metadata.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(value, bool):
            raise ModelError(f"{self.source}: tokenizer.ggml.{name} is {value!r}; true or false is needed.")
        return value


def _byte_level(reader: _Reader) -> tuple[Backend, bool]:
    """Make byte-level BPE, and say whether its pre-tokeniser implies a bos."""
    pre = reader.metadata.get("tokenizer.ggml.pre", "default")
    cut = PRE_TOKENIZERS.get(pre) if isinstance(pre, str) else None
    if cut is None:
        known = sorted(PRE_TOKENIZERS)
        raise ModelError(
            f"{reader.source} names the pre-tokeniser {pre!r}{nearest(str(pre), known)}; known are {', '.join(known)}. "
            f"{_REMEDY}"
        )
    if "tokenizer.ggml.merges" not in reader.metadata:
        raise ModelError(
            f"{reader.source} lacks tokenizer.ggml.merges, without which every text would be cut into bytes. {_REMEDY}"
        )
    merges = []
    for index, merge in enumerate(reader.list_of("merges", str)):
        left, separator, right = merge.partition(" ")
        if not separator or any(part not in reader.vocab for part in (left, right, left + right)):
            raise ModelError(f"{reader.source}: tokenizer.ggml.merges[{index}] is {merge!r}; its parts are not tokens.")
        merges.append((left, right))
    backend = Backend(models.BPE(vocab=reader.vocab, merges=merges, ignore_merges=cut.whole_words))
    steps: list[pre_tokenizers.PreTokenizer] = []
    steps += [pre_tokenizers.Split(Regex(expression), "isolated") for expression in cut.expressions]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    absent = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - reader.vocab.keys())
    if absent:
        # Both programs drop a byte without a token, but llama.cpp never merges across the gap that it leaves.
        characters = "".join(rf"\x{{{ord(character):x}}}" for character in absent)
        steps.append(pre_tokenizers.Split(Regex(f"[{characters}]"), "removed"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend, cut.add_bos


def _sentence_piece(reader: _Reader) -> Backend:
    scores = reader.list_of("scores", float)
    reader.same_length(scores, "scores")
    unknown = reader.named("unknown")
    backend = Backend(
        models.BPE(
            vocab=reader.vocab,
            merges=_merges_from_scores(reader, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = reader.flag("add_space_prefix", True)
    steps: list[normalizers.Normalizer] = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    undo: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*undo, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    return backend


def _merges_from_scores(reader: _Reader, scores: list[float]) -> list[tuple[str, str]]:
    """Every way to make a token from two others, the best score first.

    Equal pieces in a row can overlap in two splits of one token. The split with the shorter left part comes first: it
    is the leftmost merge, which llama.cpp chooses. Control and byte tokens are never typed, so nothing merges into
    them.
    """
    typed = {token for token, kind in zip(reader.tokens, reader.types, strict=True) if _is_typed(token, kind)}
    too_long = [
        f"{token[:40]!r}… has {len(token):,} characters"
        for token in reader.tokens
        if token in typed and len(token) > LONGEST
    ]
    if too_long:
        raise ModelError(
            f"{reader.source}: the vocabulary has tokens of more than {LONGEST} characters, which no model has:\n"
            f"{listing(too_long)}\n{_REMEDY}"
        )
    merges: list[tuple[str, str]] = []
    characters = 0
    for index in sorted(range(len(scores)), key=lambda index: (-scores[index], index)):
        token = reader.tokens[index]
        if token not in typed:
            continue
        before = len(merges)
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in typed and right in typed:
                merges.append((left, right))
        characters += (len(merges) - before) * len(token)
        if len(merges) > MERGES or characters > MERGED:
            raise ModelError(
                f"{reader.source}: its {len(reader.tokens):,} tokens can be made of others in more than "
                f"{MERGES:,} ways, or ways of more than {MERGED:,} characters, which no model's can. {_REMEDY}"
            )
    return merges


def _is_typed(token: str, kind: int) -> bool:
    """Whether a text may be merged into a token. Long ones of users are found in the raw text, before any merge."""
    return kind not in (CONTROL, UNKNOWN, BYTE) and not (kind == USER_DEFINED and len(token) > LONGEST)
