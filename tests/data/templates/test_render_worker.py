"""The process answers what it is asked, and ends by itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from veneer.data.templates import render_wire as wire

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are the system's, and differ elsewhere")

DESCRIPTION = wire.request("describe", "x", {}, [], None)


def test_it_ends_by_itself_when_its_input_ends_or_nothing_is_asked() -> None:
    program = "import veneer.data.templates.render_worker as worker\nworker.IDLE = 0.2\nworker.serve()"
    closed = subprocess.run([sys.executable, "-c", program], input=DESCRIPTION, capture_output=True, check=False)
    assert (closed.returncode, closed.stdout) == (0, b"")
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle:
        assert idle.stdin is not None
        assert idle.stdout is not None
        idle.stdin.write(DESCRIPTION + wire.request("render", [], None, False))
        idle.stdin.flush()
        (length,) = wire.FRAME_LENGTH.unpack(idle.stdout.read(wire.FRAME_LENGTH.size))
        assert wire.read_answer(idle.stdout.read(length)) == {"text": "x"}
        assert idle.wait(timeout=60) == 0
