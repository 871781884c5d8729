"""Rows of pairs in every form that they come in, and what is wrong with others."""

from __future__ import annotations

from typing import Any

import pytest

from veneer.data.files.json_values import BadRow
from veneer.data.forms.formats import Remarks, to_record
from veneer.data.forms.preference import to_pair
from veneer.enums import Column


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def parts(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn whose content is written as a list of text parts."""
    half = len(turn["content"]) // 2
    return turn | {"content": [{"type": "text", "text": turn["content"][:half]}, {"text": turn["content"][half:]}]}


TOOLS = [{"type": "function", "function": {"name": "weigh", "parameters": {}}}]
QUESTION = [user("How heavy is it?")]
FORMS: dict[str, dict[str, Any]] = {
    "explicit strings": {"prompt": "How heavy is it?", "chosen": "Two kilos.", "rejected": "No idea."},
    "explicit lists": {"prompt": QUESTION, "chosen": [assistant("Two kilos.")], "rejected": [assistant("No idea.")]},
    "a prompt as text and answers as turns": {
        "prompt": "How heavy is it?", "chosen": [assistant("Two kilos.")], "rejected": [assistant("No idea.")],
    },
    "a prompt as turns and answers as text": {"prompt": QUESTION, "chosen": "Two kilos.", "rejected": "No idea."},
    "implicit lists": {
        "chosen": [*QUESTION, assistant("Two kilos.")], "rejected": [*QUESTION, assistant("No idea.")],
    },
    "whole conversations beside their prompt": {
        "prompt": "How heavy is it?", "prompt_id": "7",
        "chosen": [*QUESTION, assistant("Two kilos.")], "rejected": [*QUESTION, assistant("No idea.")],
    },
    "whole conversations of text parts": {
        "prompt": "How heavy is it?",
        "chosen": [parts(turn) for turn in (*QUESTION, assistant("Two kilos."))],
        "rejected": [parts(turn) for turn in (*QUESTION, assistant("No idea."))],
    },
    "hosted": {
        "input": {"messages": QUESTION, "parallel_tool_calls": True},
        "preferred_output": [assistant("Two kilos.")], "non_preferred_output": [assistant("No idea.")],
    },
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "How heavy is it?"}],
        "chosen": {"from": "gpt", "value": "Two kilos."}, "rejected": {"from": "gpt", "value": "No idea."},
    },
    "whole conversations beside the turns of their prompt": {
        "prompt": [QUESTION[0] | {"name": None}],
        "chosen": [*QUESTION, assistant("Two kilos.")], "rejected": [*QUESTION, assistant("No idea.")],
    },
    "texts behind messages": {"messages": QUESTION, "chosen": "Two kilos.", "rejected": "No idea."},
    "turns behind messages": {
        "messages": QUESTION, "chosen": [assistant("Two kilos.")], "rejected": [assistant("No idea.")],
    },
    "whole conversations beside messages": {
        "messages": [*QUESTION, assistant("Two kilos.")],
        "chosen": [*QUESTION, assistant("Two kilos.")], "rejected": [*QUESTION, assistant("No idea.")],
    },
    "messages before": {"messages": QUESTION, "chosen": assistant("Two kilos."), "rejected": assistant("No idea.")},
    "Alpaca": {"instruction": "How heavy is it?", "chosen": "Two kilos.", "rejected": "No idea."},
    "distilabel": {
        "instruction": "How heavy is it?", "generations": ["Two kilos.", "No idea."],
        "chosen": [*QUESTION, assistant("Two kilos.")], "rejected": [*QUESTION, assistant("No idea.")],
    },
    "distilabel beside its prompt": {
        "instruction": "How heavy is it?", "prompt": "How heavy is it?", "chosen_rating": 5.0,
        "chosen": [*QUESTION, assistant("Two kilos.")], "rejected": [*QUESTION, assistant("No idea.")],
    },
    "speakers": {
        "chosen": "\n\nHuman: How heavy is it?\n\nAssistant: Two kilos.",
        "rejected": "\n\nHuman: How heavy is it?\n\nAssistant: No idea.",
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same_pair(form: str) -> None:
    pair = to_pair(FORMS[form], "f:1")
    assert pair.where == pair.chosen.where == pair.rejected.where == "f:1"
    assert list(pair.chosen.messages) == [*QUESTION, assistant("Two kilos.")]
    assert list(pair.rejected.messages) == [*QUESTION, assistant("No idea.")]
    assert pair.chosen.trained_turns == pair.rejected.trained_turns == (1,)


def test_context_does_not_train_and_tools_and_system_belong_to_both() -> None:
    row = {
        "prompt": [user("Hi"), assistant("Hello."), user("Heavy?")], "system": "Be brief.", "tools": TOOLS,
        "chosen": "Yes.", "rejected": "No.",
    }  # fmt: skip
    pair = to_pair(row, "f:1")
    for record in pair.records:
        assert record.messages[0] == {"role": "system", "content": "Be brief."}
        assert record.trained_turns == (4,)
        assert record.tools == tuple(TOOLS)
    hosted = {
        "input": {"messages": QUESTION, "tools": TOOLS},
        "preferred_output": [assistant("Yes.")], "non_preferred_output": [assistant("No.")],
    }  # fmt: skip
    assert to_pair(hosted, "f:1").rejected.tools == tuple(TOOLS)


def test_a_system_text_stands_before_whole_conversations_once() -> None:
    """Beside an explicit prompt, an implicit one, two texts with speakers, and turns before single answers."""
    both = {"chosen": [*QUESTION, assistant("Two kilos.")], "rejected": [*QUESTION, assistant("No idea.")]}
    expected = [{"role": "system", "content": "Be brief."}, *QUESTION, assistant("Two kilos.")]
    for row in (
        both, both | {"prompt": "How heavy is it?"}, FORMS["speakers"], FORMS["messages before"],
        {key: [expected[0], *turns] for key, turns in both.items()},
    ):  # fmt: skip
        remarks = Remarks()
        pair = to_pair(row | {"system": "Be brief."}, "f:1", remarks)
        assert list(pair.chosen.messages) == expected
        assert pair.rejected.messages[:2] == pair.chosen.messages[:2]
        assert not remarks.unused


def test_turns_that_go_on_behind_a_prompt_keep_it() -> None:
    """They begin with a question, as whole conversations do, and the prompt ends with an answer."""
    before = [user("Hi"), assistant("Hello.")]
    pair = to_pair(
        {"prompt": before, "chosen": [*QUESTION, assistant("Two kilos.")], "rejected": [*QUESTION, assistant("No.")]},
        "f:1",
    )
    assert list(pair.rejected.messages) == [*before, *QUESTION, assistant("No.")]
    assert pair.chosen.trained_turns == (3,)


def test_an_empty_system_text_leaves_a_pair_of_texts_as_it_is() -> None:
    """Cells of CSV are empty; a conversation would need a chat template."""
    row = {"prompt": "a", "chosen": " b", "rejected": " c"}
    assert to_pair(row | {"system": ""}, "f:1") == to_pair(row, "f:1")


def test_a_system_text_and_a_system_turn_are_one_or_are_refused() -> None:
    """Whichever form has both; none has two system turns, and none loses one of them."""
    system = {"role": "system", "content": "Be brief."}
    whole = {key: [system, *QUESTION, assistant(key)] for key in ("chosen", "rejected")}
    answers = {key: [assistant(key)] for key in ("chosen", "rejected")}
    forms = (
        whole,
        whole | {"prompt": QUESTION},
        answers | {"prompt": [system, *QUESTION]},
        answers | {"messages": [system, *QUESTION]},
        answers | {"conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "How?"}]},
    )
    for form in forms:
        assert to_pair(form | {"system": "Be brief."}, "f:1").chosen.messages == to_pair(form, "f:1").chosen.messages
        with pytest.raises(BadRow, match="begin with another system turn than 'system' says; leave one of the two out"):
            to_pair(form | {"system": "Be long."}, "f:1")


def test_a_system_turn_of_whole_conversations_may_be_missing_in_their_prompt() -> None:
    system = {"role": "system", "content": "Be brief."}
    both = {"chosen": [system, *QUESTION, assistant("a")], "rejected": [system, *QUESTION, assistant("b")]}
    assert list(to_pair(both | {"prompt": QUESTION}, "f:1").chosen.messages) == both["chosen"]


def test_a_margin_may_be_a_text_as_in_csv_files() -> None:
    row = FORMS["explicit strings"]
    assert [to_pair(row | {"margin": given}, "f:1").margin for given in (1.5, "1.5", "", None)] == [
        1.5,
        1.5,
        None,
        None,
    ]


def test_the_prompt_of_two_texts_is_what_both_begin_with_up_to_a_white_space() -> None:
    pair = to_pair({"chosen": "Q: how heavy? two kilos", "rejected": "Q: how heavy? twenty"}, "f:1")
    assert (pair.chosen.prompt, pair.chosen.completion) == ("Q: how heavy? ", "two kilos")
    assert (pair.rejected.prompt, pair.rejected.completion) == ("Q: how heavy? ", "twenty")


def test_other_names_are_mapped_and_unused_keys_are_counted() -> None:
    columns = {Column.PROMPT: "question", Column.CHOSEN: "good", Column.REJECTED: "bad"}
    remarks = Remarks()
    pair = to_pair({"question": "Q", "good": "a", "bad": "b", "id": 3}, "f:1", remarks, columns)
    assert (pair.chosen.completion, pair.rejected.completion) == ("a", "b")
    assert dict(remarks.unused) == {"id": 1}
    remarks = Remarks()
    to_pair({"prompt": "Q", "chosen": "a", "rejected": "b", "score_chosen": 9.0}, "f:1", remarks)
    assert dict(remarks.unused) == {"score_chosen": 1}


WRONG = [
    ({"prompt": "Q", "completion": "a"}, "no pair of answers is known for the keys 'prompt', 'completion'"),
    ({"prompt": "Q", "response_0": "a"}, "data.columns .*: {prompt: NAME, chosen: NAME, rejected: NAME}"),
    (
        {"instruction": "Q", "chosen_response": "a", "rejected response": "b"},
        'data.columns .*: {prompt: instruction, chosen: chosen_response, rejected: "rejected response"}',
    ),
    ({"prompt": "Q", "chosen": "a"}, "there is chosen but no rejected"),
    ({"prompt": "Q", "chosen": "a", "rejected": None}, "there is chosen but no rejected"),
    ({"prompt": "Q", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
    ({"chosen": [*QUESTION, assistant("a")], "rejected": [*QUESTION, assistant("a")]}, "are the same"),
    ({"chosen": "same text", "rejected": "same text"}, "are the same"),
    ({"prompt": "Q", "chosen": "", "rejected": "b"}, "chosen: completion is empty"),
    ({"prompt": "Q", "chosen": "a", "rejected": 3}, "rejected: completion must be a list of turns|rejected: .*number"),
    ({"prompt": 3, "chosen": "a", "rejected": "b"}, "the prompt must be a text or a list of turns, not a number"),
    ({"instruction": True, "chosen": [assistant("a")], "rejected": [assistant("b")]}, "the prompt must be a text"),
    ({"chosen": "one", "rejected": "two"}, "no beginning in common that could be the prompt; give a prompt"),
    ({"question": "Q", "chosen": "It is a", "rejected": "It is b"}, r"generate\): \{prompt: question, chosen: chosen"),
    ({"system": "S", "question": "Q", "chosen": "It is a", "rejected": "It is b"}, r"rejected: rejected, system: sys"),
    ({"prompt": "Q", "chosen": "[{'role': 'assistant', 'content': 'a'}]", "rejected": '[{"role": "assistant"}] '},
     "lists of turns that were written as texts; write the rows as JSON lines"),
    ({"prompt": [user("Other?")], "chosen": [*QUESTION, assistant("a")], "rejected": [*QUESTION, assistant("b")]},
     "whole conversations, which do not begin with the turns of the prompt"),
    ({"prompt": 3, "chosen": [*QUESTION, assistant("a")], "rejected": [*QUESTION, assistant("b")]}, "do not begin"),
    ({"system": "S", "chosen": "It is a", "rejected": "It is b"}, "have no place for a system turn; give a prompt"),
    ({"prompt": "Q", "chosen": "a", "rejected": "b", "margin": "much"}, "margin must be a number"),
    ({"prompt": "Q", "chosen": "a", "rejected": "b", "margin": 10**400}, "margin must be a number"),
    ({"chosen": "one", "rejected": [assistant("two")]}, "must be two strings or two lists of turns"),
    ({"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("d")]}, "no first turn in common"),
    ({"chosen": QUESTION, "rejected": [*QUESTION, assistant("d")]}, "one of chosen and rejected ends where the other"),
    ({"prompt": "Other?", "chosen": [*QUESTION, assistant("a")], "rejected": [*QUESTION, assistant("b")]},
     "whole conversations, and the prompt is in neither"),
    ({"prompt": QUESTION, "chosen": [user("a")], "rejected": [assistant("b")]}, "chosen: there is no assistant turn"),
    ({"input": {"tools": []}, "preferred_output": [], "non_preferred_output": []}, "input has no messages"),
    ({"input": [], "preferred_output": []}, "there is input, preferred_output but no non_preferred_output"),
    ([1], "a row must be an object"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), WRONG)
def test_what_is_wrong_is_said(row: Any, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        to_pair(row, "f:1")


def test_a_pair_is_no_row_of_fine_tuning_and_the_error_says_what_to_set() -> None:
    with pytest.raises(BadRow, match="set objective: dpo, or train only the chosen answers"):
        to_record({"prompt": "Q", "chosen": "a", "rejected": "b"}, "f:1")
