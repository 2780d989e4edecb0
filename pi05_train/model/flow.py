"""Flow matching: the path between noise and data, its target, the law of the time, the embedding of the time.

t = 1 is noise, t = 0 is data (openpi's convention; the papers' tau is 1 - t). Source: pi0.5 paper section IV-B,
openpi models/pi0.py and models/model.py.

Shape letters: A segments with actions, K flow draws, H horizon, D action dims, W width of the expert.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pi05_train.model.precision import at_least_float32

Numbers = TypeVar("Numbers", Tensor, NDArray[np.float64])

_SHORTEST_PERIOD = 4e-3
_LONGEST_PERIOD = 4.0


def noisy_actions(actions_AHD: Tensor, noise_AKHD: Tensor, time_AK: Tensor) -> Tensor:
    """x_t = t * noise + (1 - t) * actions, [A, K, H, D]."""
    t = time_AK[..., None, None]
    return t * noise_AKHD + (1 - t) * actions_AHD[:, None]


def flow_target(actions_AHD: Tensor, noise_AKHD: Tensor) -> Tensor:
    """What the velocity should be, dx_t/dt = noise - actions, [A, K, H, D]."""
    return noise_AKHD - actions_AHD[:, None]


def flow_time(uniform: Numbers) -> Numbers:
    """Times in (0, 1] from uniform numbers in [0, 1): Beta(1.5, 1) by its inverse, squeezed into [0.001, 1].

    The density grows like sqrt(t): noisy times are favoured (mean 0.6).
    """
    return uniform ** (2 / 3) * 0.999 + 0.001


def time_embedding(time: Tensor, width: int) -> Tensor:
    """Sines then cosines of the time at periods from 4e-3 to 4, [..., width], at least float32."""
    time = at_least_float32(time)
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=time.dtype, device=time.device)
    # Powers in float64: at the shortest period a float32 power is off by more than the whole float32 angle.
    growth = (_LONGEST_PERIOD / _SHORTEST_PERIOD) ** fraction.double()
    period = _SHORTEST_PERIOD * growth.to(time.dtype)
    angle = time[..., None] * (2 * math.pi / period)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
