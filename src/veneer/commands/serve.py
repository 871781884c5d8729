"""The command `serve`: a model and its adapters over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import (
    compute_of,
    device_option,
    dtype_option,
    examples,
    held_option,
    host_option,
    method_of,
    model_option,
    port_option,
)
from veneer.commands.parameter_types import COUNT, PATH, Count
from veneer.enums import Dtype

MEGABYTE = 10**6
QUESTIONS = 1000
CERTIFICATE = "selfcheck.json"


@click.command(
    epilog=examples(
        "serve --model MODEL --adapters adapters/",
        "serve --model MODEL --adapters adapters/\n--host 0.0.0.0 --key-file keys.txt",
        "serve --model MODEL --adapters adapters/ --selfcheck",
    )
)
@model_option
@click.option(
    "--adapters",
    type=PATH,
    help="A folder of adapters. Each is a folder, and requests ask for it by the folder's name.",
)
@click.option("--name", help="The base's name in requests. By default the last part of --model.")
@host_option
@port_option(8000)
@click.option(
    "--key-file",
    type=PATH,
    help="A file of keys, one a line (mode 600). Every route but /health asks for one of them. It must be given if "
    "other machines can reach --host.",
)
@click.option(
    "--admin-key-file",
    type=PATH,
    help="A file of keys for loading and unloading adapters. Without it, adapters cannot be loaded or unloaded by "
    "request.",
)
@click.option(
    "--allowed-host", multiple=True, metavar="NAME", help="A name by which clients call the server, besides localhost."
)
@click.option(
    "--allowed-origin",
    multiple=True,
    metavar="ORIGIN",
    help="The origin of a web page that may call the server, besides its own.",
)
@click.option(
    "--adapter-memory",
    type=Count(),
    default=1000,
    show_default=True,
    metavar="MB",
    help="The memory that adapters may use, in MB.",
)
@click.option(
    "--adapter-dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="The dtype in which adapters are held in memory; bfloat16 needs half the memory.",
)
@click.option(
    "--pin",
    "pinned",
    multiple=True,
    metavar="ADAPTER",
    help="An adapter that is loaded at the start and stays in memory.",
)
@click.option(
    "--cache-memory",
    type=Count(),
    default=1000,
    show_default=True,
    metavar="MB",
    help="The memory that keys and values may use, in MB.",
)
@held_option(
    "By default as when the adapters were trained, if all recorded runs agree; else unquantised. A warning names "
    "adapters that were trained with another base."
)
@device_option
@dtype_option
@click.option(
    "--selfcheck",
    is_flag=True,
    help="Measure whether requests affect each other's answers, and do not serve: many questions are asked at once, "
    "every answer is compared with that of a fresh server, and a certificate is written. The exit code is 1 if an "
    "answer differs.",
)
@click.option("--questions", type=COUNT, help=f"The number of questions of --selfcheck. [default: {QUESTIONS:,}]")
@click.option(
    "--certificate",
    type=PATH,
    help=f"The file that --selfcheck writes. [default: {CERTIFICATE}]",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a line of JSON with the address once requests are accepted; with --selfcheck print the certificate.",
)
def serve(
    model: str,
    adapters: Path | None,
    name: str | None,
    host: str,
    port: int,
    key_file: Path | None,
    admin_key_file: Path | None,
    allowed_host: tuple[str, ...],
    allowed_origin: tuple[str, ...],
    adapter_memory: int,
    adapter_dtype: str,
    pinned: tuple[str, ...],
    cache_memory: int,
    method: str | None,
    device: str,
    dtype: str,
    selfcheck: bool,
    questions: int | None,
    certificate: Path | None,
    as_json: bool,
) -> None:
    """Serve a model and its adapters over HTTP.

    The server speaks the protocols of OpenAI and Ollama. It can be reached only from this machine, unless --host and
    --key-file say otherwise. Ctrl-C or SIGTERM ends it once the running requests are answered.
    """
    if not selfcheck and (questions is not None or certificate is not None):
        raise click.UsageError("--questions and --certificate need --selfcheck")
    from veneer.screens.serve import selfcheck_visibly, serve_visibly
    from veneer.serving.request import ServeRequest

    request = ServeRequest(
        model=model,
        adapters=adapters,
        name=name,
        host=host,
        port=port,
        key_file=key_file,
        admin_key_file=admin_key_file,
        allowed_hosts=allowed_host,
        allowed_origins=allowed_origin,
        adapter_memory=adapter_memory * MEGABYTE,
        adapter_dtype=Dtype(adapter_dtype),
        pinned=pinned,
        cache_memory=cache_memory * MEGABYTE,
        method=method_of(method),
        compute=compute_of(device, dtype),
    )
    if not selfcheck:
        serve_visibly(request, as_json=as_json)
        return
    path = certificate or Path(CERTIFICATE)
    selfcheck_visibly(request, questions or QUESTIONS, path, as_json=as_json).refuse()
