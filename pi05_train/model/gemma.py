"""Gemma's parts, used twice: by the backbone with RMSNorm and by pi0.5's action expert with its adaptive form.

Source: openpi models/gemma.py. No biases, RoPE on halves (not interleaved), GeGLU with the tanh approximation.

Shape letters: `...` rows (N of the backbone, or G chunks x H steps of the expert), W width, Q query heads,
R key-value heads, E head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pi05_train.model.config import ModelConfig, TowerConfig
from pi05_train.model.precision import at_least_float32

_EPSILON = 1e-6
_ROPE_BASE = 10_000.0


@dataclass(frozen=True)
class Rotation:
    """Cosine and sine of every row's RoPE angles, [..., 1, E/2], at least float32."""

    cos: Tensor
    sin: Tensor

    def rows(self, index: Tensor) -> Rotation:
        return Rotation(self.cos[index], self.sin[index])


def rotation(positions: Tensor, head_dim: int, dtype: torch.dtype = torch.float32) -> Rotation:
    """The rotation of rows at `positions` (0, 1, ... within a segment)."""
    dtype = torch.promote_types(dtype, torch.float32)
    half = torch.arange(head_dim // 2, dtype=dtype, device=positions.device)
    angle = positions[..., None, None] / _ROPE_BASE ** (half * 2 / head_dim)
    return Rotation(angle.cos(), angle.sin())


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """RoPE of queries or keys [..., heads, E]."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * by.cos - right * by.sin, right * by.cos + left * by.sin], dim=-1).to(x.dtype)


@dataclass(frozen=True)
class WideRotation:
    """`Rotation` for both halves at once, [..., 1, E]."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, by: Rotation) -> WideRotation:
        return cls(torch.cat([by.cos, by.cos], dim=-1), torch.cat([-by.sin, by.sin], dim=-1))

    def __call__(self, x: Tensor) -> Tensor:
        """RoPE of queries or keys [..., heads, E], in fewer operations than `rotate`."""
        left, right = x.chunk(2, dim=-1)
        return torch.addcmul(x * self.cos, torch.cat([right, left], dim=-1), self.sin).to(x.dtype)


def _normalised(x: Tensor) -> Tensor:
    return functional.rms_norm(at_least_float32(x), x.shape[-1:], eps=_EPSILON)


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + scale). The condition is ignored and there is no gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        assert condition is None, "this norm takes no condition"
        weight = 1 + at_least_float32(self.scale)
        return functional.rms_norm(at_least_float32(x), x.shape[-1:], weight, _EPSILON).to(x.dtype), None


@dataclass(frozen=True)
class Modulation:
    """What one condition does to every row."""

    factor_W: Tensor
    shift_W: Tensor
    gate_W: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The norm of `x`, modulated."""
        return torch.addcmul(self.shift_W, _normalised(x), self.factor_W).to(x.dtype)


class AdaptiveRMSNorm(nn.Module):
    """adaRMS: scale, shift and the gate of the following residual come from the condition (the flow time).

    With zero weights and biases it is a plain norm with a closed gate, so the expert's blocks start as the identity.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        assert condition is not None, "this norm needs a condition"
        scale, shift, gate = self.modulation(condition.to(x.dtype)).chunk(3, dim=-1)
        return (_normalised(x) * (1 + scale) + shift).to(x.dtype), gate

    def modulations(self, condition: Tensor, dtype: torch.dtype) -> list[Modulation]:
        """What `forward` makes of each condition [steps, W] for rows of `dtype`."""
        scale, shift, gate = self.modulation(condition.to(dtype)).chunk(3, dim=-1)
        factor = at_least_float32(1 + scale)
        return [Modulation(*parts) for parts in zip(factor, at_least_float32(shift), gate, strict=True)]


def residual(x: Tensor, update: Tensor, gate: Tensor | None) -> Tensor:
    """x + update, or x + update * gate, in the dtype of x."""
    return (x + (update if gate is None else update * gate)).to(x.dtype)


class GemmaBlock(nn.Module):
    """The weights of one tower in one layer. Attention itself lies between `queries`/`keys_values` and `finish`."""

    def __init__(self, tower: TowerConfig, config: ModelConfig, *, adaptive: bool) -> None:
        super().__init__()
        width, head_dim = tower.width, config.head_dim
        norm = AdaptiveRMSNorm if adaptive else RMSNorm
        self.head_dim = head_dim
        self.attention_norm = norm(width)
        self.q_proj = nn.Linear(width, config.heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, config.kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(config.heads * head_dim, width, bias=False)
        self.mlp_norm = norm(width)
        self.gate_proj = nn.Linear(width, tower.mlp_dim, bias=False)
        self.up_proj = nn.Linear(width, tower.mlp_dim, bias=False)
        self.down_proj = nn.Linear(tower.mlp_dim, width, bias=False)

    def queries(self, normed: Tensor, by: Rotation) -> Tensor:
        """Rotated queries [..., Q, E]."""
        return rotate(self._heads(self.q_proj(normed)), by)

    def keys_values(self, normed: Tensor, by: Rotation) -> tuple[Tensor, Tensor]:
        """Rotated keys and values, each [..., R, E]."""
        keys = rotate(self._heads(self.k_proj(normed)), by)
        return keys, self._heads(self.v_proj(normed))

    def _heads(self, projected: Tensor) -> Tensor:
        return torch.unflatten(projected, -1, (-1, self.head_dim))

    def finish(self, x: Tensor, attended: Tensor, gate: Tensor | None, condition: Tensor | None) -> Tensor:
        """The rest of the block after attention [..., Q, E]: output projection, residual, MLP, residual."""
        x = residual(x, self.o_proj(attended.flatten(-2)), gate)
        normed, mlp_gate = self.mlp_norm(x, condition)
        hidden = functional.gelu(self.gate_proj(normed), approximate="tanh") * self.up_proj(normed)
        return residual(x, self.down_proj(hidden), mlp_gate)
