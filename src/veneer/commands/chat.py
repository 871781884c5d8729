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
    model_option,
    sampling_of,
    sampling_options,
)


@click.command(epilog=examples("chat --model MODEL --adapter my-adapter"))
@model_option
@adapter_option
@sampling_options(512)
@base_option
@device_option
@dtype_option
def chat(
    model: str,
    adapter: Path | None,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    method: str | None,
    device: str,
    dtype: str,
) -> None:
    """Talk to a model in the terminal. An empty line or Ctrl-D ends the conversation, /new begins another."""
    from veneer.assistant import Conversation
    from veneer.screens.chat import converse
    from veneer.screens.loading import open_visibly

    settings = sampling_of(max_new_tokens, temperature, top_p, seed)
    assistant = open_visibly(assistant_of(model, adapter, method, device, dtype))
    converse(Conversation(assistant, system, settings))
