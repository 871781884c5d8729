"""Files that may not be read: root, as which tests may run, reads everything, unless it acts as another user."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that another user may look into; pytest's own may be entered by their owner alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def as_another_user() -> Iterator[None]:
    """The block is another user's as the system sees it."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
