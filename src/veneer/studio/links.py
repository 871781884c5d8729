"""Links to the adapters of runs, in a folder from which the service of a base takes its adapters by their names."""

from __future__ import annotations

import os
from pathlib import Path

from veneer.io.files import reported
from veneer.io.leftovers import PARTIAL


def link(place: Path, target: Path) -> None:
    """Make `place` a link to a folder. One that leads elsewhere is replaced: links outlive the studio, and the folder
    of runs may have been moved or copied since, with the links in it.

    Raises:
        OutputError: it cannot be written.
    """
    whole = target.resolve()
    if place.is_symlink() and place.readlink() == whole:
        return
    # Beside the folder, where nobody looks for adapters.
    partial = place.parent.with_name(f"{PARTIAL}{os.getpid()}-{place.name}")
    with reported(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        partial.symlink_to(whole)
        partial.replace(place)
