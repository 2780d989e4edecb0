"""What the action expert has besides its blocks: projections of actions and time, and its last norm.

Source: openpi models/pi0.py. Shape letters: G chunks, H horizon, D action dims, W width of the expert.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from pi05_train.model.config import ModelConfig
from pi05_train.model.flow import time_embedding
from pi05_train.model.gemma import AdaptiveRMSNorm
from pi05_train.model.precision import UncastLinear


class ActionEnds(nn.Module):
    """Noisy actions and flow times in, velocities out. Its linear layers compute in the parameters' precision."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.expert.width
        self.in_proj = UncastLinear(config.action_dim, width)
        self.time_mlp_in = UncastLinear(width, width)
        self.time_mlp_out = UncastLinear(width, width)
        self.final_norm = AdaptiveRMSNorm(width)
        self.out_proj = UncastLinear(width, config.action_dim)

    def embed(self, x_GHD: Tensor) -> Tensor:
        """Tokens of the noisy chunks, [G, H, W]."""
        tokens: Tensor = self.in_proj(x_GHD)
        return tokens

    def condition(self, time_G: Tensor) -> Tensor:
        """The condition of every adaptive norm, [G, W]."""
        embedded = time_embedding(time_G.to(self.in_proj.weight.dtype), self.time_mlp_in.in_features)
        return functional.silu(self.time_mlp_out(functional.silu(self.time_mlp_in(embedded))))

    def velocity(self, chunk_GHW: Tensor, condition_GW: Tensor) -> Tensor:
        """The velocity of every step, [G, H, D]. The last norm's gate has nothing to gate."""
        normed, _ = self.final_norm(chunk_GHW, condition_GW[:, None])
        velocity: Tensor = self.out_proj(normed)
        return velocity
