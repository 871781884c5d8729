"""Commands of veneer in processes of their own, whose peak of memory is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys

_PROGRAM = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(json.dumps([done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))
"""
"""A child's peak begins at the size of its parent, which is small here."""


def peak_of(*words: object) -> int:
    """Bytes that a command of veneer took at the most."""
    command = [sys.executable, "-S", "-c", _PROGRAM, sys.executable, "-m", "veneer", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    code, peak = json.loads(done.stdout)
    assert code == 0, done.stderr
    return int(peak)
