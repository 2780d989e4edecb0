"""Flow matching: where the path starts and ends, and which times are drawn."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.model.flow import flow_target, flow_time, noisy_actions, time_embedding

RANDOM = torch.Generator().manual_seed(0)
ACTIONS = torch.randn(2, 3, 4, generator=RANDOM, dtype=torch.float64)
NOISE = torch.randn(2, 5, 3, 4, generator=RANDOM, dtype=torch.float64)


def test_the_path_runs_from_data_at_0_to_noise_at_1() -> None:
    zero, one = torch.zeros(2, 5, dtype=torch.float64), torch.ones(2, 5, dtype=torch.float64)
    assert torch.equal(noisy_actions(ACTIONS, NOISE, zero), ACTIONS[:, None].expand_as(NOISE))
    assert torch.equal(noisy_actions(ACTIONS, NOISE, one), NOISE)


@given(time=st.floats(0.001, 1.0))
@settings(max_examples=20, deadline=None)
def test_one_step_along_the_target_reaches_the_data(time: float) -> None:
    times = torch.full((2, 5), time, dtype=torch.float64)
    arrived = noisy_actions(ACTIONS, NOISE, times) - time * flow_target(ACTIONS, NOISE)
    torch.testing.assert_close(arrived, ACTIONS[:, None].expand_as(NOISE))


@pytest.mark.parametrize("u", [0.0, 0.1, 0.5, 0.9])
def test_times_follow_the_shifted_beta_law(u: float) -> None:
    """P(Beta(1.5, 1) <= x) = x^1.5, so the u-quantile must be mapped back to u."""
    time = float(flow_time(torch.tensor(u, dtype=torch.float64)))
    assert 0.001 <= time <= 1.0
    assert math.isclose(((time - 0.001) / 0.999) ** 1.5, u, abs_tol=1e-12)


def test_time_embedding_is_float32_even_for_bfloat16_times_and_tells_times_apart() -> None:
    times = torch.linspace(0.001, 1.0, 50)
    assert time_embedding(times.bfloat16(), 16).dtype == torch.float32
    distances = torch.cdist(time_embedding(times, 64), time_embedding(times, 64))
    assert (distances + torch.eye(50) > 0.02).all()
