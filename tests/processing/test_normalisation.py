"""Normalisation is openpi's, exactly, comes back, and never blows up."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pi05_train.data.sources.statistics import norm_stats
from pi05_train.errors import UserError
from pi05_train.processing.normalisation import (
    KINDS,
    RANGE_FLOOR,
    STD_FLOOR,
    NormStats,
    check_usable,
    floored,
    normalise,
    read_norm_stats,
    to_absolute,
    to_delta,
    unnormalise,
    write_norm_stats,
)
from tests.golden_numbers import golden, golden_json

VECTOR = arrays(np.float64, 4, elements=st.floats(-100, 100))


def stats(low: float = -1.0, high: float = 1.0, dims: int = 4) -> NormStats:
    return NormStats(np.full(dims, low), np.full(dims, high), np.zeros(dims), np.ones(dims))


@pytest.mark.parametrize(("kind", "theirs"), [("quantile", "quantile"), ("z_score", "zscore")])
def test_the_formulas_are_openpis_bit_for_bit(kind: str, theirs: str) -> None:
    data = golden("preprocessing/normalization")
    own = NormStats(data["q01"], data["q99"], data["mean"], data["std"])
    for name in ("state", "actions"):
        np.testing.assert_array_equal(normalise(data[f"x_{name}"], own, kind), data[f"{theirs}.{name}"])
        np.testing.assert_array_equal(unnormalise(data[f"{theirs}.{name}"], own, kind), data[f"{theirs}.un_{name}"])
    np.testing.assert_array_equal(normalise(data["x_state"][:, :5], own, kind), data[f"{theirs}.state_first5"])
    padded = unnormalise(data[f"{theirs}.un_in_padded"], own, kind)
    np.testing.assert_array_equal(padded, data[f"{theirs}.un_state_padded"])


def test_floors_leave_sane_dimensions_alone() -> None:
    """The reference statistics have two constant dimensions: only those may differ from openpi's numbers."""
    data = golden("preprocessing/normalization")
    own = floored(NormStats(data["q01"], data["q99"], data["mean"], data["std"]), "reference")
    sane = [i for i in range(8) if i not in (2, 5)]
    x = data["x_state"]
    np.testing.assert_array_equal(normalise(x, own)[:, sane], data["quantile.state"][:, sane])
    still = [i for i in range(8) if i != 5]
    np.testing.assert_array_equal(normalise(x, own, "z_score")[:, still], data["zscore.state"][:, still])
    assert np.abs(normalise(x, own)[:, [2, 5]]).max() < np.abs(data["quantile.state"][:, [2, 5]]).max() / 100


def test_our_exact_statistics_lie_within_openpis_histogram_bins() -> None:
    data = golden("preprocessing/normalization")
    for n in range(4):
        seen = np.concatenate([data[f"rs.batch{i}"] for i in range(n + 1)])
        own = norm_stats(seen)
        np.testing.assert_allclose(own.mean, data[f"rs.after{n}.mean"], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(own.std, data[f"rs.after{n}.std"], rtol=1e-6, atol=1e-7)
        bins = np.ptp(seen, axis=0) / 5000
        for name in ("q01", "q99"):
            difference = np.abs(getattr(own, name) - data[f"rs.after{n}.{name}"])
            assert (difference <= 1.01 * bins + 1e-9).all(), (n, name, difference / bins)


def test_relative_actions_are_openpis_bit_for_bit() -> None:
    data = golden("preprocessing/numerics")
    mask = data["delta.mask"].tolist()
    relative = to_delta(data["delta.actions"], data["delta.state"], mask)
    np.testing.assert_array_equal(relative, data["delta.out"])
    np.testing.assert_array_equal(to_absolute(relative, data["delta.state"], mask), data["delta.back"])


def test_openpis_file_reads_and_is_written_back_the_same(tmp_path: Path) -> None:
    """The example has constant dimensions, and actions without quantiles: those serve z-scores alone."""
    content = golden_json("preprocessing/norm_stats_example/norm_stats")
    path = tmp_path / "norm_stats.json"
    path.write_text(json.dumps(content))
    read = read_norm_stats(path)
    check_usable(read["actions"], "z_score", "actions")
    with pytest.raises(UserError, match="actions, q01 and q99"):
        check_usable(read["actions"], "quantile", "actions")
    with pytest.raises(UserError, match="q01 and q99"):
        normalise(np.zeros(8), read["actions"])
    write_norm_stats(path, read)
    written = json.loads(path.read_text())["norm_stats"]
    assert written["actions"]["q01"] is None
    for name in ("state", "actions"):
        assert written[name]["mean"] == content["norm_stats"][name]["mean"]
        sane = [i for i in range(len(written[name]["mean"])) if i not in (2, 5)]
        for part in ("std", "q01", "q99") if name == "state" else ("std",):
            theirs = content["norm_stats"][name][part]
            assert [written[name][part][i] for i in sane] == [theirs[i] for i in sane]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="'zscore', expected one of quantile, z_score"):
        normalise(np.zeros(4), stats(), "zscore")


