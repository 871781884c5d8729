"""The command `serve`: a model and its adapters over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import (
    Count,
    base_option,
    compute_of,
    device_option,
    dtype_option,
    examples,
    method_of,
    model_option,
)

MEGABYTE = 10**6


@click.command(
    epilog=examples(
        "serve --model MODEL --adapters adapters/",
        "serve --model MODEL --adapters adapters/\n--host 0.0.0.0 --key-file keys.txt",
    )
)
@model_option
@click.option(
    "--adapters",
    type=click.Path(path_type=Path),
    help="A folder of adapters, each a folder of its own, whose name requests ask for.",
)
@click.option("--name", help="The base's name in requests. By default the last part of --model.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The name or address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port to listen on; 0 takes a free one.",
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="A file of keys, one a line (mode 600). Every route but /health asks for one of them. It must be given if "
    "other machines can reach --host.",
)
@click.option(
    "--admin-key-file",
    type=click.Path(path_type=Path),
    help="A file of keys for loading and unloading adapters. Without it that is not possible.",
)
@click.option(
    "--allowed-host", multiple=True, metavar="NAME", help="A name by which clients call the server, besides localhost."
)
@click.option(
    "--allowed-origin",
    multiple=True,
    metavar="ORIGIN",
    help="The origin of a web page elsewhere that may call the server.",
)
@click.option(
    "--adapter-memory",
    type=Count(),
    default=1000,
    show_default=True,
    metavar="MB",
    help="The megabytes that adapters may take in memory.",
)
@click.option(
    "--cache-memory",
    type=Count(),
    default=1000,
    show_default=True,
    metavar="MB",
    help="The megabytes that keys and values may take.",
)
@base_option
@device_option
@dtype_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print a line of JSON, with the address, once requests are taken."
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
    cache_memory: int,
    method: str | None,
    device: str,
    dtype: str,
    as_json: bool,
) -> None:
    """Serve a model and its adapters over HTTP.

    The interfaces are those of OpenAI and Ollama. The server can be reached from this machine alone, unless --host and
    --key-file say otherwise. Ctrl-C or SIGTERM ends it once the requests under way are answered.
    """
    from veneer.screens.serve import serve_visibly
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
        cache_memory=cache_memory * MEGABYTE,
        method=method_of(method),
        compute=compute_of(device, dtype),
    )
    serve_visibly(request, as_json=as_json)
