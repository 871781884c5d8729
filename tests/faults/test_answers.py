"""`veneer generate --output`, killed at random instants, answers every row once and in order, as a job left alone."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from helpers.adapters.peft_folders import write_adapter
from helpers.models.tiny import CommandLine
from helpers.processes.invoking import FLOAT32
from veneer.adapters.adapter import remove
from veneer.assistant.load import open_assistant
from veneer.config import ComputeSection
from veneer.model.decoder import CausalLM

ROWS = 60


@pytest.mark.repeated
def test_answers_killed_at_random_instants_are_those_of_a_job_that_nobody_killed(
    command_line: CommandLine, tiny_model: Path, tmp_path: Path, rounds: int
) -> None:
    model = open_assistant(str(tiny_model), compute=ComputeSection(device="cpu", dtype="float32")).model
    assert isinstance(model, CausalLM)
    for name in ("red", "green"):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        remove(model, write_adapter(tmp_path / "adapters" / name, model, rank=2 + len(name)))
    rows = [
        {"prompt": f"parcel {row}?", "completion": "-", "adapter": ["red", "green"][row % 2]} for row in range(ROWS)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def argv(output: Path) -> list[str]:
        options = ["--input", data, "--output", output, "--adapters", tmp_path / "adapters", "--max-new-tokens", 24]
        sampled = ["--temperature", "1.1", "--seed", "3", *FLOAT32]
        return ["generate", "--model", *map(str, (tiny_model, *options)), *sampled]

    command_line.run("--version")
    begun = time.perf_counter()
    assert command_line.run(*argv(tmp_path / "whole.jsonl")).code == 0
    seconds = time.perf_counter() - begun
    whole = (tmp_path / "whole.jsonl").read_bytes()
    assert whole.count(b"\n") == ROWS
    source = random.Random(rounds)
    kills = 0
    for number in range(2 * rounds if rounds > 1 else 1):
        output = tmp_path / f"{number}.jsonl"
        # Once the first answers are there, and at instants of the whole time.
        for moment in (None, source.uniform(0.2, 1.0) * seconds, source.uniform(0.2, 1.0) * seconds):
            ended = (
                command_line.run(*argv(output), when=output)
                if moment is None
                else command_line.run(*argv(output), after=moment)
            )
            assert ended.code in (0, -signal.SIGKILL), ended.err
            kills += ended.code == -signal.SIGKILL
        ended = command_line.run(*argv(output))
        assert ended.code == 0, ended.err
        assert output.read_bytes() == whole
    assert kills
