"""Text to token ids and back, with the control tokens of a chat template kept apart from what users write.

`Tokenizer` wraps a ``tokenizers.Tokenizer``: a text has the ids that tokenizer.json gives it.
``transformers.AutoTokenizer`` gives the same ids, unless tokenizer_config.json names a class for which transformers 5
has its own rules (LlamaTokenizer with the normaliser of Llama 2); the files that `save` writes name no such class.

What `Tokenizer` adds is *aliased* encoding: a message may spell ``<|im_end|>``, and must not end its turn by doing so.
The template's own control tokens are therefore written as aliases, single private-use characters, and a clone of the
tokenizer knows only the aliases, so that the literal spelling is ordinary text to it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from veneer.errors import ModelError, OutputError, listing
from veneer.io.json_objects import object_if_there
from veneer.io.post_processor import keep_white_space_in_offsets
from veneer.io.tokenizer_bounds import check_bounds
from veneer.io.tokenizer_files import DEFAULT, TOOL_USE, as_configured, chat_templates, text_in
from veneer.text.strict_json import only_finite, to_text

ALIAS_BASE = 0x100000
"""First code point of plane 16, which is private use from end to end: no normaliser changes it."""
MAX_ALIASES = 0xFFFE

_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
_OTHER_NAMED = ("sep_token", "cls_token", "mask_token")
_CONFIG_TYPES = (str, int, float, bool, type(None))


@dataclass
class Tokenizer:
    """A tokenizer with its chat template and the names of its control tokens.

    Texts must be valid Unicode: a lone surrogate makes every encoding method raise ``TypeError``.
    """

    backend: tokenizers.Tokenizer
    chat_template: str | None = None
    """The default one."""
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None
    add_bos: bool = False
    """Whether plain text, encoded with its special tokens, starts with `bos_token`."""
    special_tokens: tuple[str, ...] = ()
    """Control tokens, in the order of their ids."""
    template_date: date | None = None
    """The date that the chat template gets when it asks for the time; None means the clock's time. The caller sets it:
    it is not saved, and not part of `digest`."""
    named_templates: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Chat templates other than the default, by name. Conversations with tools are written with `tool_template`."""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Content of tokenizer_config.json. `save` keeps its plain values."""
    original: str | None = field(default=None, repr=False)
    """Text of tokenizer.json, as long as the backend is unchanged. `save` writes it again."""

    @property
    def bos_id(self) -> int | None:
        """Id of `bos_token`, or None if there is none."""
        return None if self.bos_token is None else self.backend.token_to_id(self.bos_token)

    @property
    def eos_id(self) -> int | None:
        """Id of `eos_token`, or None if there is none."""
        return None if self.eos_token is None else self.backend.token_to_id(self.eos_token)

    @property
    def tool_template(self) -> str | None:
        """The chat template of conversations with tools, or None if it is the default."""
        return self.named_templates.get(TOOL_USE)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id, so that every id indexes a table of this size."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def rows(self) -> int:
        """One more than the largest id that a text can have: the rows that an embedding needs.

        The spelling of a control token is ordinary text, so a control token is in a text only if a chat template writes
        it, or if it begins or ends texts. Gemma 3's tokenizer has one for images, which its text models have no row
        for.
        """
        written = "\0".join(filter(None, (self.chat_template, self.tool_template)))
        around = {"bos_token", "eos_token"}
        named = {token for name, token in _named_tokens(self).items() if name in around or name in written}
        silent = {token for token in self.special_tokens if token not in written and token not in named}
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        return max((index for token, index in vocabulary.items() if token not in silent), default=-1) + 1

    @cached_property
    def byte_tokens(self) -> frozenset[int]:
        """Ids of the tokens `<0x00>` to `<0xFF>`, if the decoder reads neighbouring ones as bytes of a text."""
        if not _has_byte_fallback(json.loads(self.backend.to_str()).get("decoder")):
            return frozenset()
        found = (self.backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        return frozenset(token for token in found if token is not None)

    @cached_property
    def opening(self) -> str:
        """A prefix with which a text gets the ids that it has after a control token.

        It is a control token if the tokenizer puts a space before a whole text but not after a control token
        (Metaspace's `prepend_scheme: first`), and empty otherwise.
        """
        token = self.bos_token or next(iter(self.special_tokens), None)
        if token is None or self.encode(f"{token}a")[1:] == self.encode("a"):
            return ""
        return token

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Aliases of the control tokens, one private-use character each."""
        if len(self.special_tokens) > MAX_ALIASES:
            raise ModelError(f"The tokenizer has {len(self.special_tokens)} control tokens, at most {MAX_ALIASES} fit.")
        return {token: chr(ALIAS_BASE + index) for index, token in enumerate(self.special_tokens)}

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of `text`, in which control tokens that are spelled out count as such.

        Args:
            text: any text.
            add_special_tokens: whether to add what the tokenizer puts around a text (bos, eos).
        """
        return list(_encoding(self.backend, text, special=add_special_tokens).ids)

    def encode_aside(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """`encode`, during which other threads continue: the library holds the interpreter's lock for one text, but not
        for several. It starts its own threads for several texts, so that this does not pay off for short texts."""
        with _library_refusals("The model's tokenizer failed at a text, so that it"):
            return list(self.backend.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids)

    def encode_with_offsets(
        self, text: str, *, add_special_tokens: bool = False
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode`, with the range of characters of `text` that each token came from.

        Ranges keep the white space that belongs to a token. Tokens that share one character (its bytes) have the
        same range; tokens that were added around the text have an empty one.
        """
        encoding = _encoding(self.backend, text, special=add_special_tokens)
        return list(encoding.ids), list(encoding.offsets)

    def encode_aliased(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and character ranges of a rendered template whose control tokens are written as their `aliases`.

        A control token that is spelled out is ordinary text here. For text that spells none, the ids are those of
        `encode` on the same text with every alias replaced by its token.
        """
        encoding = _encoding(self._aliased, text, special=False)
        return list(encoding.ids), list(encoding.offsets)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`; control tokens are left out unless `skip_special_tokens` is False."""
        with _library_refusals("The model's tokenizer failed at some tokens, so that it"):
            return str(self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def decode_aside(self, ids: Sequence[int]) -> str:
        """`decode` with control tokens, during which other threads continue; see `encode_aside`."""
        with _library_refusals("The model's tokenizer failed at some tokens, so that it"):
            return str(self.backend.decode_batch([list(ids)], skip_special_tokens=False)[0])

    def digest(self) -> str:
        """SHA-256 of everything that it does: its vocabulary and rules, its named tokens, and the chat templates."""
        named: list[Any] = [self.bos_token, self.eos_token, self.add_bos, self.chat_template]
        named += [dict(self.named_templates)] if self.named_templates else []
        return hashlib.sha256((self.backend.to_str() + to_text(named)).encode()).hexdigest()

    @property
    def asks_for_time(self) -> bool:
        """Whether a chat template can ask for the time, so that its output depends on it."""
        return any("strftime_now" in (one or "") for one in (self.chat_template, self.tool_template))

    def with_tokens(self, texts: Sequence[str]) -> Tokenizer:
        """A copy with these texts as new tokens, after all others.

        They are ordinary text that is one token, not control tokens: a message may contain them.

        Raises:
            ModelError: a text is empty, given twice, or a token already; all such are named.
        """
        problems = [f"{text!r}: empty" for text in texts if not text.strip()]
        problems += [f"{text!r}: given twice" for text, count in Counter(texts).items() if count > 1]
        problems += [f"{text!r}: is a token already" for text in texts if self.backend.token_to_id(text) is not None]
        if problems:
            raise ModelError(f"these cannot become new tokens:\n{listing(problems)}")
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in texts])
        return replace(self, backend=backend, original=None)

    def save(self, directory: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json (with the chat templates), as AutoTokenizer reads them.

        Raises:
            OutputError: a file could not be written.
        """
        config: dict[str, Any] = {k: value for k, value in self.config.items() if isinstance(value, _CONFIG_TYPES)}
        # The class for which tokenizer.json applies unchanged: for others transformers 5 makes its own rules.
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        # transformers 4 would add token types for this class, which no causal language model accepts.
        config["model_input_names"] = ["input_ids", "attention_mask"]
        config.setdefault("clean_up_tokenization_spaces", False)
        for name in _NAMED:
            config.pop(name, None)
            if (token := _named_tokens(self)[name]) is not None:
                config[name] = token
        for name in ("chat_template", "add_bos_token", "add_eos_token"):
            config.pop(name, None)
        default = {} if self.chat_template is None else {DEFAULT: self.chat_template}
        if templates := default | dict(self.named_templates):
            config["chat_template"] = as_configured(templates)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            text = self.original if self.original is not None else self.backend.to_str(pretty=True)
            (directory / "tokenizer.json").write_text(text, encoding="utf-8", newline="")
            (directory / "tokenizer_config.json").write_text(
                to_text(only_finite(config), indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline=""
            )
        except OSError as error:
            raise OutputError(f"The tokenizer could not be saved to {directory}: {error.strerror or error}.") from error

    @cached_property
    def _aliased(self) -> tokenizers.Tokenizer:
        return aliased_clone(self.backend, self.aliases)


def _has_byte_fallback(decoder: object) -> bool:
    if not isinstance(decoder, dict):
        return False
    return decoder.get("type") == "ByteFallback" or any(map(_has_byte_fallback, decoder.get("decoders", ())))


def aliased_clone(backend: tokenizers.Tokenizer, aliases: Mapping[str, str]) -> tokenizers.Tokenizer:
    """A copy of `backend` in which every token in `aliases` has the alias as its text, with the same id."""
    tree = json.loads(backend.to_str())
    for added in tree["added_tokens"]:
        added["content"] = aliases.get(added["content"], added["content"])
    model = tree["model"]
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        model["vocab"] = {aliases.get(token, token): index for token, index in vocab.items()}
    elif isinstance(vocab, list):  # Unigram: [piece, score] pairs, the id is the position
        model["vocab"] = [[aliases.get(piece, piece), score] for piece, score in vocab]
    if model.get("unk_token") in aliases:
        model["unk_token"] = aliases[model["unk_token"]]
    if "merges" in model:
        # A merge that builds a control token from pieces would bring its literal spelling back, and its result is no
        # longer in the vocabulary.
        model["merges"] = [merge for merge in model["merges"] if not _touches(merge, aliases)]
    clone = _parsed(to_text(tree), "The tokenizer with other spellings of its control tokens")
    keep_white_space_in_offsets(clone)
    return clone


def _touches(merge: str | Sequence[str], tokens: Mapping[str, str]) -> bool:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left in tokens or right in tokens or left + right in tokens


def _named_tokens(tokenizer: Tokenizer) -> dict[str, str | None]:
    return {
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "pad_token": tokenizer.pad_token,
        "unk_token": tokenizer.unk_token,
    }


# ------------------------------------------------------------------------------------------------- from a directory


def from_directory(path: Path) -> Tokenizer:
    """Read the tokenizer of a Hugging Face model directory.

    Reads tokenizer.json and, if they exist, tokenizer_config.json, special_tokens_map.json, chat_template.jinja,
    chat_template.json and additional_chat_templates. No code of the directory is run. tokenizer.json decides what is
    put around a text: the copies ``add_bos_token`` and ``add_eos_token`` in the configuration are ignored, as in
    transformers 5.

    Raises:
        ModelError: tokenizer.json is missing, or one of the files is damaged.
    """
    file = path / "tokenizer.json"
    if not file.is_file():
        slow = [name for name in ("tokenizer.model", "spiece.model", "vocab.json") if (path / name).is_file()]
        hint = f" It has {slow[0]}: save the tokenizer once with transformers to convert it." if slow else ""
        raise ModelError(f"{path} has no tokenizer.json.{hint}")
    text = text_in(file)
    backend = _parsed(text, str(file))
    with _library_refusals(str(file)):
        check_bounds(backend, str(file))
    backend.no_truncation()
    backend.no_padding()
    config = object_if_there(path / "tokenizer_config.json")
    names = _special_names(path, config)
    added = _declare_tokens(backend, config, names)
    keep_white_space_in_offsets(backend)
    tokenizer = finish(
        backend,
        {name: names.get(name) for name in _NAMED},
        chat_templates(path, config),
        config,
    )
    # Tokens that only tokenizer_config.json names are only in the backend, so the file as read would lose them.
    tokenizer.original = None if added else text
    return tokenizer


def finish(
    backend: tokenizers.Tokenizer,
    names: Mapping[str, str | None],
    templates: Mapping[str, str],
    config: Mapping[str, Any],
) -> Tokenizer:
    """Make a `Tokenizer` from a complete backend, which also gives `add_bos` and `special_tokens`."""
    decoder = backend.get_added_tokens_decoder()
    bos = names.get("bos_token")
    around = _encoding(backend, "a", special=True).ids
    return Tokenizer(
        backend=backend,
        chat_template=templates.get(DEFAULT),
        named_templates={name: template for name, template in templates.items() if name != DEFAULT},
        bos_token=bos,
        eos_token=names.get("eos_token"),
        pad_token=names.get("pad_token"),
        unk_token=names.get("unk_token"),
        add_bos=bos is not None and bool(around) and around[0] == backend.token_to_id(bos),
        special_tokens=tuple(decoder[index].content for index in sorted(decoder) if decoder[index].special),
        config=config,
    )


@contextmanager
def _library_refusals(where: str) -> Iterator[None]:
    """Turns errors of the tokenizers library within the block into a ModelError, with `where` in the message."""
    try:
        yield
    except BaseException as error:
        # The library raises Exception itself for what it cannot parse, and PanicException, which has no public name, if
        # its own code fails (for example because a foreign pattern needs too many tries).
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{where} is not a usable tokenizer: {error}") from error


def _parsed(text: str, where: str) -> tokenizers.Tokenizer:
    """A tokenizer from its JSON. Raises ModelError if the library refuses it, with `where` in the message."""
    with _library_refusals(where):
        return tokenizers.Tokenizer.from_str(text)


def _encoding(backend: tokenizers.Tokenizer, text: str, *, special: bool) -> tokenizers.Encoding:
    """A text, encoded. Raises ModelError if the library fails."""
    with _library_refusals("The model's tokenizer failed at a text, so that it"):
        return backend.encode(text, add_special_tokens=special)


def _special_names(path: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Named special tokens. tokenizer_config.json comes before special_tokens_map.json."""
    names: dict[str, str] = {}
    for source in (object_if_there(path / "special_tokens_map.json"), config):
        for name in (*_NAMED, *_OTHER_NAMED):
            value = source.get(name)
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                names[name] = value
    return names


def _declare_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any], names: Mapping[str, str]) -> bool:
    """Add to `backend` the tokens that only the configuration declares, as transformers does; True if any were."""
    known = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    wanted: list[AddedToken] = []
    declared = config.get("added_tokens_decoder")
    entries = declared.items() if isinstance(declared, dict) else ()
    for index, entry in sorted(
        entries, key=lambda item: int(item[0]) if item[0].isdecimal() and len(item[0]) < 20 else -1
    ):
        if not index.isdecimal() or not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise ModelError(f"tokenizer_config.json: added_tokens_decoder[{index!r}] is not a token.")
        special = bool(entry.get("special")) or entry["content"] in names.values()
        token = AddedToken(
            entry["content"],
            single_word=bool(entry.get("single_word")),
            lstrip=bool(entry.get("lstrip")),
            rstrip=bool(entry.get("rstrip")),
            normalized=bool(entry.get("normalized", not special)),
            special=special,
        )
        if token.content not in known or repr(known[token.content]) != repr(token):
            wanted.append(token)
    listed = {token.content for token in wanted} | set(known)
    extra = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    if isinstance(extra, dict):
        extra = list(extra.values())
    if not isinstance(extra, list):
        raise ModelError(f"tokenizer_config.json: the special tokens {extra!r:.80} are not a list of tokens.")
    for value in [*names.values(), *extra]:
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str) and content not in listed:
            listed.add(content)
            wanted.append(AddedToken(content, special=True, normalized=False))
    add_all(backend, wanted)
    return bool(wanted)


def add_all(backend: tokenizers.Tokenizer, tokens: list[AddedToken]) -> None:
    """Add tokens of either kind, in this order.

    It is one call, because the library builds its matcher of all added tokens again in each call: 6,400 calls take half
    a minute.
    """
    backend.add_tokens(tokens)
