"""Tables give out rows, pieces and copies of a weight, and never the weight's own memory as a copy."""

from __future__ import annotations

import pytest
import torch

from veneer.model.leaves import DenseLinear, Embedding
from veneer.tables import DenseTable, copied_table, parts

ROWS, DIM = 11, 6


def weight(dtype: torch.dtype = torch.bfloat16) -> torch.nn.Parameter:
    generator = torch.Generator().manual_seed(3)
    return torch.nn.Parameter(torch.randn(ROWS, DIM, generator=generator).to(dtype), requires_grad=False)


def test_a_dense_table_is_its_weight() -> None:
    own = weight()
    table = DenseTable(own)
    assert (table.shape, table.dtype, table.device) == ((ROWS, DIM), torch.bfloat16, own.device)
    ids = torch.tensor([4, 0, 4])
    assert torch.equal(table.rows(ids), own[ids])
    assert torch.equal(table.part(2, 5), own[2:5])
    assert all(made.table.weight is own for made in (Embedding(own), DenseLinear(own)))
    assert Embedding(own).tied_head().weight is own


@pytest.mark.parametrize("rows", [1, 4, ROWS, 40])
def test_pieces_are_the_whole_in_order(rows: int) -> None:
    table = DenseTable(weight())
    found = list(parts(table, rows))
    assert torch.equal(torch.cat([part for _, part in found]), table.weight)
    assert all(torch.equal(table.weight[place], part) and len(part) <= rows for place, part in found)


def test_a_copy_has_memory_of_its_own_and_room_for_more_rows() -> None:
    table = DenseTable(weight())
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        found = copied_table(table, dtype)
        assert torch.equal(found, table.weight.to(dtype))
        assert found.data_ptr() != table.weight.data_ptr()
    larger = copied_table(table, torch.float32, ROWS + 3)
    assert larger.shape == (ROWS + 3, DIM)
    assert torch.equal(larger[:ROWS], table.weight.float())
