from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from pi05_train.policy.guidance import Guidance, GuidedFlow, guidance_scale, soft_weights
from pi05_train.policy.sampler import euler, flow_times

H, D = 6, 2


@dataclass
class GaussianFlow:
    """The exact velocities where chunks are Gaussian: x_0 = mean + K_t (x_t - (1 - t) mean), v = (x_t - x_0) / t."""

    mean: Tensor
    """[H * D]"""
    covariance: Tensor
    times: list[float]

    def velocity(self, x_BHD: Tensor, step: int) -> Tensor:
        t, x = self.times[step], x_BHD.flatten(1)
        left = 1 - t
        gain = (
            left
            * self.covariance
            @ torch.linalg.inv(left**2 * self.covariance + t**2 * torch.eye(H * D, dtype=torch.float64))
        )
        clean = self.mean + (x - left * self.mean) @ gain.T
        return ((x - clean) / t).unflatten(1, (H, D))


def gaussian(steps: int, correlation: float, seed: int = 0) -> GaussianFlow:
    """Chunks with unit variance whose steps are alike."""
    apart = (torch.arange(H)[:, None] - torch.arange(H)).abs()
    covariance = torch.kron(correlation ** apart.double(), torch.eye(D, dtype=torch.float64))
    mean = torch.randn(H * D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return GaussianFlow(mean, covariance, flow_times(steps)[:-1])


def sample(flow: GaussianFlow, former: Tensor | None, weights: Tensor, limit: float, noise: Tensor) -> Tensor:
    guided = flow if former is None else GuidedFlow(
        flow, Guidance(former, weights[None, :, None].expand_as(noise), limit), flow.times
    )  # fmt: skip
    *_, (chunk, _) = euler(guided, noise, torch.ones(len(noise), D), len(flow.times))
    return chunk


def random_chunks(count: int, seed: int) -> Tensor:
    return torch.randn(count, H, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def paper_sample(
    flow: GaussianFlow,
    former: NDArray[np.float64],
    weights: NDArray[np.float64],
    limit: float,
    noise: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Algorithm 1 in the paper's time, tau from 0 (noise) to 1 (data), its Jacobian (`gain`) written out."""
    steps, mean, sigma = len(flow.times), flow.mean.numpy(), flow.covariance.numpy()
    a, w, identity = noise.reshape(-1), np.repeat(weights, D), np.eye(H * D)
    for step in range(steps):
        tau = step / steps
        gain = tau * sigma @ np.linalg.inv(tau**2 * sigma + (1 - tau) ** 2 * identity)
        velocity = (mean + gain @ (a - tau * mean) - a) / (1 - tau)
        clean = a + (1 - tau) * velocity
        r_squared = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
        scale = limit if tau == 0 else min(limit, (1 - tau) / (tau * r_squared))
        a = a + (velocity + scale * ((former.reshape(-1) - clean) * w) @ gain) / steps
    return a.reshape(H, D)


@settings(deadline=None, max_examples=30)
@given(
    steps=st.integers(1, 12),
    correlation=st.sampled_from([0.0, 0.5, 0.9]),
    limit=st.sampled_from([0.5, 5.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_the_guided_chunk_is_that_of_the_papers_algorithm_in_its_own_time(
    steps: int, correlation: float, limit: float, seed: int
) -> None:
    flow = gaussian(steps, correlation, seed)
    former, noise = random_chunks(1, seed + 1), random_chunks(1, seed + 2)
    weights = soft_weights(H, 5, 2).double()
    expected = paper_sample(flow, former[0].numpy(), weights.numpy(), limit, noise[0].numpy())
    np.testing.assert_allclose(sample(flow, former, weights, limit, noise)[0], expected, atol=1e-5)


@pytest.mark.parametrize("steps", [5, 10])
def test_of_independent_steps_the_frozen_become_the_former_and_the_others_stay_as_they_were(steps: int) -> None:
    flow, former, noise = gaussian(steps, 0.0), random_chunks(3, 1), random_chunks(3, 2)
    frozen = (torch.arange(H) < 3).double()
    chunk = sample(flow, former, frozen, float(steps), noise)
    plain = sample(flow, None, frozen, 0.0, noise)
    torch.testing.assert_close(chunk[:, 3:], plain[:, 3:], atol=1e-9, rtol=0)
    torch.testing.assert_close(chunk[:, :3], former[:, :3], atol=1e-5, rtol=0)


def test_weight_one_reproduces_the_former_chunk_and_weight_zero_the_plain_one() -> None:
    flow, former, noise = gaussian(50, 0.5), random_chunks(3, 1), random_chunks(3, 2)
    everywhere = sample(flow, former, torch.ones(H, dtype=torch.float64), 50.0, noise)
    nowhere = sample(flow, former, torch.zeros(H, dtype=torch.float64), 50.0, noise)
    plain = sample(flow, None, torch.zeros(H, dtype=torch.float64), 0.0, noise)
    torch.testing.assert_close(nowhere, plain, atol=1e-12, rtol=0)
    assert (everywhere - former).abs().max() < 0.1
    assert (plain - former).abs().max() > 1


def test_what_is_free_follows_what_is_frozen_where_steps_are_alike() -> None:
    """Their mean goes more than half the way to the conditional mean; r^2 is exact for independent steps only."""
    flow, former = gaussian(50, 0.8), random_chunks(1, 3).expand(400, H, D)
    frozen = torch.arange(H) < 2
    chunks = sample(flow, former, frozen.double(), 50.0, random_chunks(400, 4))
    rows = frozen.repeat_interleave(D)
    cov = flow.covariance
    expected = flow.mean[~rows] + cov[~rows][:, rows] @ torch.linalg.solve(
        cov[rows][:, rows], former[0].flatten()[rows] - flow.mean[rows]
    )
    unguided = flow.mean[~rows]
    error = (chunks[:, 2:].flatten(1).mean(0) - expected).abs()
    assert error.max() < 0.5 * (unguided - expected).abs().max()


@given(horizon=st.integers(1, 60), data=st.data())
def test_weights_are_one_then_decay_and_end_where_the_former_chunk_does(horizon: int, data: st.DataObject) -> None:
    remaining = data.draw(st.integers(1, horizon))
    delay = data.draw(st.integers(0, remaining))
    weights = soft_weights(horizon, remaining, delay)
    assert (weights[:delay] == 1).all()
    assert (weights[remaining:] == 0).all()
    between = weights[delay:remaining]
    assert ((between > 0) & (between < 1)).all()
    assert (between.diff() < 0).all()


def test_weights_are_those_of_equation_5() -> None:
    assert soft_weights(8, 6, 2).tolist() == pytest.approx(
        [1, 1, 0.8 * (np.exp(0.8) - 1) / (np.e - 1), 0.6 * (np.exp(0.6) - 1) / (np.e - 1),
         0.4 * (np.exp(0.4) - 1) / (np.e - 1), 0.2 * (np.exp(0.2) - 1) / (np.e - 1), 0, 0]
    )  # fmt: skip


def test_the_scale_is_what_the_paper_has_at_one_minus_t() -> None:
    assert guidance_scale(1.0) == np.inf
    assert guidance_scale(0.5) == pytest.approx(2.0)
    assert guidance_scale(0.2) == pytest.approx(4.25)
