"""Memory of attention beside its tensors: who computes it decides what it takes."""

from __future__ import annotations

import pytest
import torch

from helpers.training.plan_setups import SMOLLM2, setup
from veneer.model.windowed import BLOCK_ROWS
from veneer.planning.attention_scratch import FLASH_ROWS, attention_scratch, longest_seen, scratch_by_document
from veneer.planning.batch_shape import BatchShape

HEADS, KEY_HEADS, DIM = 9, 3, 64
GEMMA = SMOLLM2 | {
    "model_type": "gemma2", "head_dim": 64, "query_pre_attn_scalar": 64, "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0, "sliding_window": 256, "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip


def test_the_kernel_takes_float32_for_every_token_and_more_for_each_thread() -> None:
    short, long = (
        BatchShape(tokens=tokens, longest=64, supervised=8, documents=tokens // 64) for tokens in (512, 1024)
    )
    of = setup(device="cpu", threads=1)
    assert attention_scratch(of, long) - attention_scratch(of, short) == 2 * 4 * 512 * HEADS * DIM
    threads = [attention_scratch(setup(device="cpu", threads=count), short) for count in (1, 2, 3)]
    assert threads[1] - threads[0] == threads[2] - threads[1] > 0


def test_flash_attention_fills_up_every_document_and_expands_the_keys_of_a_group() -> None:
    cut = BatchShape(tokens=512, longest=128, supervised=8, documents=4)
    sums = 4 * (512 + 4 * FLASH_ROWS) * HEADS * DIM
    assert attention_scratch(setup(device="cuda"), cut) == sums + 2 * 512 * HEADS * DIM * 2
    alone = setup(SMOLLM2 | {"num_key_value_heads": HEADS}, device="cuda")
    assert attention_scratch(alone, cut) == sums


@pytest.mark.parametrize(("length", "most"), [(200, 200), (2000, 2000)])
def test_attention_in_blocks_sees_whole_documents_where_a_layer_has_no_window(length: int, most: int) -> None:
    cut = BatchShape(tokens=length, longest=length, supervised=8)
    assert longest_seen(setup(GEMMA, device="cuda"), cut) == most
    assert longest_seen(setup(device="cuda"), cut) == 0
    assert scratch_by_document(setup(device="cuda"), cut, 1000) == 0
    # Scores of a block's rows with all that they see, and the sums of the keys' and values' gradients.
    least = 4 * HEADS * min(length, BLOCK_ROWS) * length
    assert scratch_by_document(setup(GEMMA, device="cuda"), cut, 1000) > 6 * least + 2 * 1000 - 1


def test_the_compiled_kernel_needs_no_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = BatchShape(tokens=300, longest=300, supervised=8)
    monkeypatch.setattr("veneer.planning.activations.kernels", object)
    assert longest_seen(setup(GEMMA, device="cpu", dtype=torch.float32), cut) == 0
    monkeypatch.setattr("veneer.planning.activations.kernels", lambda: None)
    assert longest_seen(setup(GEMMA, device="cpu", dtype=torch.float32), cut) == 300
