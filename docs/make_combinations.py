"""Print docs/combinations.md from the table in `veneer.adapters.exclusions`: `make docs` runs it, a test compares."""

from __future__ import annotations

from veneer.adapters.exclusions import Feature, reason_against

HEAD = """# What goes together

Every option of an adapter beside every other: · works (a test trains each such pair, and compares what it saves), a
number is a reason against it, for which it is refused before anything is loaded. All are settings of a run but
`lora_bias`, a bias of B, which only adapters of PEFT have. `trainable_tokens` are rows of the embedding here, as PEFT's
may be. Those of a run (`lora.trainable_tokens`, `lora.new_tokens`) are rows of the head too, so that a run with them
refuses a head in `target_modules` or `modules_to_save`. Made from `src/veneer/adapters/exclusions.py` by
`make docs`."""


def table() -> str:
    """The page."""
    options, reasons = list(Feature), list[str]()
    lines = ["| |" + "".join(f" {index} |" for index in range(1, len(options) + 1)), "|---" * (len(options) + 1) + "|"]
    for index, one in enumerate(options, 1):
        cells = []
        for other in options:
            reason = None if one is other else reason_against(one, other)
            if reason is not None and reason not in reasons:
                reasons.append(reason)
            cells.append(" " if one is other else "·" if reason is None else f"({reasons.index(reason) + 1})")
        lines.append(f"| {index} `{one.value}` |" + "".join(f" {cell} |" for cell in cells))
    return "\n".join([HEAD, "", *lines, "", *(f"{index}. {reason}" for index, reason in enumerate(reasons, 1))])


if __name__ == "__main__":
    print(table())
