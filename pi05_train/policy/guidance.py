"""Real-time chunking: a new chunk that goes on with the former one, by guided inpainting of its flow.

At every Euler step the network's estimate of the clean chunk, x_0 = x_t - t v, is compared with what is left of the
former chunk, step by step with weights: 1 for what will have been executed, less and less for what may still change, 0
beyond. The error goes back through the network (a vector-Jacobian product) and bends the velocity.

Source: K. Black, M. Galliker, S. Levine, arXiv 2506.07339, equations 2-5. Its tau is 1 - t here: t = 1 is noise, the
velocity points from data to noise, and the correction has the opposite sign.

Shape letters: B segments, H horizon, D padded action dims.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Flow(Protocol):
    """Velocities of noisy chunks at flow times known in advance."""

    def velocity(self, x_BHD: Tensor, step: int) -> Tensor:
        """Velocity [B, H, D] at the flow time of an Euler step."""
        ...


@dataclass(frozen=True)
class Guidance:
    """Where the chunks are to go, in the network's units."""

    actions_BHD: Tensor
    """What is left of the former chunks, relative to the new observation's state; anything where the weight is 0."""
    weights_BHD: Tensor
    limit: float
    """The most that the correction is multiplied by (beta). Times 1 / steps it is how far one Euler step goes towards
    the former chunk: up to the number of steps it never overshoots (the paper: 5 with 5 steps)."""


class GuidedFlow:
    """A flow bent towards former chunks."""

    def __init__(self, flow: Flow, guidance: Guidance, times: Sequence[float]) -> None:
        """`times` are the flow times of the Euler steps."""
        self.flow, self.guidance, self.times = flow, guidance, times

    def velocity(self, x_BHD: Tensor, step: int) -> Tensor:
        """The network's velocity less the correction, [B, H, D]; the only place where an answer needs gradients."""
        time, wanted = self.times[step], self.guidance
        with torch.enable_grad():
            x_BHD = x_BHD.detach().requires_grad_()
            velocity_BHD = self.flow.velocity(x_BHD, step).to(x_BHD.dtype)
            clean_BHD = x_BHD - time * velocity_BHD
        error_BHD = wanted.weights_BHD * (wanted.actions_BHD - clean_BHD.detach())
        (pull_BHD,) = torch.autograd.grad(clean_BHD, x_BHD, error_BHD)
        return velocity_BHD.detach() - min(guidance_scale(time), wanted.limit) * pull_BHD


def guidance_scale(time: float) -> float:
    """t / ((1 - t) r^2) with r^2 = t^2 / (t^2 + (1 - t)^2); infinite at t = 1, where nothing is known yet.

    r^2 is the variance of the clean chunk given x_t where chunks are standard normal.
    """
    left = 1.0 - time
    return math.inf if left <= 0.0 else (time**2 + left**2) / (time * left)


def soft_weights(horizon: int, remaining: int, delay_steps: int) -> Tensor:
    """[H]: 1 for `delay_steps` steps, then decaying to 0 at `remaining`, where the former chunk ends.

    c (e^c - 1) / (e - 1) with c falling linearly (equation 5): near steps count almost fully, late ones hardly.
    """
    assert 0 <= delay_steps <= remaining <= horizon, (delay_steps, remaining, horizon)
    steps_H = torch.arange(horizon)
    falling_H = (remaining - steps_H) / (remaining - delay_steps + 1)
    soft_H = falling_H * torch.expm1(falling_H) / math.expm1(1.0)
    return torch.where(steps_H < delay_steps, 1.0, torch.where(steps_H < remaining, soft_H, 0.0))
