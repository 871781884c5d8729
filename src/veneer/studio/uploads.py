"""Receives an uploaded file from a form, with limits of size and time, and writes it to the disk piece by piece."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from veneer.errors import ConfigError
from veneer.http_server.body import bounded
from veneer.http_server.errors import ApiError
from veneer.io.files import reported
from veneer.studio.fields import refuse_unknown
from veneer.studio.files import FileStore, StoredFile

MOST_UPLOAD_BYTES = 2 * 10**9
"""The largest size of a form with its file."""
PIECE_BYTES = 1 << 20


async def receive_file(request: Request, store: FileStore) -> StoredFile:
    """Receive a file from a form with the fields `file` and `purpose`.

    Raises:
        ApiError: 413 if the form is too large, 408 if it does not arrive in time, 400 if it is not such a form or the
            kind of the file is not supported.
        OutputError: the file cannot be written.
    """
    form = None
    try:
        # A form that is too large for memory is kept in this folder until its file is copied.
        with reported(Path(tempfile.gettempdir())):
            form = await Request(request.scope, bounded(request.receive, MOST_UPLOAD_BYTES)).form(
                max_files=1, max_fields=8
            )
        refuse_unknown(form, ("file", "purpose"), "the form")
        file, purpose = form.get("file"), form.get("purpose", "fine-tune")
        if not isinstance(file, UploadFile) or not file.filename:
            raise ApiError(400, "file is missing; send a form with a file", param="file")
        if purpose != "fine-tune":
            raise ApiError(400, "purpose must be fine-tune", param="purpose")
        try:
            with store.new(file.filename, str(purpose)) as (stored, place):
                await _write(file, place)
        except ConfigError as error:
            raise ApiError(400, str(error), param="file") from error
        found = store.get(stored.id)
        assert isinstance(found, StoredFile)
        return found
    except (MultiPartException, HTTPException) as error:
        message = error.detail if isinstance(error, HTTPException) else error.message
        raise ApiError(400, f"the form cannot be read: {message}") from error
    finally:
        if form is not None:
            await form.close()


async def _write(file: UploadFile, place: Path) -> None:
    with place.open("wb") as target:
        while piece := await file.read(PIECE_BYTES):
            await asyncio.to_thread(target.write, piece)
