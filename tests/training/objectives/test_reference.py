"""The table of a reference's log-probabilities, by the places of examples."""

from __future__ import annotations

import numpy as np
import torch

from veneer.data.encoded.chat import Example
from veneer.data.micro_batches.packing import pack
from veneer.training.objectives.reference import ReferenceTable


def test_what_is_put_is_found_by_number_and_the_rest_is_missing() -> None:
    examples = [Example(np.arange(4, dtype=np.int32) + n, np.array([False, True, True, True]), "f") for n in range(4)]
    table = ReferenceTable.empty(6)
    batches = list(pack(examples, 8, together=2, numbers=(4, 5, 0, 1)))
    assert len(batches) == 2
    table.put(batches[0], torch.tensor([-1.5, -2.5]))
    assert table.of(batches[0]).tolist() == [-1.5, -2.5]
    assert table.values[4:].tolist() == [-1.5, -2.5]
    assert list(table.missing(batches)) == batches[1:]
    assert table.unknown([0, 4, 1, 0, 5]) == 2
    assert table.unknown([]) == 0
