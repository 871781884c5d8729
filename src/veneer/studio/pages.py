"""The pages: a few files of this package, which load nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response

from veneer.http_server.errors import ApiError
from veneer.studio.studio import Studio

RULES = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": RULES,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
}
KINDS = {"js": "text/javascript", "css": "text/css", "html": "text/html", "svg": "image/svg+xml"}


async def index(studio: Studio, request: Request) -> Response:
    """GET /: the only page. It shows what the part of the address after `#` names."""
    return Response(_content("index.html"), media_type="text/html", headers=HEADERS)


async def static(studio: Studio, request: Request) -> Response:
    """GET /static/{path}: a script, a style or a picture of the pages."""
    path = request.path_params["path"]
    if path not in paths():
        raise ApiError(404, "there is no such file")
    return Response(_content(path), media_type=KINDS[path.rpartition(".")[2]], headers=HEADERS)


@cache
def paths() -> frozenset[str]:
    """The paths of the files of the pages, below their folder. Only a file with one of these paths is ever opened."""
    found = _files_below(files(__package__).joinpath("static"), "")
    return frozenset(path for path in found if path.rpartition(".")[2] in KINDS)


def _files_below(folder: Traversable, prefix: str) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_file():
            yield prefix + entry.name
        else:
            yield from _files_below(entry, f"{prefix}{entry.name}/")


@cache
def _content(path: str) -> bytes:
    return files(__package__).joinpath("static", path).read_bytes()
