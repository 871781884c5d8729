from __future__ import annotations

import json
import random

from veneer.evaluation.suites.tools import TOOLS


def test_the_tool_is_among_those_that_are_offered_and_its_arguments_are_in_the_request() -> None:
    source = random.Random(4)
    for _ in range(200):
        item = TOOLS.make(source)
        call = item.check["call"]
        offered = [line[2:].partition("(")[0] for line in item.prompt.splitlines() if line.startswith("- ")]
        assert call["tool"] in offered
        assert len(set(offered)) == len(offered) >= 3
        request = item.prompt.rpartition("Request: ")[2]
        assert all(str(value) in request for value in call["arguments"].values())


def test_another_tool_or_another_argument_is_wrong() -> None:
    item = TOOLS.make(random.Random(9))
    call = item.check["call"]
    assert TOOLS.right(json.dumps(call), item.check)
    key, value = next(iter(call["arguments"].items()))
    other = {**call, "arguments": {**call["arguments"], key: f"{value}x"}}
    for wrong in (other, {**call, "tool": "other"}, {"tool": call["tool"]}, call["arguments"]):
        assert not TOOLS.right(json.dumps(wrong), item.check)
    assert not TOOLS.right(call["tool"], item.check)
