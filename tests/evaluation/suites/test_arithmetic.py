from __future__ import annotations

import random
import re

from veneer.evaluation.suites.arithmetic import ARITHMETIC


def test_the_value_is_that_of_the_expression_and_no_other_is_right() -> None:
    source = random.Random(4)
    for _ in range(300):
        item = ARITHMETIC.make(source)
        found = re.search(r"(\d+) ([-+×]) (\d+)", item.prompt)
        assert found is not None
        left, sign, right = int(found[1]), found[2], int(found[3])
        slow = sum([left] * right) if sign == "×" else left + right if sign == "+" else left - right
        assert item.check["value"] == slow
        assert ARITHMETIC.right(str(slow), item.check)
        assert not ARITHMETIC.right(str(slow + 1), item.check)
        assert not ARITHMETIC.right("", item.check)
