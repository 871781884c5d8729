"""Write a tokenizer as the metadata of a GGUF file; tokenizer.py is the way back.

llama.cpp cuts texts by expressions that the file only names. So a tokenizer can be written only if one of the names
means its expressions. tokenizer.py, which follows llama.cpp, reads the metadata back and must give the same ids for a
set of texts; if the ids differ, the tokenizer is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken

from veneer.errors import ModelError, listing
from veneer.io.gguf.ends import write_ends
from veneer.io.gguf.metadata import Value
from veneer.io.gguf.stripping import strip_notes
from veneer.io.gguf.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    PRE_TOKENIZERS,
    TEMPLATE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    from_gguf,
)
from veneer.io.tokenizer import Tokenizer

_PREFIX = "tokenizer.ggml."
_REMEDY = (
    "Export with --to merged and convert that with llama.cpp's own tools, or train and serve with the model's own "
    "tokenizer."
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CASELESS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _words(digits: str) -> str:
    return rf"{_CASELESS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_TAIL}"


def _cased(digits: str, tail: str) -> str:
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{tail}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{tail}|{digits}|"
        rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_TAIL}"
    )


PUBLISHED: dict[tuple[str, ...], tuple[str, ...]] = {
    (_GPT2,): ("gpt-2",),
    (r"\p{N}", _GPT2): ("smollm",),
    (_words(r"\p{N}{1,3}"),): ("llama-bpe", "dbrx"),
    (_words(r"\p{N}"),): ("qwen2",),
    (_cased(r"\p{N}", ""),): ("tekken",),
    (_cased(r"\p{N}{1,3}", rf"{_CASELESS}?"),): ("gpt-4o",),
}
"""The cascades of expressions in published tokenizers, and the names that mean them in llama.cpp. Where there are two
names, the one is taken that has the tokenizer's rule for whole words."""

_PROBES = (
    "Hello, world! It's 3 o'clock; they'LL pay 1234567.89 for 12 units.",
    "  two  spaces\n\nand\r\nlines \t tabs   ",
    "naïve café — “quoted” … Größe",
    "Привет, как дела? Δοκιμή",
    "日本語のテキスト、中文和한국어",
    "emoji 🚀🦙 and 👩‍💻 done",
    "def f(x):\n    return x**2 + 1  # comment\n",
    'https://example.com/a?b=c&d=%20, {"key": [1, 22, 333, 4444]}',
    "CamelCase snake_case ALLCAPS mixedUP 42nd 7UP",
    "\u0e17\u0e14\u0e2a\u0e2d\u0e1a العربية עברית",
)
"""Texts for which the written tokenizer must give the same ids as the original."""
_MARKED = "हिन्दी में पाठ"
"""Texts that llama.cpp is known to split differently: its expressions with cases do not know combining marks."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The metadata of a tokenizer."""

    values: Mapping[str, Value]
    """The metadata, by full key."""
    notes: tuple[str, ...]


def write_vocabulary(tokenizer: Tokenizer, rows: int, ends: Collection[int] = ()) -> Vocabulary:
    """Make the metadata of a tokenizer.

    Args:
        tokenizer: any tokenizer.
        rows: the number of rows of the embedding; ids beyond the tokenizer's own get tokens that are never used, and
            tokens without a row are left out.
        ends: ids that end an answer, in addition to the tokenizer's end of text.

    Raises:
        ModelError: GGUF has no form for the tokenizer, llama.cpp would cut texts in another way or not end answers at
            all of `ends`, or there are more tokens than rows.
    """
    if tokenizer.rows > rows:
        raise ModelError(f"the tokenizer has {tokenizer.rows} tokens and the embedding {rows} rows")
    tree = json.loads(tokenizer.backend.to_str())
    model = tree["model"]
    if model.get("type") != "BPE":
        raise ModelError(f"tokenizers of the kind {model.get('type')!r} are not written to GGUF; BPE is. {_REMEDY}")
    tokens, types = _tokens(tokenizer, tree, rows)
    notes: list[str] = []
    if model.get("byte_fallback"):
        values = _sentence_piece(tree, tokens, types, spaced=not tokenizer.opening)
    else:
        values = _byte_level(tree, notes)
    if tokenizer.opening:
        notes.append(
            "the tokenizer puts a space before a text that begins with no control token; llama.cpp will not, so begin "
            "such texts with one (conversations begin with a control token and are the same)"
        )
    values |= {"tokens": tokens, "token_type": types, **_roles(tokenizer, tokens, types, ends)}
    named: dict[str, Value] = {f"{_PREFIX}{name}": value for name, value in values.items()}
    named |= _templates(tokenizer)
    notes += [*_bos_note(tokenizer), *strip_notes(tokenizer), *_verify(tokenizer, rows, named)]
    return Vocabulary(named, tuple(notes))


