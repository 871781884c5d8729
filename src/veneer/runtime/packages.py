"""Which packages are installed: the libraries of an extra, and other programs."""

from __future__ import annotations

from importlib.util import find_spec


def installed(package: str) -> bool:
    """Whether a package is installed. A mere folder of its name does not count: `wandb` makes one in the working
    folder."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
