"""PEFT's names of the tensors of an adapter, after the path of the module that they belong to."""

from __future__ import annotations

FACTOR_A, FACTOR_B = "lora_A.weight", "lora_B.weight"
FACTOR_B_BIAS = "lora_B.bias"
EMBEDDING_A, EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
FACTOR_PAIRS = ((FACTOR_A, FACTOR_B), (EMBEDDING_A, EMBEDDING_B))
"""A and B of an update, of a linear layer or an embedding."""
MAGNITUDE = "lora_magnitude_vector"
"""DoRA's m."""
TOKEN_ROWS = "token_adapter.trainable_tokens_delta"
"""The trained rows of chosen tokens. They are the rows themselves, not their change."""
