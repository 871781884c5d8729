"""The text files next to tokenizer.json, and the chat templates in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from veneer.errors import ModelError
from veneer.io.json_objects import object_if_there

DEFAULT, TOOL_USE = "default", "tool_use"
"""The names of the chat templates that are used automatically, as in transformers: the second one for conversations
with tools, if it exists. Others must be requested by name, which nothing here does."""
OTHERS = "additional_chat_templates"
"""The folder of chat templates that have another name."""


def chat_templates(path: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates of a model's directory by name; a template without a name is the default.

    Separate files come before the configuration, all together.

    Args:
        path: the directory.
        config: content of its tokenizer_config.json.

    Raises:
        ModelError: a file is damaged.
    """
    files = {file.name.removesuffix(".jinja"): file for file in sorted((path / OTHERS).glob("*.jinja"))}
    if (path / "chat_template.jinja").is_file():
        files = {DEFAULT: path / "chat_template.jinja", **files}
    if files:
        return {name: text_in(file) for name, file in files.items()}
    value = object_if_there(path / "chat_template.json").get("chat_template", config.get("chat_template"))
    if isinstance(value, list):
        value = {str(entry.get("name")): entry.get("template") for entry in value if isinstance(entry, dict)}
    found = value if isinstance(value, dict) else {DEFAULT: value}
    return {str(name): template for name, template in found.items() if isinstance(template, str)}


def as_configured(templates: Mapping[str, str]) -> str | list[dict[str, str]]:
    """The chat templates in tokenizer_config.json: a single default as a string, several as a list."""
    if templates.keys() == {DEFAULT}:
        return templates[DEFAULT]
    return [{"name": name, "template": template} for name, template in templates.items()]


def text_in(file: Path) -> str:
    """The text of a file. Raises ModelError if it cannot be read."""
    try:
        return file.read_bytes().decode("utf-8")
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{file} is not UTF-8 text.") from error
