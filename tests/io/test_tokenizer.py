"""Tokenizers of Hugging Face directories equal AutoTokenizer; aliased encoding keeps control tokens apart."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, processors
from transformers import AutoTokenizer

from helpers.texts.tiny_tokenizers import byte_level_tokenizer, metaspace_tokenizer, save_tokenizer, varied_strings
from veneer.errors import ModelError, OutputError
from veneer.io.tokenizer import Tokenizer, finish, from_directory

STRINGS = varied_strings(200, seed=1)


def llama3_style() -> Backend:
    """Byte level with a bos template and trimmed offsets, as Llama 3 has it."""
    backend = byte_level_tokenizer()
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]),
        ]
    )
    return backend


CHATML = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
KINDS: dict[str, tuple[Backend, dict[str, Any]]] = {
    "byte level": (byte_level_tokenizer(), CHATML),
    "byte level with bos": (llama3_style(), CHATML),
    "byte level, flags that say otherwise": (
        byte_level_tokenizer(),
        {**CHATML, "add_bos_token": True, "add_eos_token": True},
    ),
    "byte level with bos, flags that say otherwise": (llama3_style(), {**CHATML, "add_bos_token": False}),
    "byte level, token only in config": (byte_level_tokenizer(), {**CHATML, "pad_token": "<|pad|>"}),
    "byte level, declared tokens": (
        byte_level_tokenizer(),
        {
            **CHATML,
            "added_tokens_decoder": {
                "501": {"content": "<|extra|>", "special": True, "normalized": False},
                "502": {"content": "quick", "special": False, "normalized": True, "lstrip": True},
            },
        },
    ),
    "metaspace": (metaspace_tokenizer(), {**LLAMA, "add_bos_token": True}),
    "metaspace, legacy": (metaspace_tokenizer(legacy=True), LLAMA),
}


@pytest.fixture(params=list(KINDS))
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    backend, config = KINDS[request.param]
    return save_tokenizer(tmp_path / "model", backend, config)


@pytest.mark.parametrize("special", [False, True])
def test_ids_equal_auto_tokenizer(directory: Path, special: bool) -> None:
    ours, theirs = from_directory(directory), AutoTokenizer.from_pretrained(directory)
    for text in [*STRINGS, "", "<|extra|> the quick<|pad|>"]:
        assert ours.encode(text, add_special_tokens=special) == theirs(text, add_special_tokens=special)["input_ids"]
    assert (ours.bos_id, ours.eos_id, ours.pad_token) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token)
    assert ours.add_bos == (theirs("a")["input_ids"][0] == theirs.bos_token_id)


@pytest.mark.parametrize("special", [False, True])
def test_what_is_made_aside_is_the_same(directory: Path, special: bool) -> None:
    ours = from_directory(directory)
    for text in STRINGS:
        assert ours.encode_aside(text, add_special_tokens=special) == ours.encode(text, add_special_tokens=special)
        ids = ours.encode(text, add_special_tokens=special)
        assert ours.decode_aside(ids) == ours.decode(ids, skip_special_tokens=False)


def test_saved_tokenizer_is_the_same(directory: Path, tmp_path: Path) -> None:
    ours = from_directory(directory)
    ours.save(tmp_path / "saved")
    again, theirs = from_directory(tmp_path / "saved"), AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in STRINGS[:100]:
        ids = ours.encode(text, add_special_tokens=True)
        assert again.encode(text, add_special_tokens=True) == ids
        assert theirs(text)["input_ids"] == ids
    assert again.special_tokens == ours.special_tokens


def test_decoding_equals_auto_tokenizer(directory: Path) -> None:
    ours, theirs = from_directory(directory), AutoTokenizer.from_pretrained(directory)
    for text in STRINGS[:60]:
        ids = ours.encode(text, add_special_tokens=True)
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_offsets_cover_the_text(directory: Path) -> None:
    ours = from_directory(directory)
    for text in STRINGS:
        ids, offsets = ours.encode_with_offsets(text)
        assert ids == ours.encode(text)
        covered = {position for start, end in offsets for position in range(start, end)}
        assert covered == set(range(len(text)))  # white space included: loss masks are made of these ranges


# ------------------------------------------------------------------------------------------------- aliased encoding


def tokenizer_of(kind: str) -> Tokenizer:
    backend, config = KINDS[kind]
    names = {name: config.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    special = tuple(token.content for _, token in sorted(backend.get_added_tokens_decoder().items()) if token.special)
    return Tokenizer(backend, special_tokens=special, **names)


ALIASED = {kind: tokenizer_of(kind) for kind in ("byte level", "byte level with bos", "metaspace", "metaspace, legacy")}


def alias(tokenizer: Tokenizer, text: str) -> str:
    for token, character in tokenizer.aliases.items():
        text = text.replace(token, character)
    return text


@pytest.mark.parametrize("kind", list(ALIASED))
def test_aliased_ids_equal_plain_ids(kind: str) -> None:
    tokenizer = ALIASED[kind]
    source = random.Random(2)
    for text in STRINGS:
        parts = [text]
        for token in tokenizer.special_tokens:  # no special token is spelled by the content itself
            parts = [piece for part in parts for piece in part.split(token)]
        rendered = "".join(part + source.choice(["", *tokenizer.special_tokens]) for part in parts)
        ids, offsets = tokenizer.encode_aliased(alias(tokenizer, rendered))
        assert ids == tokenizer.encode(rendered)
        assert len(ids) == len(offsets)


@pytest.mark.parametrize("kind", list(ALIASED))
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_aliased_ids_equal_plain_ids_for_any_text(kind: str, data: st.DataObject) -> None:
    tokenizer = ALIASED[kind]
    content = st.text(st.characters(exclude_categories=["Cs", "Co"], exclude_characters="<>"), max_size=20)
    parts = data.draw(st.lists(st.one_of(content, st.sampled_from(tokenizer.special_tokens)), max_size=8))
    plain = "".join(parts)
    assert tokenizer.encode_aliased(alias(tokenizer, plain))[0] == tokenizer.encode(plain)


@pytest.mark.parametrize("kind", list(ALIASED))
def test_spelled_control_tokens_are_text_and_aliases_are_control(kind: str) -> None:
    tokenizer = ALIASED[kind]
    for token in tokenizer.special_tokens:
        control = tokenizer.backend.token_to_id(token)
        text = f"a {token} b{tokenizer.aliases[token]}c{token}"
        ids, offsets = tokenizer.encode_aliased(text)
        assert ids.count(control) == 1
        place = text.index(tokenizer.aliases[token])
        assert offsets[ids.index(control)] == (place, place + 1)
        literal = [identity for identity, (start, _) in zip(ids, offsets, strict=True) if start >= text.rindex("c")]
        assert token in tokenizer.decode(literal, skip_special_tokens=False)


def test_aliases_are_unique_single_characters() -> None:
    tokenizer = ALIASED["byte level"]
    assert set(tokenizer.aliases) == set(tokenizer.special_tokens)
    assert len(set(tokenizer.aliases.values())) == len(tokenizer.special_tokens)
    assert all(len(character) == 1 for character in tokenizer.aliases.values())


def test_a_control_token_that_is_in_no_text_needs_no_row() -> None:
    """Gemma 3's tokenizer ends with one for images."""
    backend = byte_level_tokenizer()
    size = backend.get_vocab_size()
    backend.add_special_tokens(["<image>"])
    names: dict[str, str | None] = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    assert finish(backend, names, {"default": "{{ bos_token }}"}, {}).rows == size
    assert finish(backend, names | {"pad_token": "<image>"}, {"default": "{{ bos_token }}"}, {}).rows == size
    needing = (
        finish(backend, names | {"eos_token": "<image>"}, {}, {}),
        finish(backend, names | {"pad_token": "<image>"}, {"default": "{{ pad_token }}"}, {}),
        finish(backend, names, {"default": "{{ messages }}<image>"}, {}),
        finish(backend, names, {"tool_use": "{{ messages }}<image>"}, {}),
    )
    assert [one.rows for one in needing] == [size + 1] * 4
    backend.add_tokens(["word"])
    assert finish(backend, names, {}, {}).rows == size + 2


