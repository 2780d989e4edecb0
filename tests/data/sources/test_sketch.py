from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pi05_train.data.sources import sketch as module
from pi05_train.data.sources.sketch import Sketch
from pi05_train.errors import UserError

SHARES = [0.01, 0.5, 0.99]
NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)
TABLES = arrays(np.float32, st.tuples(st.integers(1, 60), st.just(2)), elements=NUMBERS)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few numbers are kept and bins are few, so that little data goes through everything."""
    monkeypatch.setattr(module, "EXACT", 8)
    monkeypatch.setattr(module, "BINS", 64)


def of(*tables: np.ndarray) -> Sketch:
    sketch = Sketch(tables[0].shape[1])
    for table in tables:
        sketch.add(table)
    return sketch


def bins(sketch: Sketch) -> list[bytes]:
    return [sketch._counts.tobytes(), sketch._levels.tobytes(), sketch._starts.tobytes()]


def check_against(sketch: Sketch, table: np.ndarray) -> None:
    exact = table.astype(np.float64)
    size = np.abs(exact).max(axis=0)
    assert sketch.count == len(table)
    np.testing.assert_array_equal(sketch.low, exact.min(axis=0))
    np.testing.assert_array_equal(sketch.high, exact.max(axis=0))
    assert (np.abs(sketch.mean - exact.mean(axis=0)) <= 1e-12 * size).all()
    assert (np.abs(sketch.std - exact.std(axis=0)) <= 1e-7 * size).all()
    bound = np.maximum(np.ptp(exact, axis=0) / (module.BINS - 1), 2.0**-40)
    error = np.abs(sketch.quantiles(SHARES) - np.quantile(exact, SHARES, axis=0, method="inverted_cdf"))
    assert (error <= bound + 1e-12 * size).all(), (error, bound)


@settings(max_examples=150, deadline=None)
@given(table=TABLES, cuts=st.lists(st.integers(0, 60), max_size=4), order=st.randoms())
@pytest.mark.usefixtures("small")
def test_parts_in_any_order_hold_what_the_whole_holds(table: np.ndarray, cuts: list[int], order: object) -> None:
    parts = [of(part) for part in np.split(table, sorted(min(cut, len(table)) for cut in cuts))]
    order.shuffle(parts)  # type: ignore[attr-defined]
    merged = Sketch(2)
    for part in parts:
        merged.merge(pickle.loads(pickle.dumps(part)))
    assert bins(merged) == bins(of(table))
    check_against(merged, table)
    check_against(of(table), table)


@settings(max_examples=50, deadline=None)
@given(table=TABLES, rows=st.integers(1, 20))
@pytest.mark.usefixtures("small")
def test_many_small_additions_are_one_large_one(table: np.ndarray, rows: int) -> None:
    assert bins(of(*(table[i : i + rows] for i in range(0, len(table), rows)))) == bins(of(table))


def test_up_to_a_quarter_of_a_million_vectors_quantiles_are_exact() -> None:
    table = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    exact = np.quantile(table.astype(np.float64), SHARES, axis=0, method="inverted_cdf")
    np.testing.assert_array_equal(of(table[:1000], table[1000:]).quantiles(SHARES), exact)


def test_beyond_that_they_are_right_to_a_sixty_thousandth_of_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT", 100)
    rng = np.random.default_rng(0)
    table = np.stack([rng.normal(size=50_000), 1000 + 1e-3 * rng.normal(size=50_000)], axis=1).astype(np.float32)
    check_against(of(*np.split(table, 10)), table)


@pytest.mark.parametrize("exact", [0, 10**6])
def test_numbers_outside_an_interval_are_counted(monkeypatch: pytest.MonkeyPatch, exact: int) -> None:
    monkeypatch.setattr(module, "EXACT", exact)
    table = np.linspace(0, 1, 1001, dtype=np.float32)[:, None]
    outside = of(table).outside(np.array([0.1001]), np.array([0.8999]))
    assert outside[0] == 202
    assert of(table).outside(np.array([-5.0]), np.array([5.0]))[0] == 0


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(UserError, match="2 and 3 dimensions"):
        Sketch(2).add(np.zeros((4, 3), np.float32))
    with pytest.raises(UserError, match="2 and 3 dimensions"):
        Sketch(2).merge(Sketch(3))
