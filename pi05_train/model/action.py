"""What the action expert has besides its blocks: projections of actions, time and state, and its last norm.

pi0.5 lets the flow time modulate every norm of the expert; pi0 mixes it into the action tokens and puts the state
before them as a token. Source: openpi models/pi0.py. Linear layers compute in the parameters' precision.

Shape letters: G chunks, H horizon, D action dims, W width of the expert; a chunk has H rows, pi0's one more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from pi05_train.model.config import ModelConfig
from pi05_train.model.flow import time_embedding
from pi05_train.model.gemma import AdaptiveRMSNorm, RMSNorm
from pi05_train.model.precision import UncastLinear


class ActionEnds(nn.Module, ABC):
    """Noisy actions, flow times and states in, velocities out."""

    final_norm: AdaptiveRMSNorm | RMSNorm

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.horizon = config.action_horizon
        self.in_proj = UncastLinear(config.action_dim, config.expert.width)
        self.out_proj = UncastLinear(config.expert.width, config.action_dim)

    def embed(self, x_GHD: Tensor, time_G: Tensor, states_GD: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows of the noisy chunks, [G, rows, W], and the condition [G, W] of every adaptive norm, if there are any."""
        states, actions = self.state_rows(states_GD), self.action_rows(x_GHD, time_G)
        return actions if states is None else torch.cat([states, actions], dim=1), self.condition(time_G)

    @abstractmethod
    def condition(self, time_G: Tensor) -> Tensor | None:
        """What the adaptive norms are given, [G, W]; None if there are none."""

    @abstractmethod
    def state_rows(self, states_GD: Tensor) -> Tensor | None:
        """The row before the actions, [G, 1, W]; None if there is none."""

    @abstractmethod
    def action_rows(self, x_GHD: Tensor, time_G: Tensor) -> Tensor:
        """Rows of the noisy actions, [G, H, W]."""

    def velocity(self, chunk: Tensor, condition_GW: Tensor | None) -> Tensor:
        """The velocity of every step, [G, H, D], from the last layer's rows. The norm's gate has nothing to gate."""
        condition = None if condition_GW is None else condition_GW[:, None]
        normed, _ = self.final_norm(chunk[:, -self.horizon :], condition)
        velocity: Tensor = self.out_proj(normed)
        return velocity

    def _time(self, time_G: Tensor) -> Tensor:
        # The time is never rounded to half precision: the embedding's shortest period would not survive it.
        time_G = time_G.to(torch.promote_types(self.in_proj.weight.dtype, torch.float32))
        return time_embedding(time_G, self.in_proj.out_features)


class ModulatingEnds(ActionEnds):
    """pi0.5: the time is the condition, the actions alone are the rows."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width = config.expert.width
        self.time_mlp_in = UncastLinear(width, width)
        self.time_mlp_out = UncastLinear(width, width)
        self.final_norm = AdaptiveRMSNorm(width)

    def condition(self, time_G: Tensor) -> Tensor:
        """See `ActionEnds.condition`."""
        hidden = functional.silu(self.time_mlp_in(self._time(time_G)))
        return functional.silu(self.time_mlp_out(hidden))

    def state_rows(self, states_GD: Tensor) -> None:
        """See `ActionEnds.state_rows`; the state is in the prompt."""

    def action_rows(self, x_GHD: Tensor, time_G: Tensor) -> Tensor:  # noqa: ARG002
        """See `ActionEnds.action_rows`."""
        rows: Tensor = self.in_proj(x_GHD)
        return rows


class MixingEnds(ActionEnds):
    """pi0: a row with the state, then the actions mixed with the time; no condition."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width = config.expert.width
        self.state_proj = UncastLinear(config.action_dim, width)
        self.time_mlp_in = UncastLinear(2 * width, width)
        self.time_mlp_out = UncastLinear(width, width)
        self.final_norm = RMSNorm(width)

    def condition(self, time_G: Tensor) -> None:
        """See `ActionEnds.condition`."""

    def state_rows(self, states_GD: Tensor) -> Tensor:
        """See `ActionEnds.state_rows`."""
        row: Tensor = self.state_proj(states_GD)
        return row[:, None]

    def action_rows(self, x_GHD: Tensor, time_G: Tensor) -> Tensor:
        """See `ActionEnds.action_rows`."""
        actions = self.in_proj(x_GHD)
        time = self._time(time_G)[:, None].expand_as(actions)
        rows: Tensor = self.time_mlp_out(functional.silu(self.time_mlp_in(torch.cat([actions, time], dim=-1))))
        return rows


def action_ends(config: ModelConfig) -> ActionEnds:
    """The ends that belong to the model's family."""
    return MixingEnds(config) if config.state_token else ModulatingEnds(config)
