"""Links to the adapters of runs, in a folder from which the service of a base loads its adapters by their names."""

from __future__ import annotations

from pathlib import Path

from veneer.io.files import reported
from veneer.io.leftovers import partial_of


def link(place: Path, target: Path) -> None:
    """Make `place` a link to a folder. A link that points elsewhere is replaced: links outlive the studio, and the
    folder of runs may have been moved or copied since, together with its links.

    Raises:
        OutputError: the link cannot be written.
    """
    whole = target.resolve()
    if place.is_symlink() and place.readlink() == whole:
        return
    # Next to the folder, where nobody looks for adapters.
    partial = partial_of(place.parent.with_name(place.name))
    with reported(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.symlink_to(whole)
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)
