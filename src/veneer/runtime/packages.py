"""Which packages are installed: the libraries that an extra brings, and the programs of others."""

from __future__ import annotations

from importlib.util import find_spec


def installed(package: str) -> bool:
    """Whether a package is there. A folder of its name alone is none, as `wandb` makes one where a run is started."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None
