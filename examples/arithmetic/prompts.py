"""Write prompts of sums whose answers can be checked: `python examples/arithmetic/prompts.py > prompts.jsonl`."""

from __future__ import annotations

import json
import random


def prompts(count: int, seed: int = 0) -> list[dict[str, str]]:
    """So many different sums of two numbers below 20, each with its answer."""
    sums = [(one, other) for one in range(1, 20) for other in range(1, 20)]
    random.Random(seed).shuffle(sums)
    return [{"prompt": f"What is {one} + {other}?", "answer": str(one + other)} for one, other in sums[:count]]


if __name__ == "__main__":
    for row in prompts(300):
        print(json.dumps(row))
