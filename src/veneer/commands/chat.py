"""The command `chat`: a conversation in the terminal."""

from __future__ import annotations

from pathlib import Path

import click

from veneer.commands.options import (
    adapter_option,
    assistant_of,
    base_option,
    device_option,
    dtype_option,
    examples,
    sampling_of,
    sampling_options,
)
from veneer.commands.parameter_types import MODEL, PATH


@click.command(
    epilog=examples(
        "chat --model MODEL --adapter my-adapter",
        "chat --server http://127.0.0.1:8000",
        "chat --server http://127.0.0.1:8000 --model my-adapter",
    )
)
@click.option(
    "--model",
    type=MODEL,
    help="The model: a directory, a GGUF file or a hub id. With --server, the name of the server's base or of one of "
    "its adapters; by default the first that it lists.",
)
@adapter_option
@click.option("--server", help="The address of a server (`veneer serve`) to talk to.")
@click.option("--key-file", type=PATH, help="A file whose first line is the key of --server (mode 600).")
@sampling_options(512)
@base_option
@device_option
@dtype_option
def chat(
    model: str | None,
    adapter: Path | None,
    server: str | None,
    key_file: Path | None,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    method: str | None,
    device: str,
    dtype: str,
) -> None:
    """Talk to a model in the terminal. An empty line, /exit or Ctrl-D ends the conversation, /new begins another."""
    from veneer.answering.remote import RemoteAssistant, first_model
    from veneer.assistant.conversation import Conversation
    from veneer.http_server.keys import first_key
    from veneer.screens.chat import converse
    from veneer.screens.console import console, say
    from veneer.screens.loading import open_visibly

    settings = sampling_of(max_new_tokens, temperature, top_p, seed)
    if server is not None:
        local = {
            "--adapter": adapter is not None,
            "--method": method is not None,
            "--device": device != "auto",
            "--dtype": dtype != "auto",
        }
        given = [name for name, is_given in local.items() if is_given]
        if given:
            raise click.UsageError(
                f"{', '.join(given)}: these options do not go with --server, where the server "
                "computes; leave them out, and name its base or adapter by --model"
            )
        key = None if key_file is None else first_key(key_file)
        if model is None:
            model = first_model(server, key)
            say(console(), f"{model} answers: it is the first of the server's models. Name another one by --model.")
        click.get_current_context().exit(converse(Conversation(RemoteAssistant(server, model, key), system, settings)))
    if model is None:
        raise click.MissingParameter(param_hint="'--model'", param_type="option")
    if key_file is not None:
        raise click.UsageError("--key-file needs --server")
    assistant = open_visibly(assistant_of(model, adapter, method, device, dtype))
    click.get_current_context().exit(converse(Conversation(assistant, system, settings)))
