from __future__ import annotations

import time
import tracemalloc

import pytest

from hostile_templates import COUNTED
from veneer.data.template import ChatTemplate
from veneer.errors import DataError


@pytest.mark.scenario(number=33)
@pytest.mark.parametrize("source", COUNTED)
def test_hostile_templates_are_stopped_within_a_second_and_50_mb(source: str) -> None:
    messages = [{"role": "user", "content": "hello"}]
    ChatTemplate("{{ messages }}").render(messages)  # imports and caches are not the template's
    start = time.process_time()  # of this process alone, however busy the machine is
    with pytest.raises(DataError):
        ChatTemplate(source).render(messages)
    assert time.process_time() - start < 2.0  # one second, and as much for a slow machine
    tracemalloc.start()
    try:
        if "range(100000)" not in source and "range(40)" not in source:  # slow under tracemalloc
            with pytest.raises(DataError):
                ChatTemplate(source).render(messages)
            assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_large_honest_inputs_pass() -> None:
    text = "word and word\n" * 750_000  # 10 MB
    template = ChatTemplate(
        "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ m.content.split('\n') | length }}</>{% endfor %}"
    )
    messages = [{"role": "user", "content": text}]
    assert template.render(messages) == f"<user>{text.strip()}750001</>"
    many = [{"role": "user", "content": "x"}] * 20_000
    assert len(template.render(many)) == 20_000 * len("<user>x1</>")
