"""The folder `interpreted` is for a process in which Triton interprets; `test_interpreter.py` starts one for each file.

Triton decides by `TRITON_INTERPRET` when it is imported whether it compiles or interprets, for the whole process. Set
here, that would bind every other test; so it is set for subprocesses alone. To see one file's tests by themselves:
`TRITON_INTERPRET=1 pytest tests/gpu/interpreted/test_norm.py`.
"""

from __future__ import annotations

import os

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

collect_ignore = [] if INTERPRETED else ["interpreted"]
