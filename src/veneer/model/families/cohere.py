"""Command-R of Cohere: attention and feed-forward side by side."""

from __future__ import annotations

from veneer.model.families.fields import Config, activation, alike, number, rope, sizes, switch
from veneer.model.shape import DecoderSpec, Norm, NormPlacement, QkNorm, RopeLayout
from veneer.products import Scores


def cohere(config: Config) -> DecoderSpec:
    """Command-R: attention and feed-forward side by side, LayerNorm without bias, neighbours rotated together."""
    shape, bias = sizes(config, eps="layer_norm_eps"), switch(config, "attention_bias", False)
    own = switch(config, "use_qk_norm", False)
    rotary = rope(config, shape["head_dim"], theta=500_000.0, layout=RopeLayout.NEIGHBOURS)
    return DecoderSpec(
        **shape,
        layers=alike(config, rotary),
        tied_head=switch(config, "tie_word_embeddings", True),
        attention_bias=bias,
        output_bias=bias,
        norm=Norm.LAYER,
        norm_placement=NormPlacement.PARALLEL,
        qk_norm=QkNorm.OWN if own else QkNorm.NONE,
        activation=activation(config),
        scores=Scores(scale=number(config, "logit_scale", 0.0625)),
    )
