"""The learning rate is openpi's, whose values are the reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.config.run_parts import ScheduleConfig
from pi05_train.engine.schedule import learning_rate
from tests.golden_numbers import golden


@pytest.mark.parametrize(
    ("array", "peak", "schedule"),
    [
        ("cosine_default", 2.5e-5, ScheduleConfig("warmup_cosine", 1000, 30_000, 2.5e-6)),
        ("cosine_w10k_p5e5_d1M_e5e5", 5e-5, ScheduleConfig("warmup_constant", 10_000, 0, 0.0)),
        ("cosine_w10k_p5e5_d1M_e5e5", 5e-5, ScheduleConfig("warmup_cosine", 10_000, 1_000_000, 5e-5)),
        ("rsqrt_default", 5e-5, ScheduleConfig("warmup_rsqrt", 1000, 10_000, 0.0)),
    ],
)
def test_equals_openpi(array: str, peak: float, schedule: ScheduleConfig) -> None:
    reference = golden("openpi_jax/lr_schedules")
    ours = [learning_rate(int(step), peak, schedule) for step in reference["steps"]]
    # openpi computes in float32, as differences from the peak.
    np.testing.assert_allclose(ours, reference[array], rtol=1e-5, atol=1e-7 * peak)


@settings(max_examples=40, deadline=None)
@given(
    warmup=st.integers(0, 50),
    cosine=st.integers(1, 100),
    name=st.sampled_from(["warmup_constant", "warmup_cosine", "warmup_rsqrt"]),
)
def test_rises_to_the_peak_then_never_rises_again(warmup: int, cosine: int, name: str) -> None:
    schedule = ScheduleConfig(name, warmup, warmup + cosine, 0.1)
    rates = [learning_rate(step, 1.0, schedule) for step in range(warmup + cosine + 5)]
    assert rates[0] == pytest.approx(1.0 / (warmup + 1))
    assert rates[warmup] == pytest.approx(1.0) == max(rates)
    steps = list(itertools.pairwise(rates))
    assert all(a < b for a, b in steps[:warmup])
    assert all(a >= b for a, b in steps[warmup:])
    if name != "warmup_rsqrt":
        assert rates[-1] == pytest.approx(1.0 if name == "warmup_constant" else 0.1)
