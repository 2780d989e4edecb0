"""The two losses and their sum.

Both are averaged inside a segment first, then over segments: long answers do not outweigh short ones, and alpha keeps
its meaning. The sum over segments is divided by counts handed in from outside, so that micro-batches and ranks add up
to the loss of the whole batch.

Shape letters: B segments, L labels, V vocabulary, A segments with actions, K flow draws, H horizon, D action dims.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pi05_train.model.batch import Batch
from pi05_train.model.flow import flow_target
from pi05_train.model.pi05 import Output
from pi05_train.model.precision import at_least_float32
from pi05_train.objective.config import ObjectiveConfig


@dataclass(frozen=True)
class Counts:
    """Over how many segments each loss is averaged: those with labels, those with actions."""

    text: int
    flow: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.text + other.text, self.flow + other.flow)


@dataclass(frozen=True)
class LossTerms:
    """The loss and, detached, what it is made of."""

    total: Tensor
    text_B: Tensor
    """Mean cross-entropy per segment, 0 without labels."""
    flow_A: Tensor
    """Mean squared error per segment with actions; empty without an expert."""


def count(batch: Batch) -> Counts:
    """Counts of one batch; add them over micro-batches and ranks before `total_loss`."""
    return Counts(text=sum(length > 0 for length in batch.target_lengths), flow=len(batch.action_segments))


def text_loss_per_segment(logits_LV: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy over each segment's labels, [B], 0 where there are none; softmax in float32."""
    token_loss_L = functional.cross_entropy(at_least_float32(logits_LV), batch.labels_L, reduction="none")
    zeros_B = token_loss_L.new_zeros(batch.num_segments)
    labels_B = zeros_B.index_add(0, batch.label_segments_L, torch.ones_like(token_loss_L))
    return zeros_B.index_add(0, batch.label_segments_L, token_loss_L) / labels_B.clamp(min=1)


def flow_loss_per_segment(velocity_AKHD: Tensor, batch: Batch, *, openpi_exact: bool = False) -> Tensor:
    """Mean squared error of the velocity per segment with actions, [A].

    The mean runs over draws and over the true entries of the action mask, or over every entry with `openpi_exact`
    (openpi models/pi0.py has no mask).
    """
    velocity_AKHD = at_least_float32(velocity_AKHD)
    error_AKHD = (velocity_AKHD - flow_target(batch.actions_AHD, batch.noise_AKHD)).square()
    if openpi_exact:
        return error_AKHD.mean(dim=(1, 2, 3))
    mask_AHD = batch.action_mask_AHD
    real_A = mask_AHD.sum(dim=(1, 2)).clamp(min=1)
    return (error_AKHD.mean(dim=1) * mask_AHD).sum(dim=(1, 2)) / real_A


def total_loss(output: Output, batch: Batch, objective: ObjectiveConfig, counts: Counts) -> LossTerms:
    """sum(text) / counts.text + alpha * sum(flow) / counts.flow; a term that nothing counts for is exactly 0.

    Both terms stay in the graph even when empty, so every rank produces a gradient for every parameter.
    """
    text_B = text_loss_per_segment(output.logits_LV, batch)
    total = text_B.sum() / max(counts.text, 1)
    flow_A = text_B.new_zeros(0)
    if output.velocity_AKHD is not None:
        flow_A = flow_loss_per_segment(output.velocity_AKHD, batch, openpi_exact=objective.openpi_exact)
        total = total + objective.alpha * flow_A.sum() / max(counts.flow, 1)
    return LossTerms(total, text_B.detach(), flow_A.detach())
