"""How well the true target is predicted when the true tokens before it are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from pi05_train.objective.losses import text_loss_per_segment
from pi05_train.policy.policy import Policy, pack_without_draws
from pi05_train.processing.example import Example


@dataclass(frozen=True)
class TeacherForced:
    """One sample's target, judged token by token."""

    cross_entropy: float
    """Nats per token, averaged over the target."""
    accuracy: float
    """Share of tokens that are the most likely one."""


@torch.inference_mode()
def teacher_forced(policy: Policy, examples: Sequence[Example]) -> list[TeacherForced]:
    """One judgement per example; every example has a target."""
    judged: list[TeacherForced] = []
    for start in range(0, len(examples), policy.batch_samples):
        chunk = [replace(e, actions=None, action_mask=None) for e in examples[start : start + policy.batch_samples]]
        batch = pack_without_draws(chunk, policy.model).to(policy.device)
        logits_LV = policy.model(batch).logits_LV
        loss_B = text_loss_per_segment(logits_LV, batch)
        right_L = (logits_LV.argmax(dim=-1) == batch.labels_L).float()
        right_B = torch.zeros_like(loss_B).index_add(0, batch.label_segments_L, right_L.to(loss_B.dtype))
        lengths = batch.target_lengths
        judged += [
            TeacherForced(loss, right / length)
            for loss, right, length in zip(loss_B.tolist(), right_B.tolist(), lengths, strict=True)
        ]
    return judged
