"""What a record says of itself."""

from __future__ import annotations

from veneer.data.forms.record import Record


def test_the_assistants_turns_train_but_those_that_are_context() -> None:
    turns = tuple({"role": role, "content": role} for role in ("system", "user", "assistant", "user", "assistant"))
    assert Record("f:1", turns).trained_turns == (2, 4)
    assert Record("f:1", turns, untrained=(2,)).trained_turns == (4,)
    assert Record("f:1", text="All of it.").trained_turns == ()
