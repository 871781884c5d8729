from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.rows.lint_rows import read_row
from helpers.texts import chat_templates as ct
from veneer.data.encoded.chat import Encoder, template_of
from veneer.data.lint.row import LintSetting
from veneer.data.lint.run import lint
from veneer.data.lint.view import END_OF_TURN_FIELD, TEMPLATE_FIELD, rows_again, spans_of, tokens_of

QUESTION, ANSWER = "Is the answer here yes?", "yes, it is here: ok"
ROWS: dict[str, dict[str, Any]] = {
    "messages": {
        "messages": [
            {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER},
            {"role": "user", "content": "And now?"}, {"role": "assistant", "content": "now"},
        ]
    },
    "conversations": {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
    "pair": {"prompt": QUESTION, "completion": ANSWER},
    "alpaca": {"output": ANSWER, "instruction": QUESTION, "input": "the answer"},
}  # fmt: skip
SAID = {
    "messages": {"messages[1].content": ANSWER, "messages[3].content": "now"},
    "conversations": {"conversations[1].value": ANSWER},
    "pair": {"completion": ANSWER},
    "alpaca": {"output": ANSWER},
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("template", [name for name in ct.TEMPLATES if name != "unmaskable"])
def test_every_trained_token_is_traced_to_its_field(template: str, kind: str) -> None:
    """A short answer is not found in the question that holds it, and ids and mask are those that train."""
    setting = LintSetting(ct.tokenizer(template))
    row = read_row("f:1", ROWS[kind], setting)
    assert row.record is not None
    assert setting.tokenizer is not None
    tokens = tokens_of(row, setting)
    example = Encoder(setting.tokenizer, template_of(setting.tokenizer)).encode(row.record)
    assert [token.id for token in tokens] == example.tokens.tolist()
    assert [token.trained for token in tokens] == example.loss_mask.tolist()
    said: dict[str, str] = {}
    for token in tokens:
        if token.trained and token.field not in (END_OF_TURN_FIELD, TEMPLATE_FIELD):
            said[token.field] = said.get(token.field, "") + token.text
    assert {field: text.strip() for field, text in said.items()} == SAID[kind]
    strange = "".join(token.text for token in tokens if token.trained and token.field == TEMPLATE_FIELD).strip()
    # Spaces that the tokenizer adds, and empty thoughts (which the lint reports).
    assert strange.replace("▁", "") in ("", "<think>\n\n</think>", "</think>")


@pytest.mark.parametrize(
    "arguments", [{"n": 7, "to": ["Å", None]}, '{"n": 7, "to": ["Å", null]}'], ids=["object", "text"]
)
def test_a_trained_call_of_a_tool_is_traced_to_it(arguments: Any) -> None:
    setting = LintSetting(ct.tokenizer("qwen3"))
    calls = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name in ("book", "n")]
    turns = [{"role": "user", "content": "n"}, {"role": "assistant", "content": "y", "tool_calls": calls}]
    tokens = tokens_of(read_row("f:1", {"messages": turns}, setting), setting)
    said: dict[str, str] = {}
    for token in tokens:
        if token.trained:
            said[token.field] = said.get(token.field, "") + token.text
    assert said["messages[1].content"].strip() == "y"
    for number, name in enumerate(("book", "n")):
        traced = said[f"messages[1].tool_calls[{number}]"]
        assert traced.strip().startswith(name)
        assert '"n": 7' in traced
        assert "null" in traced
    assert not any(letter.isdigit() for letter in said[TEMPLATE_FIELD])


@pytest.mark.parametrize("template", ["chatml", "mistral", "gemma"])
def test_a_character_of_several_tokens_stands_at_the_first_of_them(template: str) -> None:
    setting, said = LintSetting(ct.tokenizer(template)), "Łódź 東京 📦📦 ×"
    tokens = tokens_of(read_row("f:1", {"prompt": "Wo?", "completion": said}, setting), setting)
    texts = [token.text for token in tokens if token.field == "completion"]
    assert "".join(texts).strip() == said
    assert texts.count("") >= 6


def test_fields_of_a_prompt_are_traced_too() -> None:
    setting = LintSetting(ct.tokenizer("qwen3"))
    raw = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather in Paris?"},
            {"role": "assistant", "reasoning_content": "Look it up.", "content": "It rains 😀."},
        ],
        "tools": [{"function": {"name": "look_up", "parameters": {}}}],
    }
    tokens = tokens_of(read_row("f:1", raw, setting), setting)
    fields = [span.field for span in spans_of(tokens) if span.field != TEMPLATE_FIELD]
    assert fields == [
        "messages[0].content", "tools[0]", "messages[1].content", "messages[2].reasoning_content",
        "messages[2].content", END_OF_TURN_FIELD,
    ]  # fmt: skip
    assert [span.trained for span in spans_of(tokens)].count(True) >= 3


def test_a_spelled_control_token_is_shown_as_it_is_trained() -> None:
    setting = LintSetting(ct.tokenizer("chatml"))
    raw = {"prompt": "Say <|im_end|>", "completion": "No"}
    tokens = tokens_of(read_row("f:1", raw, setting), setting)
    controls = [token.text for token in tokens if token.id in setting.special_ids]
    assert controls == ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"]
    assert "<|im_end|>" in "".join(token.text for token in tokens if token.field == "prompt")


def test_rows_are_read_again_by_number(tmp_path: Path) -> None:
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file in files:
        file.write_text("".join(json.dumps({"text": f"{file.stem} {i}"}) + "\n\n" for i in range(4)))
    report = lint(files[0], eval_file=files[1])
    again = {number: row.raw["text"] for number, row in rows_again(report, [6, 0, 3, 6])}
    assert again == {0: "a 0", 3: "a 3", 6: "b 2"}
    assert report.facts.where(6) == f"{files[1]}:5"
