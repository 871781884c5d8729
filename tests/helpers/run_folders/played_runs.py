"""`veneer train` as a play: the folder of a run is filled as by a run, and nothing is computed, so that hundreds of
kills take seconds. What it "trains" is a chain of digests over the steps, which shows a step that is left out or made
twice; it holds the lock, tells events, keeps checkpoints, goes on from them, and listens to SIGTERM.

Run by itself it is the command: `python played_runs.py train --config FILE --resume`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path


def chain(steps: int) -> str:
    """What the steps come to."""
    state = ""
    for step in range(1, steps + 1):
        state = hashlib.sha256(f"{state}{step}".encode()).hexdigest()
    return state


def play(config: Path) -> int:
    settings = json.loads(config.read_text("utf-8"))
    folder, how = Path(settings["output"]), settings.get("play", {})
    if how.get("error"):
        print(f"error: {how['error']}", file=sys.stderr)
        return 2
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    lock = (folder / ".lock").open("a+")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.seek(0)
    lock.truncate()
    lock.write(json.dumps({"pid": os.getpid()}))
    lock.flush()
    steps = settings["train"]["steps"]
    kept = folder / "kept.json"
    step, state = json.loads(kept.read_text()) if kept.is_file() else (0, "")
    tell(folder, "RunStarted", steps=steps, resumed_at=step, method="lora", learning_rate=1e-3)
    while step < steps and not stop:
        step += 1
        state = hashlib.sha256(f"{state}{step}".encode()).hexdigest()
        tell(
            folder, "StepDone", step=step, epoch=0.0, loss=1 / step, grad_norm=1.0, learning_rate=1e-3, tokens=10,
            supervised=5, seconds=0.01, memory_mb=1.0,
        )  # fmt: skip
        if how.get("suicide") == step:
            os.kill(os.getpid(), signal.SIGKILL)
        if step % 3 == 0 or stop:
            keep(kept, step, state)
        time.sleep(how.get("seconds", 0.01))
    keep(kept, step, state)
    tell(
        folder,
        "RunFinished",
        step=step,
        reason="complete" if step == steps else "interrupted",
        seconds=1.0,
        memory_mb=1,
    )
    if step == steps:
        (folder / "adapter.txt").write_text(state)
        (folder / "run.lock").write_text("{}")
    lock.truncate(0)
    return 0 if step == steps else 143


def keep(kept: Path, step: int, state: str) -> None:
    partial = kept.with_suffix(".partial")
    partial.write_text(json.dumps([step, state]))
    partial.replace(kept)


def tell(folder: Path, event: str, **values: object) -> None:
    line = json.dumps({"event": event, "time": time.time(), **values}) + "\n"
    with (folder / "events.jsonl").open("ab", buffering=0) as file:
        end = file.seek(0, 2)
        torn = end and (folder / "events.jsonl").read_bytes()[-1:] != b"\n"
        file.write((b"\n" if torn else b"") + line.encode())


if __name__ == "__main__":
    sys.exit(play(Path(sys.argv[sys.argv.index("--config") + 1])))
