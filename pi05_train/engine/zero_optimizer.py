"""AdamW over the flat shards that ZeRO makes of backbone and expert."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pi05_train.config.run_parts import OptimizerConfig

MOMENTS = ("exp_avg", "exp_avg_sq")
AVERAGE = "average"


class ShardedAdamW(torch.optim.AdamW):
    """AdamW that scales the gradients of each group by its "scale" first and averages the weights afterwards.

    ZeRO calls `step` for fp32 shards of one group at a time. What is done to every element alike is done here, so that
    no rank ever holds more of it than its shard: clipping, and the average, which is a state like the moments.
    """

    def __init__(self, groups: Sequence[Sequence[Parameter]], config: OptimizerConfig) -> None:
        """One parameter group for each of `groups` that is not empty."""
        super().__init__(
            [{"params": list(group), "scale": 1.0} for group in groups if group],
            lr=config.learning_rate,
            betas=(config.betas[0], config.betas[1]),
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=any(parameter.is_cuda for group in groups for parameter in group),
        )
        decay = config.ema_decay
        self._blend = None if decay is None else get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    def begin(self, shards: Iterable[Tensor]) -> None:
        """Make the state of the shards now, not at the first step: see `make_optimizer`."""
        for shard in shards:
            self.state[shard] = {
                "step": torch.zeros((), dtype=torch.float32, device=shard.device if shard.is_cuda else "cpu"),
                **{moment: torch.zeros_like(shard) for moment in MOMENTS},
            }
            if self._blend is not None:
                self.state[shard][AVERAGE] = shard.detach().clone()

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Scale, step, average."""
        shards = [shard for group in self.param_groups for shard in group["params"]]
        for group in self.param_groups:
            for shard in group["params"]:
                shard.grad.mul_(group["scale"])
        super().step()
        if self._blend is not None:
            self._blend([self.state[shard][AVERAGE] for shard in shards], [shard.detach() for shard in shards], 0)

    @property
    def steps_done(self) -> float:
        """AdamW's own count, the same in every shard."""
        (steps,) = {float(state["step"]) for state in self.state.values()}
        return steps

    @steps_done.setter
    def steps_done(self, steps: float) -> None:
        for state in self.state.values():
            state["step"].fill_(steps)


def clip_factors(norms: Tensor, groups: Sequence[str], config: OptimizerConfig) -> Tensor:
    """What to scale the gradients of each of `groups` by; their norms are given. See `clip`."""
    limits = {"backbone": config.clip_backbone, "expert": config.clip_expert}
    if config.clip_together is not None:
        limits = dict.fromkeys(limits, config.clip_together)
        norms = torch.linalg.vector_norm(norms).expand_as(norms)
    return (norms.new_tensor([limits[group] for group in groups]) / (norms + 1e-6)).clamp(max=1.0)
