"""The choice of a model's backend, from its configuration and the user's setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from veneer.backends.base import Description
from veneer.config import RunConfig
from veneer.enums import Backend, Method, Products, Recompute
from veneer.errors import ConfigError, listing
from veneer.model.families.choose import FAMILIES

LIMITS = "no exact plan, no shared passes of several adapters, no serving and no GGUF export"
"""What `hf` cannot do."""


def backend_of(config: Mapping[str, Any], wanted: Backend) -> Backend:
    """VENEER or HF.

    Args:
        config: the model's config.json.
        wanted: the setting; AUTO chooses veneer's own decoder if it knows the architecture.
    """
    if wanted is not Backend.AUTO:
        return wanted
    return Backend.VENEER if str(config.get("model_type")) in FAMILIES else Backend.HF


def said(config: Mapping[str, Any], wanted: Backend) -> str:
    """A sentence about a model that transformers computes."""
    name = config.get("model_type")
    why = "backend hf, as requested" if wanted is Backend.HF else "veneer's own decoder does not know it, so backend hf"
    return f"model_type {name!r} is computed by transformers ({why}): {LIMITS}"


def refuse_settings(config: RunConfig, description: Description) -> None:
    """Refuse settings of a run that its model's backend does not have, all at once.

    Raises:
        ConfigError: there are such settings; the message names all of them.
    """
    can, problems = description.capabilities, []
    if config.method is Method.FULL and not can.full_fine_tuning:
        problems.append("method full: use lora or qlora")
    if config.compute.products is Products.INT8 and not can.int8_products:
        problems.append(f"compute.products {config.compute.products.value}: use exact")
    if config.lora.new_tokens and not can.new_tokens:
        problems.append("lora.new_tokens: the vocabulary stays as it is")
    if config.compute.recompute is Recompute.LAYERS and not can.recomputation:
        problems.append(
            f"compute.recompute layers: transformers cannot compute the layers of {description.spec.model_type} again; "
            "use never"
        )
    if problems:
        raise ConfigError(
            "these settings are for veneer's own decoder, and transformers computes this model (backend hf):\n"
            + listing(problems)
        )


def refuse_hf(what: str, config: Mapping[str, Any]) -> None:
    """Refuse something for a model that transformers would compute.

    Raises:
        ConfigError: veneer's own decoder does not know the architecture.
    """
    if backend_of(config, Backend.AUTO) is Backend.HF:
        known = ", ".join(sorted(FAMILIES))
        raise ConfigError(
            f"{what} works only with veneer's own decoder, which does not know model_type "
            f"{config.get('model_type')!r}; it knows {known}"
        )
