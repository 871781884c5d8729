"""`veneer studio`: serves pages and jobs over a folder of runs until the program is asked to stop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from veneer.arguments import check_types
from veneer.config import ComputeSection
from veneer.enums import JobCode, choice
from veneer.errors import ConfigError, Ended
from veneer.io.files import make_output_folder
from veneer.jobs.folder import STUDIO_FOLDER
from veneer.runtime.packages import installed
from veneer.runtime.signals import deferred, stop_signalled
from veneer.studio.request import PORT, StudioRequest, StudioRunning

if TYPE_CHECKING:
    from veneer.http_server.server import HttpServer
    from veneer.studio.studio import Studio

PACKAGES = ("starlette", "uvicorn", "llguidance", "prometheus_client", "python_multipart")
CHECK_STOP_SECONDS = 0.2
NOTICE = (
    "the current run keeps its last step and resumes when a studio is started again; press Ctrl-C again to stop at once"
)


def open_studio(
    folder: str | Path,
    *,
    models: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = PORT,
    key_file: str | Path | None = None,
    allowed_hosts: Sequence[str] = (),
    devices: Sequence[str] = (),
    compute: ComputeSection | None = None,
    job_code: JobCode | str = JobCode.REFUSE,
    on_start: Callable[[StudioRunning], None] = lambda running: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Serve pages and jobs over a folder of runs (`docs/studio.md`); the command is `veneer studio`.

    Args:
        folder: the folder of the runs. It is created if it does not exist.
        models: base models that jobs may name, besides those of the runs in the folder.
        host: the name or address to listen on. An address that other machines can reach needs a key file.
        port: the port; 0 chooses a free one.
        key_file: a file with the keys, one per line, that no other user may read. With None, a key is created in the
            folder.
        allowed_hosts: host names by which the studio is reached, in addition to `localhost` and addresses.
        devices: the devices for the jobs, each with a worker of its own. Empty means all GPUs, or the CPU if there are
            none.
        compute: device and dtype of the model for the chat.
        job_code: a `JobCode` or its value: whether jobs may contain rewards that are Python code or programs.
        on_start: called as soon as the studio accepts requests.
        stop: called several times a second. If it returns true, the studio ends as it does after a signal.

    Raises:
        ConfigError, OutputError, ModelError: an argument, the folder or a model cannot be used.
        Ended: a signal has asked the program to stop.
    """
    check_types(open_studio, locals())
    request = StudioRequest(
        folder=Path(folder),
        models=tuple(models),
        host=host,
        port=port,
        key_file=None if key_file is None else Path(key_file),
        allowed_hosts=tuple(allowed_hosts),
        devices=tuple(devices),
        compute=compute or ComputeSection(),
        job_code=choice(JobCode, job_code, "job_code"),
    )
    run_studio(request, on_start=on_start, stop=stop)


def run_studio(
    request: StudioRequest,
    *,
    on_start: Callable[[StudioRunning], None] = lambda running: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Serve a studio as `open_studio` does."""
    asked = threading.Event()
    with deferred(asked.set, NOTICE):
        with studio_server(request) as (server, _, running):
            on_start(running)
            while not (asked.is_set() or stop()):
                if not server.alive:
                    raise ConfigError("the studio has failed; the messages above say why")
                time.sleep(CHECK_STOP_SECONDS)
        if stop_signalled():
            raise Ended("the studio was asked to stop; jobs that were running resume when it is started again")


@contextmanager
def studio_server(request: StudioRequest) -> Iterator[tuple[HttpServer, Studio, StudioRunning]]:
    """Serve a studio within the block. Yields its server, the studio, and its addresses.

    Raises:
        ConfigError, OutputError, ModelError: the request, the folder or a model cannot be used.
    """
    missing = [name for name in PACKAGES if not installed(name)]
    if missing:
        raise ConfigError(f"the studio needs {', '.join(missing)}, not installed: pip install 'veneer[studio]'")
    from veneer.http_server.guard import Access
    from veneer.http_server.keys import read_keys
    from veneer.http_server.server import HttpServer, check_host
    from veneer.studio.app import build_studio_app
    from veneer.studio.bases import check_models
    from veneer.studio.sessions import Sessions, own_key
    from veneer.studio.studio import make_studio
    from veneer.studio.workers import worker_devices

    check_host(request.host, with_key=request.key_file is not None)
    check_models(request.models)
    request = replace(request, devices=worker_devices(request.devices))
    own = request.folder / STUDIO_FOLDER
    make_output_folder(own)
    key_file = request.key_file or own / "key"
    sessions = Sessions(own_key(key_file) if request.key_file is None else read_keys(key_file))
    studio = make_studio(request, sessions)
    named = {request.host.lower(), socket.gethostname().lower(), *(name.lower() for name in request.allowed_hosts)}
    app = build_studio_app(studio, Access(hosts=frozenset(named)))
    server = HttpServer(app, studio, with_key=True, host=request.host, port=request.port)
    studio.start()
    with server:
        yield server, studio, StudioRunning(server.url, f"{server.url}{sessions.link()}", key_file.resolve())
