"""Normalisation is openpi's, exactly, and comes back."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pi05_train.errors import UserError
from pi05_train.processing.normalisation import (
    RANGE_FLOOR,
    NormStats,
    check_usable,
    normalise,
    read_norm_stats,
    to_absolute,
    to_delta,
    unnormalise,
    write_norm_stats,
)

SHARED = Path(os.environ.get("PI05_SHARED", Path(__file__).resolve().parents[2] / ".." / "shared"))
GOLDEN = SHARED / "golden" / "preprocessing"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="reference numbers are not present")
VECTOR = arrays(np.float64, 4, elements=st.floats(-100, 100))


def stats(low: float = -1.0, high: float = 1.0, dims: int = 4) -> NormStats:
    return NormStats(np.full(dims, low), np.full(dims, high), np.zeros(dims), np.ones(dims))


@golden
def test_quantiles_are_openpis_bit_for_bit() -> None:
    data = np.load(GOLDEN / "normalization.npz")
    own = NormStats(data["q01"], data["q99"], data["mean"], data["std"])
    np.testing.assert_array_equal(normalise(data["x_state"], own), data["quantile.state"])
    np.testing.assert_array_equal(normalise(data["x_actions"], own), data["quantile.actions"])
    np.testing.assert_array_equal(normalise(data["x_state"][:, :5], own), data["quantile.state_first5"])
    np.testing.assert_array_equal(unnormalise(data["quantile.state"], own), data["quantile.un_state"])
    np.testing.assert_array_equal(unnormalise(data["quantile.actions"], own), data["quantile.un_actions"])
    np.testing.assert_array_equal(unnormalise(data["quantile.un_in_padded"], own), data["quantile.un_state_padded"])


@golden
def test_relative_actions_are_openpis_bit_for_bit() -> None:
    data = np.load(GOLDEN / "numerics.npz")
    mask = data["delta.mask"].tolist()
    relative = to_delta(data["delta.actions"], data["delta.state"], mask)
    np.testing.assert_array_equal(relative, data["delta.out"])
    np.testing.assert_array_equal(to_absolute(relative, data["delta.state"], mask), data["delta.back"])


@golden
def test_a_file_without_quantiles_serves_z_scores_alone() -> None:
    actions = read_norm_stats(GOLDEN / "norm_stats_example" / "norm_stats.json")["actions"]
    check_usable(actions, "z_score", "actions")
    with pytest.raises(UserError, match="actions, q01 and q99"):
        check_usable(actions, "quantile", "actions")


@given(VECTOR, VECTOR, arrays(np.float64, 4, elements=st.floats(0.01, 50)))
@settings(max_examples=60, deadline=None)
def test_numbers_come_back_and_are_never_clipped(x: np.ndarray, low: np.ndarray, width: np.ndarray) -> None:
    own = NormStats(low, low + width, low, width)
    y = normalise(x, own)
    np.testing.assert_allclose(unnormalise(y, own), x, atol=1e-9 * (1 + np.abs(x).max() + np.abs(low).max()))
    outside = np.abs(x - low) > 2 * width
    assert (np.abs(y[outside]) > 1).all()


@given(arrays(np.float64, (3, 4), elements=st.floats(-100, 100)), VECTOR, st.lists(st.booleans(), max_size=4))
@settings(max_examples=60, deadline=None)
def test_relative_actions_touch_masked_dimensions_only(
    actions: np.ndarray, state: np.ndarray, mask: list[bool]
) -> None:
    relative = to_delta(actions, state, mask)
    for dim in range(4):
        expected = actions[:, dim] - state[dim] if dim < len(mask) and mask[dim] else actions[:, dim]
        np.testing.assert_array_equal(relative[:, dim], expected)
    np.testing.assert_allclose(to_absolute(relative, state, mask), actions, atol=1e-12 * 200)


def test_written_statistics_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    low = rng.normal(size=3)
    written = {"state": NormStats(low, low + 1, low, low * 0 + 1), "actions": stats()}
    write_norm_stats(tmp_path / "norm_stats.json", written)
    read = read_norm_stats(tmp_path / "norm_stats.json")
    assert set(read) == {"state", "actions"}
    for name, value in written.items():
        for field in ("q01", "q99", "mean", "std"):
            np.testing.assert_array_equal(getattr(read[name], field), getattr(value, field))


def test_a_still_dimension_is_floored_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    still = stats()
    still.q01[2] = still.q99[2] = 0.7
    write_norm_stats(tmp_path / "norm_stats.json", {"state": still})
    with caplog.at_level(logging.WARNING):
        read = read_norm_stats(tmp_path / "norm_stats.json")["state"]
    assert "dimensions [2] hardly move" in caplog.text
    assert normalise(np.full(4, 0.7), read)[2] == -1
    noise = normalise(np.full(4, 0.7 + RANGE_FLOOR), read)[2]
    assert noise == pytest.approx(1, abs=0.01)
    assert read.q99[1] == 1.0


@pytest.mark.parametrize(
    "text",
    ["not json", "{}", "[]", '{"norm_stats": {"state": 3}}', '{"norm_stats": {"state": {"mean": [0.0]}}}'],
)
def test_a_broken_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "norm_stats.json"
    path.write_text(text)
    with pytest.raises(UserError, match="norm_stats"):
        read_norm_stats(path)


@pytest.mark.parametrize("change", [{"q01": [float("nan")]}, {"q01": [2.0]}, {"mean": [0.0, 0.0]}])
def test_impossible_statistics_are_refused(change: dict[str, list[float]], tmp_path: Path) -> None:
    entry = {"mean": [0.0], "std": [1.0], "q01": [-1.0], "q99": [1.0]} | change
    path = tmp_path / "norm_stats.json"
    path.write_text(json.dumps({"norm_stats": {"state": entry}}))
    with pytest.raises(UserError, match="recompute"):
        read_norm_stats(path)


def test_an_absent_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pi05 data index"):
        read_norm_stats(tmp_path / "norm_stats.json")