def _templates(tokenizer: Tokenizer) -> dict[str, Value]:
    """The chat templates: the default, and others with the list of their names, as llama.cpp's tools do."""
    found: dict[str, Value] = {}
    if tokenizer.chat_template is not None:
        found[TEMPLATE] = tokenizer.chat_template
    if tokenizer.named_templates:
        found[f"{TEMPLATE}s"] = list(tokenizer.named_templates)
    return found | {f"{TEMPLATE}.{name}": template for name, template in tokenizer.named_templates.items()}


def _bos_note(tokenizer: Tokenizer) -> list[str]:
    bos, template = tokenizer.bos_token, tokenizer.chat_template
    if not tokenizer.add_bos or bos is None or template is None or "bos_token" in template or bos in template:
        return []
    return [
        f"the chat template begins conversations without {bos}, which the tokenizer puts before other texts. llama.cpp "
        "and Ollama put it before conversations too: they ask with one token more than training had"
    ]


def _tokens(tokenizer: Tokenizer, tree: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """The texts and the types of the ids of all rows."""
    tokens = [f"[PAD{index}]" for index in range(rows)]
    types = [UNUSED] * rows
    raw = not tree["model"].get("byte_fallback")
    for token, index in tree["model"]["vocab"].items():
        if index >= rows:
            continue
        tokens[index] = token
        byte = not raw and len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        types[index] = BYTE if byte else NORMAL
    unknown = tree["model"].get("unk_token")
    for index, added in _added(tokenizer, rows).items():
        tokens[index] = added.content if raw or added.special else added.content.replace("▁", " ")
        types[index] = CONTROL if added.special else USER_DEFINED
        if added.content == unknown and not raw:
            types[index] = UNKNOWN
    if len(set(tokens)) != len(tokens):
        twice = sorted(token for token, count in Counter(tokens).items() if count > 1)
        raise ModelError(f"the tokenizer has tokens of the same text, which GGUF cannot hold:\n{listing(twice)}")
    return tokens, types


def _added(tokenizer: Tokenizer, rows: int) -> dict[int, AddedToken]:
    """The added tokens that have a row, by id."""
    return {index: added for index, added in tokenizer.backend.get_added_tokens_decoder().items() if index < rows}


def _roles(
    tokenizer: Tokenizer, tokens: Sequence[str], types: Sequence[int], ends: Collection[int]
) -> dict[str, Value]:
    """The special ids, and the tokens that are put around a text."""
    template = (tokenizer.chat_template or "") + (tokenizer.tool_template or "")
    unused = next((index for index, kind in enumerate(types) if kind == UNUSED), None)
    values = write_ends(tokens, ends, eos=tokenizer.eos_id, unused=unused, eos_written="eos_token" in template)
    names = (tokenizer.bos_token, tokenizer.unk_token, tokenizer.pad_token)
    for role, name in zip(("bos", "unknown", "padding"), names, strict=True):
        index = None if name is None else tokenizer.backend.token_to_id(name)
        if index is not None and index < len(tokens):
            values[f"{role}_token_id"] = index
    if "bos_token_id" not in values and unused is not None and "bos_token" in template:
        # llama.cpp would write the text of token 11 (SentencePiece: 1). That of an unused token is empty.
        values["bos_token_id"] = unused
    plain = tokenizer.encode("a")
    around = tokenizer.encode("a", add_special_tokens=True)
    begin = [tokenizer.bos_id] if tokenizer.add_bos else []
    end = [tokenizer.eos_id] if around == [*begin, *plain, tokenizer.eos_id] else []
    if around != [*begin, *plain, *end]:
        raise ModelError(f"the tokenizer puts more than bos and eos around a text, which GGUF cannot say. {_REMEDY}")
    return values | {"add_bos_token": bool(begin), "add_eos_token": bool(end)}


# ---------------------------------------------------------------------------------------------------------- byte level


def _byte_level(tree: Mapping[str, Any], notes: list[str]) -> dict[str, Value]:
    normalizers = [step["type"] for step in _steps(tree["normalizer"], "normalizers")]
    if set(normalizers) - {"NFC"}:
        raise ModelError(f"the tokenizer normalises texts by {', '.join(normalizers)}; llama.cpp does not. {_REMEDY}")
    if normalizers:
        notes.append(
            "the tokenizer composes characters first (NFC), llama.cpp does not: decomposed texts get other ids"
        )
    expressions = _expressions(tree["pre_tokenizer"])
    whole = bool(tree["model"].get("ignore_merges"))
    pre = _pre_of(expressions, whole)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tree["model"]["merges"]]
    return {"model": "gpt2", "pre": pre, "merges": merges}


