"""OLMo-2: norms after attention and feed-forward."""

from __future__ import annotations

from veneer.model.families.fields import Config, activation, alike, refuse, rope, sizes, switch
from veneer.model.shape import DecoderSpec, Norm, NormPlacement, QkNorm


def olmo2(config: Config) -> DecoderSpec:
    """OLMo-2: norms after attention and feed-forward, and over all heads of queries and of keys at once."""
    refuse(config, {"clip_qkv": (None,)})
    shape, bias = sizes(config), switch(config, "attention_bias", False)
    return DecoderSpec(
        **shape,
        layers=alike(config, rope(config, shape["head_dim"])),
        tied_head=switch(config, "tie_word_embeddings", False),
        attention_bias=bias,
        output_bias=bias,
        norm=Norm.RMS_ONCE,
        norm_placement=NormPlacement.POST,
        qk_norm=QkNorm.WIDTH,
        activation=activation(config),
    )
