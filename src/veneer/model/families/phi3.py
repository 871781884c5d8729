"""Phi-3 and Phi-4: fused projections and LongRoPE."""

from __future__ import annotations

from typing import Any

from veneer.model.families.fields import Config, activation, alike, refuse, rope, sizes, switch, window
from veneer.model.shape import AttentionSpec, DecoderSpec, Projections, RopeKind


def phi3(config: Config) -> DecoderSpec:
    """Phi-3, 3.5, Phi-4 and Phi-4-mini: fused projections, LongRoPE, part of each head rotated."""
    refuse(config, {"attention_bias": (None, False), "mlp_bias": (None, False)})
    shape = sizes(config)
    settings = _longrope_named(config)
    rotary = rope(settings, shape["head_dim"], share=1.0, kinds=(RopeKind.DEFAULT, RopeKind.LONGROPE, RopeKind.FACTORS))
    return DecoderSpec(
        **shape,
        layers=alike(config, rotary, AttentionSpec(window=window(config))),
        tied_head=switch(config, "tie_word_embeddings", False),
        projections=Projections.FUSED,
        activation=activation(config),
    )


def _longrope_named(config: Config) -> dict[str, Any]:
    """The configuration with LongRoPE under its name: early files of Phi-3 call it `su` or `yarn`."""
    settings = {"original_max_position_embeddings": 4096, **config}
    for key in ("rope_parameters", "rope_scaling"):
        group = settings.get(key)
        if isinstance(group, dict) and group.get("rope_type", group.get("type")) in ("su", "yarn"):
            settings[key] = group | {"rope_type": "longrope"}
    return settings
