"""The compiled kernels that can be tested here."""

from __future__ import annotations

from veneer.native.build import library_path
from veneer.native.processor import runnable_variants

COMPILED = [name for name in runnable_variants() if library_path(name).is_file()]
"""The variants that this processor runs and that were compiled, best first."""
