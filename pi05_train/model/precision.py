"""Where numbers must not be rounded: helpers that keep at least float32 whatever the engine computes in.

The engine decides the compute dtype, by autocast or by casting parameters (FSDP's mixed precision). The network only
says which places stay in full precision; float64 models (tests) stay in float64 throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or unchanged if it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Dtype of the activations: autocast's where it is on, else that of the weights."""
    device_type = weight.device.type
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return weight.dtype


class UncastLinear(nn.Linear):
    """A linear layer that autocast leaves alone; the input takes the dtype of the weight."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(self.weight.device.type, enabled=False):
            return functional.linear(input.to(self.weight.dtype), self.weight, self.bias)
