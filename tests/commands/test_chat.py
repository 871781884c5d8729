"""`veneer chat`: a conversation that goes on, ends and begins anew."""

from __future__ import annotations

from pathlib import Path

from helpers.processes.invoking import FLOAT32, generated, invoke


def chatted(model: Path, stdin: str, *more: object) -> list[str]:
    result = invoke("chat", "--model", model, *FLOAT32, "--max-new-tokens", 5, *more, stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout.splitlines()


def test_a_conversation_goes_on_until_an_empty_line_or_the_end(adapter: Path, tiny_model: Path) -> None:
    more = ("--adapter", adapter)
    both = chatted(tiny_model, "1: late?\n2: blue?\n", *more)
    assert len(both) == 2
    assert chatted(tiny_model, "1: late?\n2: blue?\n\nnever read\n", *more) == both
    assert chatted(tiny_model, "1: late?\n2: blue?\n/exit\nnever read\n", *more) == both
    assert chatted(tiny_model, "1: late?\n2: blue?", *more) == both
    assert chatted(tiny_model, "", *more) == []
    first = generated(tiny_model, *more, "--max-new-tokens", 5, "--prompt", "1: late?").stdout.rstrip("\n")
    assert both[0] == first


def test_new_starts_over_and_keeps_the_system_message(adapter: Path, tiny_model: Path) -> None:
    more = ("--adapter", adapter, "--system", "blue")
    fresh = chatted(tiny_model, "2: blue?\n", *more)
    after = chatted(tiny_model, "1: late late late?\n/new\n2: blue?\n", *more)
    assert after[-1:] == fresh


def test_chat_input_that_is_no_text_is_refused(tiny_model: Path) -> None:
    result = invoke("chat", "--model", tiny_model, *FLOAT32, stdin=b"\xff\xfe\n")
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr
