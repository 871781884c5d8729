"""A command of veneer by the kernels of a narrower instruction set than the processor's.

    python benchmarks/held.py avx2 serve --model MODEL …

The command line itself has no such option: every run takes the best kernels.
"""

from __future__ import annotations

import sys

from veneer.__main__ import run
from veneer.native.library import use_variant

if __name__ == "__main__":
    use_variant(sys.argv.pop(1))
    run()
