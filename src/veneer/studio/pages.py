"""The pages: a few files of this package, which load nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

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
    """GET /static/{name}: a script, a style or a picture of the pages."""
    name = request.path_params["name"]
    if name not in names():
        raise ApiError(404, "there is no such file")
    return Response(_content(name), media_type=KINDS[name.rpartition(".")[2]], headers=HEADERS)


@cache
def names() -> frozenset[str]:
    """The names of the files of the pages. Only a file with one of these names is ever opened."""
    found = (entry.name for entry in files(__package__).joinpath("static").iterdir() if entry.is_file())
    return frozenset(name for name in found if name.rpartition(".")[2] in KINDS)


@cache
def _content(name: str) -> bytes:
    return files(__package__).joinpath("static").joinpath(name).read_bytes()
