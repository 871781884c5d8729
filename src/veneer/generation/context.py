"""The room that a prompt leaves for its answer in a model's context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from veneer.errors import DataError, listing
from veneer.generation.sampling import Sampling


def refuse_full(prompts: Iterable[tuple[str, int]], context: int) -> None:
    """Refuse prompts that leave no room for an answer.

    Args:
        prompts: the name of each prompt for messages, and its number of tokens.
        context: the number of tokens in the model's context.

    Raises:
        DataError: there are such prompts; all are named.
    """
    full = [f"{name}: {tokens:,} tokens" for name, tokens in prompts if tokens >= context]
    if full:
        raise DataError(
            f"the model's context has {context:,} tokens, which leaves no room for an answer to\n"
            f"{listing(full)}\nGive a shorter text."
        )


def within(sampling: Sampling, prompt_tokens: int, context: int) -> Sampling:
    """The settings for one prompt: an answer ends at the end of the context."""
    most = min(sampling.max_new_tokens, context - prompt_tokens)
    return replace(sampling, max_new_tokens=most, min_new_tokens=min(sampling.min_new_tokens, most))


def is_cut(sampling: Sampling, prompt_tokens: int, new_tokens: int, context: int) -> bool:
    """Whether the context, and not the requested length of the answer, has ended an answer."""
    return prompt_tokens + new_tokens == context and new_tokens < sampling.max_new_tokens


def cut_warning(names: Sequence[str], context: int) -> str:
    """The warning about answers that the context has cut. Without names there is only one answer."""
    if not names:
        return f"the answer ends where the model's context of {context:,} tokens does"
    return f"answers end where the model's context of {context:,} tokens does:\n{listing(names)}"
