"""StableLM: LayerNorm and partial rotary positions."""

from __future__ import annotations

from veneer.model.families.fields import Config, activation, alike, rope, sizes, switch
from veneer.model.shape import DecoderSpec, Norm, NormPlacement, QkNorm


def stablelm(config: Config) -> DecoderSpec:
    """StableLM: LayerNorm with bias, a quarter of each head rotated."""
    shape = sizes(config, eps="layer_norm_eps")
    own = switch(config, "qk_layernorm", False)
    return DecoderSpec(
        **shape,
        layers=alike(config, rope(config, shape["head_dim"], share=0.25)),
        tied_head=switch(config, "tie_word_embeddings", False),
        attention_bias=switch(config, "use_qkv_bias", False),
        norm=Norm.LAYER_BIAS,
        norm_placement=NormPlacement.PARALLEL if switch(config, "use_parallel_residual", False) else NormPlacement.PRE,
        qk_norm=QkNorm.OWN_MODULES if own else QkNorm.NONE,
        qk_norm_names=("q_layernorm", "k_layernorm"),
        activation=activation(config),
    )