def test_merges_cannot_rebuild_a_control_token() -> None:
    tree = json.loads(metaspace_tokenizer().to_str())
    vocab = tree["model"]["vocab"]
    for piece in ("<", "s", ">", "<s"):
        vocab.setdefault(piece, len(vocab))
    tree["model"]["merges"] = [["<", "s"], ["<s", ">"]]
    backend = Backend.from_str(json.dumps(tree))
    tokenizer = Tokenizer(backend, special_tokens=("<unk>", "<s>", "</s>"))
    ids, _ = tokenizer.encode_aliased("<s>")
    assert vocab["<s>"] not in ids
    assert ids[-2:] == [vocab["<s"], vocab[">"]]


# --------------------------------------------------------------------------------------------------- files that lie


def test_chat_templates_of_every_kind(tmp_path: Path) -> None:
    path = save_tokenizer(tmp_path, byte_level_tokenizer(), CHATML)
    assert from_directory(path).chat_template is None
    save_tokenizer(
        path,
        byte_level_tokenizer(),
        {**CHATML, "chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "list"}]},
    )
    assert from_directory(path).chat_template == "list"
    (path / "chat_template.json").write_text('{"chat_template": "json"}', encoding="utf-8")
    assert from_directory(path).chat_template == "json"
    (path / "chat_template.jinja").write_text("jinja\n", encoding="utf-8")
    ours = from_directory(path)
    assert ours.chat_template == "jinja\n"
    ours.save(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == "jinja\n"


def test_special_tokens_map_and_token_objects(tmp_path: Path) -> None:
    path = save_tokenizer(tmp_path, byte_level_tokenizer(), {"eos_token": {"content": "<|im_end|>", "lstrip": False}})
    (path / "special_tokens_map.json").write_text('{"pad_token": "<|endoftext|>", "eos_token": "x"}', encoding="utf-8")
    ours = from_directory(path)
    assert (ours.eos_token, ours.pad_token, ours.bos_token, ours.bos_id) == ("<|im_end|>", "<|endoftext|>", None, None)


def test_saving_keeps_the_file_and_drops_code(tmp_path: Path) -> None:
    path = save_tokenizer(tmp_path / "a", llama3_style(), {**CHATML, "auto_map": {"AutoTokenizer": "evil.Tokenizer"}})
    from_directory(path).save(tmp_path / "b")
    assert (tmp_path / "b/tokenizer.json").read_bytes() == (path / "tokenizer.json").read_bytes()
    assert "auto_map" not in json.loads((tmp_path / "b/tokenizer_config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("LlamaTokenizer", lambda: metaspace_tokenizer(legacy=True)),
        ("Qwen2Tokenizer", byte_level_tokenizer),
        ("GPTNeoXTokenizerFast", byte_level_tokenizer),
    ],
)
def test_a_saved_tokenizer_is_the_file_whatever_transformers_makes_of_its_class(
    name: str, backend: Callable[[], Backend], tmp_path: Path
) -> None:
    ours = from_directory(save_tokenizer(tmp_path / "a", backend(), {"tokenizer_class": name, "unk_token": None}))
    ours.save(tmp_path / "b")
    texts = varied_strings(150)
    as_it_was, saved = (AutoTokenizer.from_pretrained(tmp_path / folder) for folder in ("a", "b"))
    assert any(as_it_was(text)["input_ids"] != ours.encode(text) for text in texts)
    assert all(saved(text)["input_ids"] == ours.encode(text) for text in texts)
    assert set(saved("a")) == {"input_ids", "attention_mask"}


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path) -> None:
    backend = byte_level_tokenizer()
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    ours = from_directory(save_tokenizer(tmp_path, backend, CHATML))
    assert (
        ours.encode("one two three four five six") == byte_level_tokenizer().encode("one two three four five six").ids
    )


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", b"{", "not a usable tokenizer"),
        ("tokenizer.json", b"\xff\xfe", "not UTF-8"),
        ("tokenizer.json", b"{}", "not a usable tokenizer"),
        ("tokenizer_config.json", b"[", "not valid JSON"),
        ("tokenizer_config.json", b"[" * 100_000, "not valid JSON"),
        ("tokenizer_config.json", b"[1]", "must have a JSON object"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {"content": "a"}}}', "is not a token"),
        ("special_tokens_map.json", b"nope", "not valid JSON"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    path = save_tokenizer(tmp_path, byte_level_tokenizer(), CHATML)
    (path / file).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        from_directory(path)


def test_missing_tokenizer_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        from_directory(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"tokenizer\.model.*transformers"):
        from_directory(tmp_path)


def test_unwritable_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match="could not be saved"):
        ALIASED["byte level"].save(tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab": {"a": 0, "b": (1 << 32) - 1}}, "the token 'b' has the id 4,294,967,295; ids are below 16,777,216"),
        (
            {"continuing_subword_prefix": "ByteLevel", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
            "not a",
        ),
    ],
)
def test_a_model_that_the_library_cannot_hold_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """The one would have it list all ids, which takes the memory; at the other it panics."""
    tree = json.loads(Backend(models.BPE({"a": 0, "b": 1}, [])).to_str())
    tree["model"] |= changes
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(ModelError, match=message):
        from_directory(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": {"²": {"content": "x"}}},
        {"added_tokens_decoder": {"9" * 5000: 3}},
        {"added_tokens_decoder": {"7": {"content": "\ud800"}}},
        {"eos_token": "\ud800"},
        {"additional_special_tokens": 5},
    ],
)
def test_odd_values_of_the_configuration_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    save_tokenizer(tmp_path, byte_level_tokenizer(), config)
    with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
        from_directory(tmp_path)


def test_a_pattern_that_takes_too_many_tries_is_an_error(tmp_path: Path) -> None:
    """The library gives up after some tries, and panics."""
    tree = json.loads(Backend(models.BPE({"a": 0, "b": 1}, [])).to_str())
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree | {"pre_tokenizer": split}))
    tokenizer = from_directory(tmp_path)
    assert tokenizer.encode("aab") == [0, 0, 1]
    for encode in (tokenizer.encode, tokenizer.encode_with_offsets, tokenizer.encode_aliased):
        with pytest.raises(ModelError, match="failed at a text"):
            encode("a" * 40 + "!")


def test_the_digest_knows_chat_templates_beside_the_default(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path, byte_level_tokenizer(), {"chat_template": "D"})
    plain = from_directory(folder)
    named = replace(plain, named_templates={"tool_use": "T"})
    assert plain.digest() != named.digest() != replace(named, named_templates={"tool_use": "U"}).digest()
