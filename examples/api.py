"""The Python API from rows to a model for others: train, evaluate, ask, export, verify.

python examples/api.py MODEL FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import veneer

ROWS = [{"prompt": f"What is {a} + {b}?", "completion": str(a + b)} for a in range(10) for b in range(10)]


def show(event: veneer.Event) -> None:
    """One subscriber: every verb tells its events to all that it is given."""
    if isinstance(event, veneer.StepDone):
        print(f"step {event.step}: loss {event.loss:.3f}")


def main(model: str, folder: Path) -> veneer.Certificate:
    """Run all verbs that a project needs."""
    settings = {"model": model, "output": str(folder / "adapter"), "method": "lora", "train": {"steps": 5}}
    forecast = veneer.plan(settings, data=ROWS)
    print(forecast.refusal or "it fits")
    run = veneer.train(settings, data=ROWS, subscribers=[show])
    report: veneer.Report = veneer.evaluate(model, ROWS[:5], adapter=run.output)
    for row in report.comparison:
        print(f"{row.name}: {row.base:.3f} before, {row.adapter:.3f} after ({row.low:+.3f} to {row.high:+.3f})")
    sampling = veneer.Sampling(max_new_tokens=8)
    answers: list[str] = veneer.generate(model, ["What is 1 + 2?"], adapter=run.output, sampling=sampling)
    talk = veneer.chat(model, adapter=run.output, sampling=sampling)
    print(answers, talk.say("What is 2 + 2?"))
    record: veneer.ExportRecord = veneer.export(run.output, folder / "merged", to="merged", limit=2)
    return veneer.verify(record.output, limit=2)


if __name__ == "__main__":
    certificate = main(sys.argv[1], Path(sys.argv[2]))
    print("the same model" if certificate.passed else certificate.problems)
