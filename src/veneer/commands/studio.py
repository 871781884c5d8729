"""The command `studio`: pages and jobs over a folder of runs."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import compute_of, device_option, dtype_option, examples, host_option, port_option
from veneer.commands.parameter_types import MODEL, PATH


@click.command(
    epilog=examples("studio --folder runs/ --model MODEL", "studio --folder runs/ --model MODEL --port 9000")
)
@click.option("--folder", required=True, type=PATH, help="The folder of the runs; it is created if it does not exist.")
@click.option(
    "--model",
    "models",
    type=MODEL,
    multiple=True,
    help="A base model that jobs may name, besides those of the runs in the folder: a directory, a GGUF file or a "
    "hub id.",
)
@host_option
@port_option(8080)
@click.option(
    "--key-file",
    type=PATH,
    help="A file of keys for programs, one a line (mode 600). By default a key is created in the folder. It must be "
    "given if other machines can reach --host.",
)
@click.option(
    "--allowed-host",
    multiple=True,
    metavar="NAME",
    help="A name by which browsers and programs reach the studio, besides localhost.",
)
@click.option(
    "--worker",
    "devices",
    multiple=True,
    metavar="DEVICE",
    help="A device that runs jobs: cpu, cuda:0, … By default all GPUs, or the CPU.",
)
@click.option(
    "--job-code",
    type=click.Choice(["refuse", "run"]),
    default="refuse",
    show_default=True,
    help="What happens to jobs whose rewards are Python code or programs. That code runs in processes of its own, "
    "with your permissions.",
)
@device_option
@dtype_option
@click.option("--json", "as_json", is_flag=True, help="Print the address, the link and the key's file as JSON.")
def studio(
    folder: Path,
    models: tuple[str, ...],
    host: str,
    port: int,
    key_file: Path | None,
    allowed_host: tuple[str, ...],
    devices: tuple[str, ...],
    job_code: str,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """Serve jobs and pages over a folder of runs.

    Open the link that is printed: it works once, in one browser. Programs use OpenAI's client with the key in the file
    that is printed.
    """
    from veneer.enums import JobCode
    from veneer.screens.studio import studio_visibly
    from veneer.studio.request import StudioRequest

    request = StudioRequest(
        folder=folder,
        models=models,
        host=host,
        port=port,
        key_file=key_file,
        allowed_hosts=allowed_host,
        devices=devices,
        compute=compute_of(device, dtype),
        job_code=JobCode(job_code),
    )
    studio_visibly(request, as_json=as_json)