def _pre_of(expressions: tuple[str, ...], whole_words: bool) -> str:
    names = PUBLISHED.get(expressions, ())
    names += tuple(name for name, cut in PRE_TOKENIZERS.items() if cut.expressions == expressions)
    for name in names:
        if PRE_TOKENIZERS[name].whole_words is whole_words:
            return name
    known = sorted({name for group in PUBLISHED.values() for name in group})
    raise ModelError(
        "the tokenizer cuts texts by expressions that no pre-tokeniser of llama.cpp is known to use "
        f"(ignore_merges {whole_words}):\n{listing(expressions)}\nKnown are those of {', '.join(known)}. {_REMEDY}"
    )


def _steps(step: Mapping[str, Any] | None, inner: str) -> list[Mapping[str, Any]]:
    """The steps of a normaliser or pre-tokeniser; a sequence is replaced by its members."""
    if step is None:
        return []
    return [part for each in step[inner] for part in _steps(each, inner)] if step["type"] == "Sequence" else [step]


def _expressions(pre_tokenizer: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The cascade of expressions; those of ByteLevel and Digits are written out."""
    found: list[str] = []
    for step in _steps(pre_tokenizer, "pretokenizers"):
        kind = step["type"]
        if kind == "ByteLevel":
            if step.get("add_prefix_space"):
                raise ModelError(f"the tokenizer puts a space before every text, which GGUF cannot say. {_REMEDY}")
            found += [_GPT2] if step.get("use_regex", True) else []
        elif kind == "Digits":
            found.append(r"\p{N}" if step.get("individual_digits") else r"\p{N}+")
        elif kind == "Split" and step["behavior"] == "Isolated" and not step.get("invert"):
            pattern = step["pattern"]
            found.append(pattern["Regex"] if "Regex" in pattern else f"literally {pattern['String']!r}")
        elif not (kind == "Split" and step["behavior"] == "Removed"):
            found.append(f"{kind} {json.dumps(step, sort_keys=True)}")
    return tuple(found)


# ------------------------------------------------------------------------------------------------------- SentencePiece


def _sentence_piece(
    tree: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int], *, spaced: bool
) -> dict[str, Value]:
    """Scores in the order of the merges: the first merge has the highest score.

    llama.cpp puts a space before a text and after every control token, or in neither place; `spaced` says whether the
    tokenizer may do the first. If the tokenizer does only one of the two, its rule after control tokens decides.
    """
    steps = _steps(tree["normalizer"], "normalizers")
    prefix = any(step["type"] == "Prepend" for step in steps)
    for step in _steps(tree["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Metaspace":
            prefix = step.get("prepend_scheme", "always") != "never"
    prefix = prefix and spaced
    rank: dict[str, int] = {}
    for index, merge in enumerate(tree["model"]["merges"]):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        rank.setdefault(left + right, index)
    scores = [
        0.0 if kind in (CONTROL, UNKNOWN, USER_DEFINED, BYTE, UNUSED) else -float(rank.get(token, len(rank)))
        for token, kind in zip(tokens, types, strict=True)
    ]
    return {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": prefix}


# -------------------------------------------------------------------------------------------------------- verification


def _verify(tokenizer: Tokenizer, rows: int, values: Mapping[str, Value]) -> list[str]:
    """Refuse a tokenizer that llama.cpp would not follow; return a note if the two differ for rare texts only."""
    back = from_gguf(values, source="the tokenizer as it would be written")
    differing = []
    texts = (*_PROBES, *_around_controls(_added(tokenizer, rows).values()))
    for text in (tokenizer.opening + text for text in texts):
        wanted, found = tokenizer.encode(text), back.encode(text)
        if wanted != found:
            differing.append(f"{text!r}: {found[:12]} instead of {wanted[:12]}")
    if differing:
        raise ModelError(
            "llama.cpp would give other tokens than the model's tokenizer, whose rules are not quite those of any that "
            f"it knows:\n{listing(differing)}\n{_REMEDY}"
        )
    if back.encode(tokenizer.opening + _MARKED) != tokenizer.encode(tokenizer.opening + _MARKED):
        return ["words with combining marks (as in Hindi) are cut otherwise by llama.cpp, and get other ids"]
    return []


def _around_controls(added: Iterable[AddedToken]) -> list[str]:
    """Texts with control tokens between words, as templates have them."""
    return [f"a b{token.content}c d" for token in list(added)[:40]]
