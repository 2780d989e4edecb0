from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.evaluation.intervals import paired_difference, rate_difference, wilson
from pi05_train.evaluation.tally import Tally, mean_tally


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe 1998 (Statistics in Medicine 17), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_known_intervals(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=6e-5)


@settings(deadline=None)
@given(trials=st.integers(1, 5000), share=st.floats(0, 1))
def test_lies_in_the_unit_interval_and_contains_the_rate(trials: int, share: float) -> None:
    successes = round(share * trials)
    low, high = wilson(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert low < high


@settings(deadline=None)
@given(trials=st.integers(1, 500), share=st.floats(0, 1))
def test_success_and_failure_mirror_each_other(trials: int, share: float) -> None:
    successes = round(share * trials)
    low, high = wilson(successes, trials)
    mirrored = wilson(trials - successes, trials)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


def test_no_trials_say_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    # Newcombe 1998 (Statistics in Medicine 17), table II, method 10: 56/70 - 48/80, 9/10 - 3/10, 10/10 - 0/20.
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
    ],
)
def test_known_differences_of_rates(first: tuple[int, int], second: tuple[int, int], low: float, high: float) -> None:
    assert rate_difference(first, second) == pytest.approx((low, high), abs=6e-5)
    assert rate_difference(second, first) == pytest.approx((-high, -low), abs=6e-5)


def test_no_episodes_leave_every_difference_open() -> None:
    low, high = rate_difference((0, 0), (0, 0))
    assert low < -0.5
    assert high > 0.5


def test_a_paired_interval_agrees_with_the_normal_one_of_the_paired_differences() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=400)
    other = base + 0.1 + 0.2 * rng.normal(size=400)
    interval = paired_difference(mean_tally(other), mean_tally(base), range(400))
    spread = 1.96 * (other - base).std(ddof=1) / 20
    middle = (other - base).mean()
    assert interval == pytest.approx((middle - spread, middle + spread), abs=0.15 * spread)


def test_samples_of_one_episode_do_not_count_as_many() -> None:
    rng = np.random.default_rng(1)
    base, other = np.repeat(rng.normal(size=(2, 20)), 10, axis=1)
    alone = paired_difference(mean_tally(base), mean_tally(other), range(200))
    together = paired_difference(mean_tally(base), mean_tally(other), np.repeat(range(20), 10).tolist())
    assert alone is not None
    assert together is not None
    assert together[1] - together[0] > 2.5 * (alone[1] - alone[0])


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 3)), min_size=2, max_size=30), st.booleans())
def test_a_run_does_not_differ_from_itself(samples: list[tuple[float, int]], root: bool) -> None:
    tally = Tally(tuple(total for total, _ in samples), tuple(float(count + 1) for _, count in samples), root)
    assert paired_difference(tally, tally, range(len(samples))) == (0.0, 0.0)


def test_one_episode_says_nothing() -> None:
    assert paired_difference(mean_tally([1, 2]), mean_tally([2, 1]), [7, 7]) is None
