"""A run's configuration from nested values, and as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from veneer.config.checks import check
from veneer.config.run import RunConfig


def parse(values: Mapping[str, Any], *, where: str) -> RunConfig:
    """A checked configuration from nested values.

    Args:
        values: sections and keys, as in a YAML file.
        where: the name of the source in an error.

    Raises:
        ConfigError: keys are unknown (the nearest known one is suggested) or missing, or values are wrong; all are
            named.
    """
    config = RunConfig.model_validate(values, context=where)
    check(config)
    return config


def to_yaml(config: RunConfig) -> str:
    """The configuration as YAML that `parse` reads back to an equal one."""
    values = config.model_dump(mode="json")
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if all(character.isprintable() or character == "\n" for character in text):
        return text
    # Line separators and lone surrogates, which occur in odd file names, survive only as escapes.
    return str(yaml.safe_dump(values, sort_keys=False))
