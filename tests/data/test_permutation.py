from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.data.permutation import digest, permute


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5000), seed=st.integers(0, 2**63))
def test_every_size_is_permuted_one_to_one(size: int, seed: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, seed)), np.arange(size))


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 2**40), seed=st.integers(0, 100), data=st.data())
def test_a_position_goes_the_same_way_alone_or_in_company(size: int, seed: int, data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)))
    together = permute(positions, size, "key", seed)
    assert ((together >= 0) & (together < size)).all()
    alone = [int(permute(positions[i : i + 1], size, "key", seed)[0]) for i in range(len(positions))]
    assert together.tolist() == alone


@pytest.mark.parametrize("size", [2, 5, 40])
def test_every_position_is_equally_likely_over_keys(size: int) -> None:
    keys = 500
    counts = np.zeros((size, size))
    for key in range(keys):
        counts[np.arange(size), permute(np.arange(size), size, "even", key)] += 1
    chi_squared = ((counts - keys / size) ** 2 / (keys / size)).sum()
    degrees = (size - 1) ** 2
    assert chi_squared < degrees + 5 * np.sqrt(2 * degrees)


def test_neighbours_do_not_stay_together() -> None:
    order = permute(np.arange(20000), 20000, "lag")
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.03


def test_the_hash_tells_apart_what_a_careless_one_would_mix_up() -> None:
    parts = [(1, 2), (12,), ("1", 2), ("1 2",), (1, "2"), (2, 1)]
    assert len({digest(*part) for part in parts}) == len(parts)
