"""AdamW over two groups, backbone and expert, and clipping of each on its own or of both as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pi05_train.config.run_parts import OptimizerConfig
from pi05_train.model.pi05 import Pi05


def trained_groups(model: Pi05) -> tuple[list[Parameter], list[Parameter]]:
    """Backbone and expert: the parameters that need a gradient."""
    backbone, expert = (
        [parameter for _, parameter in group if parameter.requires_grad]
        for group in (model.backbone_parameters(), model.expert_parameters())
    )
    return backbone, expert


def make_optimizer(
    backbone: Sequence[Parameter], expert: Sequence[Parameter], config: OptimizerConfig
) -> torch.optim.AdamW:
    """AdamW whose state exists from the start; either group may be empty.

    PyTorch makes a parameter's state at its first gradient; here it is made at once, so that memory runs out before
    training or not at all, and a fresh optimizer is a complete template for a checkpoint.
    """
    fused = (*backbone, *expert)[0].is_cuda
    groups = [{"params": list(group)} for group in (backbone, expert) if group]
    optimizer = torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.betas[0], config.betas[1]),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=fused,
    )
    for parameter in (*backbone, *expert):
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device if fused else "cpu"),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def gradient_norm(parameters: Sequence[Parameter]) -> Tensor | None:
    """The l2 norm over all gradients, sharded ones as a whole, on the device; None where no parameter has one."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return None
    norm = get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def clip(groups: Sequence[Sequence[Parameter]], norms: Sequence[Tensor | None], config: OptimizerConfig) -> None:
    """Scale the gradients of backbone and expert, whose norms were measured before, to the configured limits."""
    if config.clip_together is not None:
        together = [norm for norm in norms if norm is not None]
        if together:
            limit, norm = config.clip_together, torch.linalg.vector_norm(torch.stack(together))
            clip_grads_with_norm_([parameter for group in groups for parameter in group], limit, norm)
        return
    for group, norm, limit in zip(groups, norms, (config.clip_backbone, config.clip_expert), strict=True):
        if norm is not None:
            clip_grads_with_norm_(group, limit, norm)
