"""The network in bfloat16 for inference, rounded where training under autocast rounds."""

from __future__ import annotations

import torch

from pi05_train.model.gemma import RMSNorm
from pi05_train.model.pi05 import Pi05
from pi05_train.model.precision import UncastLinear


def to_bfloat16(model: Pi05) -> None:
    """Halves the weights in place; what training computes in float32 whatever the precision keeps its own.

    That is: the projections of actions, times and states, the scales of the norms, and the stem of the vision tower.
    """
    kept = {p for m in model.modules() if isinstance(m, UncastLinear | RMSNorm) for p in m.parameters(recurse=False)}
    kept |= {model.vision.position_embedding, *model.vision.patch_embedding.parameters()}
    for parameter in model.parameters():
        if parameter not in kept:
            parameter.data = parameter.data.to(torch.bfloat16)
