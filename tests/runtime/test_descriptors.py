import os
import subprocess
import sys

import pytest

from veneer.runtime.descriptors import silent_stdout

SCRIPT = """
import os, sys
from veneer.runtime.descriptors import silent_stdout
print("before", flush=True)
with silent_stdout():
    os.write(1, b"of a library\\n")
    os.write(2, b"an error\\n")
print("after")
"""


def run(script: str, *, before: str = "") -> subprocess.CompletedProcess[str]:
    command = f'{before} exec "{sys.executable}" -c "$SCRIPT"'
    return subprocess.run(
        ["bash", "-c", command], env={**os.environ, "SCRIPT": script}, capture_output=True, text=True, check=False
    )


def test_only_what_is_written_to_standard_output_meanwhile_is_dropped() -> None:
    done = run(SCRIPT)
    assert (done.stdout, done.stderr, done.returncode) == ("before\nafter\n", "an error\n", 0)


def test_a_process_without_standard_output_goes_on() -> None:
    done = run(
        "from veneer.runtime.descriptors import silent_stdout\nwith silent_stdout():\n    pass", before="exec 1>&-;"
    )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_standard_output_is_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="Bad file"), silent_stdout():
        os.write(-1, b"lost")
    os.write(1, b"seen\n")
    assert capfd.readouterr().out == "seen\n"
