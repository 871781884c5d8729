"""An adapter on a copy of its base: the model with the adapter is a separate model, which shares the base's weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TypeVar

from torch import nn

from veneer.adapters.adapter import Adapter
from veneer.adapters.files.store import has_own_tokens
from veneer.adapters.load import load_adapter
from veneer.errors import AdapterError
from veneer.io.tokenizer import Tokenizer
from veneer.model.decoder import CausalLM
from veneer.model.language import LanguageModel

M = TypeVar("M", bound=nn.Module)


def load_beside(model: LanguageModel, folder: Path, tokenizer: Tokenizer | None = None) -> tuple[CausalLM, Adapter]:
    """Load a saved adapter onto a copy of a model that shares all of its weights. The model itself stays as it is.

    Args:
        model: the base.
        folder: the folder of the adapter.
        tokenizer: see `refuse_own_tokens`.

    Returns:
        The copy, in evaluation mode without gradients, and the adapter in it.

    Raises:
        AdapterError: the adapter cannot be loaded, has tokens of its own, which the base's tokenizer does not have, or
            transformers computes the model.
        ModelError: the tokenizer in the folder is damaged.
    """
    if not isinstance(model, CausalLM):
        raise AdapterError(
            f"{folder}: a base that transformers computes cannot be shared with an adapter; merge the adapter instead"
        )
    twin = sharing_weights(model)
    adapter = load_adapter(twin, folder)
    refuse_own_tokens(twin, model, folder, tokenizer)
    twin.requires_grad_(False).eval()
    return twin, adapter


def refuse_own_tokens(twin: CausalLM, model: CausalLM, folder: Path, tokenizer: Tokenizer | None) -> None:
    """Refuse an adapter with tokens of its own, which the base's tokenizer does not have.

    Args:
        twin: the base with the adapter.
        model: the base without it.
        folder: the folder of the adapter.
        tokenizer: the base's tokenizer. Without it, tokens for which the base's embedding has rows to spare are not
            noticed.

    Raises:
        AdapterError: the adapter has such tokens.
        ModelError: the tokenizer in the folder is damaged.
    """
    grown = twin.spec.vocab_size != model.spec.vocab_size
    if grown or (tokenizer is not None and has_own_tokens(folder, tokenizer)):
        raise AdapterError(
            f"{folder} has tokens of its own, which the base's tokenizer does not know; merge it, or use it alone"
        )


def sharing_weights(model: CausalLM) -> CausalLM:
    """A copy of a model that has its own modules and shares the model's tensors."""
    return _copied(model, {})


def _copied(module: M, done: dict[int, nn.Module]) -> M:
    """A copy of a module and of those in it, each once. `done` holds the copies so far, by the identity of the
    original."""
    twin = copy.copy(module)
    done[id(module)] = twin
    twin._parameters, twin._buffers = dict(module._parameters), dict(module._buffers)
    twin._modules = {
        name: child if child is None else done.get(id(child)) or _copied(child, done)
        for name, child in module._modules.items()
    }
    return twin