@given(VECTOR, VECTOR, arrays(np.float64, 4, elements=st.floats(0, 50)), st.sampled_from(KINDS), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_any_statistics_give_bounded_numbers_that_come_back(
    low: np.ndarray, inside: np.ndarray, width: np.ndarray, kind: str, beyond: int
) -> None:
    """Data within the range of the statistics stays small, whatever the range: none, tiny or wide."""
    own = floored(NormStats(low, low + width, low + width / 2, width / 4), "source")
    x = low + width * (np.tanh(inside / 50) + 1) / 2
    y = normalise(x, own, kind)
    assert (np.abs(y) <= 2.001).all()
    noise = normalise(x + RANGE_FLOOR, own, kind) - y
    assert (np.abs(noise) < 5).all()
    padded = np.concatenate([y, inside[:beyond]])
    back = unnormalise(padded, own, kind)
    np.testing.assert_allclose(back[:4], x, atol=1e-9 * (1 + np.abs(low).max() + width.max()))
    np.testing.assert_allclose(back[4:], inside[:beyond], rtol=0 if kind == "quantile" else 1.1e-6)


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
    still.q01[2] = still.q99[2] = still.mean[2] = 0.7
    still.std[1] = still.std[2] = 0.0
    write_norm_stats(tmp_path / "norm_stats.json", {"state": still})
    with caplog.at_level(logging.WARNING):
        read = read_norm_stats(tmp_path / "norm_stats.json")["state"]
    assert "state: dimensions [2] hardly move; their range q99 - q01 is raised to 0.001." in caplog.text
    assert "state: dimensions [1, 2] hardly move; their standard deviation is raised to 0.00022." in caplog.text
    assert read.q99 is not None
    assert (read.q99[1], read.std[0], read.std[1]) == (1.0, 1.0, STD_FLOOR)
    noisy = np.full(4, 0.7 + RANGE_FLOOR)
    for kind, constant, moved in (("quantile", -1, 1), ("z_score", 0, 4.65)):
        assert normalise(np.full(4, 0.7), read, kind)[2] == constant
        assert normalise(noisy, read, kind)[2] == pytest.approx(moved, abs=0.05)


@pytest.mark.parametrize(
    "text",
    ["not json", "{}", "[]", '{"norm_stats": {"state": 3}}', '{"norm_stats": {"state": {"mean": [0.0]}}}'],
)
def test_a_broken_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "norm_stats.json"
    path.write_text(text)
    with pytest.raises(UserError, match="norm_stats"):
        read_norm_stats(path)


@pytest.mark.parametrize(
    "change", [{"q01": [float("nan")]}, {"q01": [2.0]}, {"mean": [0.0, 0.0]}, {"std": [-1.0]}, {"q99": None}]
)
def test_impossible_statistics_are_refused(change: dict[str, list[float]], tmp_path: Path) -> None:
    entry = {"mean": [0.0], "std": [1.0], "q01": [-1.0], "q99": [1.0]} | change
    path = tmp_path / "norm_stats.json"
    path.write_text(json.dumps({"norm_stats": {"state": entry}}))
    with pytest.raises(UserError, match="recompute"):
        read_norm_stats(path)


def test_an_absent_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pi05 data index"):
        read_norm_stats(tmp_path / "norm_stats.json")
