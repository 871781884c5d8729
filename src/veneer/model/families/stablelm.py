"""StableLM: LayerNorm and partial rotary positions."""

from __future__ import annotations

from veneer.model.families.fields import Config, activation, alike, rope, sizes, switch
from veneer.model.shape import Block, DecoderSpec, HeadNorm, Norm


def stablelm(config: Config) -> DecoderSpec:
    """StableLM: LayerNorm with bias, a quarter of each head turned."""
    shape = sizes(config, eps="layer_norm_eps")
    own = switch(config, "qk_layernorm", False)
    return DecoderSpec(
        **shape,
        layers=alike(config, rope(config, shape["head_dim"], share=0.25)),
        tied_head=switch(config, "tie_word_embeddings", False),
        attention_bias=switch(config, "use_qkv_bias", False),
        norm=Norm.LAYER_BIAS,
        block=Block.PARALLEL if switch(config, "use_parallel_residual", False) else Block.PRE,
        head_norm=HeadNorm.OWN_MODULES if own else HeadNorm.NONE,
        head_norm_names=("q_layernorm", "k_layernorm"),
        activation=activation(config),
    )
