"""The syntax trees of all modules, for tests of how the code is written."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "veneer"


@cache
def trees() -> dict[str, ast.Module]:
    """Every module by its path below the package."""
    return {
        file.relative_to(SOURCE).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
        for file in sorted(SOURCE.rglob("*.py"))
    }


@contextmanager
def trees_kept() -> Iterator[None]:
    """Keep the trees within the block, and collect no garbage there. They are millions of objects, which each
    collection walks: kept for longer, they made all later tests of the process take twice as long."""
    gc.disable()
    try:
        yield
    finally:
        trees.cache_clear()
        gc.enable()
