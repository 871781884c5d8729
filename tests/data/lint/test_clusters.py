from __future__ import annotations

import random

import numpy as np

from veneer.data.lint.clusters import Union, clusters
from veneer.data.lint.shingles import bands, shingles, similarity


def test_clusters_are_those_of_all_pairs() -> None:
    """Against every pair compared: rows of clear clusters, and rows that are like nothing."""
    draw = random.Random(5)
    texts = []
    for _ in range(30):
        words = [f"w{draw.randrange(10**6)}" for _ in range(200)]
        texts.append(" ".join(words))
        for _ in range(draw.randrange(4)):
            changed = list(words)
            changed[draw.randrange(200)] = f"x{draw.randrange(10**6)}"
            texts.append(" ".join(changed))
    draw.shuffle(texts)
    sets = [shingles(text) for text in texts]
    union = Union(len(sets))
    for one in range(len(sets)):
        for other in range(one):
            if similarity(sets[one], sets[other]) >= 0.8:
                union.join(one, other)
    found = clusters(np.stack([bands(one) for one in sets]), lambda row: sets[row], 0.8)
    assert found.tolist() == union.roots().tolist()
    assert len(set(found.tolist())) == 30


def test_rows_without_shingles_are_in_no_cluster() -> None:
    empty = np.zeros((3, 16), dtype=np.uint32)
    assert clusters(empty, lambda row: np.zeros(0, dtype=np.uint32), 0.8).tolist() == [0, 1, 2]
