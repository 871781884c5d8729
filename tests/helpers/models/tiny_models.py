"""Tiny random models: transformers' model as the oracle, and ours opened from the files that it saves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from veneer.io.checkpoint import Checkpoint, open_checkpoint
from veneer.loading.forms import WeightForm
from veneer.loading.how import Loading
from veneer.loading.load import load_model
from veneer.model import recompute as recompute_module
from veneer.model.attention import PackedAttention
from veneer.model.decoder import CausalLM
from veneer.native import library

SHAPES: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def tiny_llama(seed: int = 0, changes: dict[str, Any] | None = None) -> LlamaForCausalLM:
    """A float32 model in evaluation mode; every tensor is random, norms and biases too."""
    return randomised(LlamaForCausalLM(LlamaConfig(**(SHAPES | (changes or {})))), seed)


def tiny(model_type: str, seed: int = 0, changes: dict[str, Any] | None = None) -> PreTrainedModel:
    """The same of another family; attention is computed step by step, since some of transformers' fused kernels leave
    out soft-caps."""
    config = AutoConfig.for_model(model_type, **(SHAPES | (changes or {})))
    return randomised(AutoModelForCausalLM.from_config(config, attn_implementation="eager"), seed)


Model = TypeVar("Model", bound=torch.nn.Module)


def randomised(model: Model, seed: int) -> Model:
    """The model in evaluation mode, every tensor of it drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight") or "norms." in name:
                parameter.copy_(1 + 0.1 * drawn)
            elif "embed_tokens" in name:
                parameter.copy_(drawn)
            else:
                parameter.copy_(0.15 * drawn)
    return model.eval()


def saved(model: PreTrainedModel, path: Path, **settings: Any) -> Checkpoint:
    """The files of `model`, written by transformers and opened by us."""
    model.save_pretrained(path, **settings)
    return open_checkpoint(path)


def ours(
    model: PreTrainedModel,
    path: Path,
    *,
    form: WeightForm = WeightForm.FROZEN,
    dtype: torch.dtype = torch.float32,
) -> CausalLM:
    """Our model from the files of `model`."""
    return load_model(saved(model, path), Loading(form=form, dtype=dtype)).eval()


BACKENDS = ("torch", "native")


def use_backend(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute with the compiled kernels (skips the test where there are none), or with torch's operations alone."""
    if name == "native":
        if library.kernels() is None:
            pytest.skip(f"no compiled kernels: {library.compiled_choice().reason}")
        return
    original = library.kernels
    for path, module in list(sys.modules.items()):
        if path.startswith("veneer.") and vars(module).get("kernels") is original:
            monkeypatch.setattr(module, "kernels", lambda: None)


def documents(lengths: Sequence[int], *, seed: int = 0, vocab: int = SHAPES["vocab_size"]) -> list[list[int]]:
    """Random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocab, (length,), generator=generator).tolist() for length in lengths]


def packed_hidden(model: CausalLM, texts: Sequence[Sequence[int]]) -> Tensor:
    """Hidden states of documents laid end to end."""
    lengths = [len(text) for text in texts]
    tokens = torch.tensor([token for text in texts for token in text])
    positions = torch.cat([torch.arange(length) for length in lengths])
    return model.hidden(tokens, positions, PackedAttention(lengths))


def packed_logits(model: CausalLM, texts: Sequence[Sequence[int]]) -> Tensor:
    """Logits of documents laid end to end."""
    return model.logits(packed_hidden(model, texts))


def their_logits(model: torch.nn.Module, texts: Sequence[Sequence[int]]) -> Tensor:
    """transformers' logits, one document a call, laid end to end."""
    return torch.cat([model(input_ids=torch.tensor([list(text)])).logits[0] for text in texts])


def largest_difference(a: Tensor, b: Tensor) -> float:
    """max |a − b|, in float64."""
    assert a.shape == b.shape
    return float((a.detach().double() - b.detach().double()).abs().max())


def storage_address(tensor: Tensor) -> int:
    """Where the storage of a tensor begins."""
    return tensor.untyped_storage().data_ptr()


@contextmanager
def saved_for_backward(
    monkeypatch: pytest.MonkeyPatch, place: Callable[[Tensor], int] = storage_address
) -> Iterator[dict[int, Tensor]]:
    """Every tensor that autograd saves within the block, by its storage, which `place` tells from others.

    Hooks do not nest, so those of `recomputed_in_backward` are listened to as well.
    """
    found: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        found[place(tensor)] = tensor
        return tensor

    pack_of = recompute_module._RecomputedTensor.pack

    def listening(self: Any, tensor: Tensor) -> Any:
        kept = pack_of(self, tensor)
        return note(kept) if isinstance(kept, Tensor) else kept

    with monkeypatch.context() as patch:
        patch.setattr(recompute_module._RecomputedTensor, "pack", listening)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            yield found
