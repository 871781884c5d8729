"""Which options of an adapter can be combined. Others are refused with the reason, before anything is loaded.

The table below has all exclusions. `docs/combinations.md` is made from it, and a test trains every pair that it allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from veneer.adapters.layers.experts import on_experts, on_feed_forward
from veneer.adapters.spec import LoraSpec
from veneer.adapters.targets import EMBEDDING, HEAD, matches
from veneer.enums import Bias, Factors, Init, Method, Scaling, Variant
from veneer.errors import AdapterError, listing
from veneer.model.language import ModelSpec


class Feature(Enum):
    """An option that is not the default. The value is its spelling in a configuration."""

    GAUSSIAN = "init: gaussian"
    ORTHOGONAL = "init: orthogonal"
    PISSA = "init: pissa"
    PISSA_FAST = "init: pissa_fast"
    OLORA = "init: olora"
    LOFTQ = "init: loftq"
    EVA = "init: eva"
    RSLORA = "scaling: rslora"
    DORA = "variant: dora"
    B_ALONE = "factors: b"
    DROPOUT = "dropout"
    RANK_PATTERN = "rank_pattern"
    ALPHA_PATTERN = "alpha_pattern"
    EXCLUDE = "exclude_modules"
    LAYERS = "layers_to_transform"
    EMBEDDING = "target embed_tokens"
    HEAD = "target lm_head"
    EXPERTS = "target experts"
    FEED_FORWARD = "target a mixture's router or dense layers"
    BIAS = "bias"
    FACTOR_BIAS = "lora_bias"
    SAVED = "modules_to_save"
    SAVED_EMBEDDING = "modules_to_save embed_tokens"
    TOKENS = "trainable_tokens"
    DENSE = "method: lora"
    QUANTIZED = "method: qlora"


def exclude(*excluded: Feature, reason: str) -> dict[Feature, str]:
    """A table with one reason against each of the features."""
    return dict.fromkeys(excluded, reason)


_ONE_WAY = "both would train the same rows; choose one"

EXCLUSIONS: dict[Feature, dict[Feature, str]] = {
    Feature.LOFTQ: exclude(Feature.DENSE, reason="it corrects the error of quantisation, and nothing is quantised"),
    Feature.DORA: exclude(
        Feature.FACTOR_BIAS,
        reason="PEFT includes B's bias in the norm of the weight, where it does not belong; only PEFT could use "
        "such an adapter",
    ),
    Feature.B_ALONE: exclude(
        Feature.EMBEDDING, reason="the update of an embedding starts with A = 0, and would stay zero"
    ),
    Feature.LAYERS: exclude(
        Feature.EMBEDDING,
        Feature.HEAD,
        reason="layers_to_transform chooses among the layers, and these are outside of them",
    ),
    Feature.EMBEDDING: exclude(Feature.TOKENS, Feature.SAVED_EMBEDDING, reason=_ONE_WAY),
    Feature.SAVED_EMBEDDING: exclude(Feature.TOKENS, reason=_ONE_WAY),
    Feature.FACTOR_BIAS: exclude(
        Feature.EMBEDDING, reason="an embedding has no product to which B's bias could be added (PEFT leaves it out)"
    ),
    Feature.EXPERTS: exclude(
        Feature.ORTHOGONAL,
        Feature.PISSA,
        Feature.PISSA_FAST,
        Feature.OLORA,
        Feature.LOFTQ,
        Feature.EVA,
        reason="PEFT has no such start for experts' parameters; name only the attention's layers in target_modules",
    )
    | exclude(
        Feature.DORA,
        Feature.FACTOR_BIAS,
        reason="an adapter on experts' parameters has two factors and nothing else, in PEFT too",
    )
    | exclude(
        Feature.DROPOUT,
        reason="PEFT adds the update to the experts' weights, where no input can be dropped, and refuses it",
    )
    | exclude(
        Feature.BIAS,
        reason="PEFT then trains everything with `bias` in its name, also in experts and routers; veneer's adapter "
        "would be a different one in PEFT",
    )
    | exclude(
        Feature.B_ALONE,
        reason="the projection of LoRA-FA is that of one A, and an expert's factors are parts of larger ones",
    ),
    Feature.FEED_FORWARD: exclude(
        Feature.DORA,
        Feature.FACTOR_BIAS,
        reason="PEFT takes them for parameters, whose adapter has two factors and nothing else; name other layers in "
        "target_modules",
    )
    | exclude(
        Feature.DROPOUT,
        reason="PEFT takes them for parameters: it adds the update to the weights, where no input can be dropped, and "
        "refuses it",
    ),
    Feature.DENSE: exclude(Feature.QUANTIZED, reason="the base is held one way"),
}
"""Pairs of features that exclude each other, each pair once, with the reason."""

_INITS = {
    Init.GAUSSIAN: Feature.GAUSSIAN,
    Init.ORTHOGONAL: Feature.ORTHOGONAL,
    Init.PISSA: Feature.PISSA,
    Init.PISSA_FAST: Feature.PISSA_FAST,
    Init.OLORA: Feature.OLORA,
    Init.LOFTQ: Feature.LOFTQ,
    Init.EVA: Feature.EVA,
}


def reason_against(one: Feature, other: Feature) -> str | None:
    """Why two features exclude each other, or None if they do not. Two initialisations always do."""
    if one is not other and one in _INITS.values() and other in _INITS.values():
        return "an adapter has one initialisation"
    return EXCLUSIONS.get(one, {}).get(other) or EXCLUSIONS.get(other, {}).get(one)


def features(
    spec: LoraSpec, method: Method | None = None, *, experts: bool = False, feed_forward: bool = False
) -> list[Feature]:
    """The features that an adapter uses, in the order of `Feature`.

    Args:
        spec: the adapter.
        method: the method of the run, if it is known.
        experts: whether the adapter targets experts, which depends on the model.
        feed_forward: whether it targets a router or a dense feed-forward layer of a mixture.
    """
    used = {
        Feature.RSLORA: spec.scaling is Scaling.RSLORA,
        Feature.DORA: spec.variant is Variant.DORA,
        Feature.B_ALONE: spec.factors is Factors.B,
        Feature.DROPOUT: spec.dropout > 0,
        Feature.RANK_PATTERN: bool(spec.rank_pattern),
        Feature.ALPHA_PATTERN: bool(spec.alpha_pattern),
        Feature.EXCLUDE: bool(spec.exclude_modules),
        Feature.LAYERS: spec.layers_to_transform is not None,
        Feature.EMBEDDING: matches(spec.target_modules, EMBEDDING) and not matches(spec.exclude_modules, EMBEDDING),
        Feature.HEAD: matches(spec.target_modules, HEAD) and not matches(spec.exclude_modules, HEAD),
        Feature.EXPERTS: experts,
        Feature.FEED_FORWARD: feed_forward,
        Feature.BIAS: spec.bias is not Bias.NONE,
        Feature.FACTOR_BIAS: spec.factor_bias,
        Feature.SAVED: bool(spec.modules_to_save),
        Feature.SAVED_EMBEDDING: matches(spec.modules_to_save, EMBEDDING),
        Feature.TOKENS: bool(spec.trainable_tokens),
        Feature.DENSE: method is Method.LORA,
        Feature.QUANTIZED: method is Method.QLORA,
    }
    used |= {feature: spec.init is init for init, feature in _INITS.items()}
    return [feature for feature in Feature if used[feature]]


def refuse(spec: LoraSpec, method: Method | None = None, *, experts: bool = False, feed_forward: bool = False) -> None:
    """Refuse an adapter whose options exclude each other. The arguments are those of `features`.

    Raises:
        AdapterError: every such pair is named with its reason.
    """
    used = features(spec, method, experts=experts, feed_forward=feed_forward)
    if EMBEDDING not in spec.trainable_tokens:
        # Options that exclude trained tokens train the embedding: rows of the head are separate (see `check_tokens`).
        used = [feature for feature in used if feature is not Feature.TOKENS]
    problems = [
        f"{one.value} and {other.value}: {reason}"
        for index, one in enumerate(used)
        for other in used[index + 1 :]
        if (reason := reason_against(one, other)) is not None
    ]
    if spec.init is Init.ORTHOGONAL:
        odd = {rank for rank in (spec.rank, *spec.rank_pattern.values()) if rank % 2}
        problems += [
            f"init: orthogonal and rank {rank}: it halves the rank, which must be even" for rank in sorted(odd)
        ]
    if problems:
        raise AdapterError(f"these options of the adapter do not go together:\n{listing(problems)}")


def refuse_on(spec: LoraSpec, targets: Sequence[str], model: ModelSpec, method: Method | None = None) -> None:
    """Refuse an adapter whose options exclude each other on the paths that it goes to.

    Args:
        spec: the adapter.
        targets: paths that get an update.
        model: sizes of the model.
        method: the method of the run, if it is known.

    Raises:
        AdapterError: every such pair is named with its reason.
    """
    refuse(spec, method, experts=on_experts(targets), feed_forward=on_feed_forward(targets, model))


BEYOND_LINEAR = (
    *(Feature.EMBEDDING, Feature.HEAD, Feature.BIAS, Feature.SAVED, Feature.TOKENS, Feature.LOFTQ, Feature.EVA),
)
"""Features that need veneer's own decoder."""


def refuse_beyond_linear(spec: LoraSpec) -> None:
    """Refuse features that a model computed by transformers does not support: only linear layers get updates there.

    Raises:
        AdapterError: all such features are named.
    """
    problems = [feature.value for feature in features(spec) if feature in BEYOND_LINEAR]
    if problems:
        raise AdapterError(
            "on a model that transformers computes (backend hf) an adapter can only change linear layers other than "
            f"the head:\n{listing(problems)}\nLeave that out."
        )
