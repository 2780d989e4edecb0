from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.evaluation.intervals import wilson


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
