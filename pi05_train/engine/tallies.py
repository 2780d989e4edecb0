"""Sums over sources, kept on the device until the step is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pi05_train.engine.protocol import Tally
from pi05_train.model.batch import Batch


@dataclass(frozen=True)
class SegmentLosses:
    """Detached losses of one micro-batch: text_B, and flow_A over the segments with actions."""

    batch: Batch
    text_B: Tensor
    flow_A: Tensor

    @property
    def flow_segments(self) -> tuple[int, ...]:
        """Segments of flow_A: those with actions, none for a network without an expert."""
        return self.batch.action_segments if self.flow_A.shape[0] else ()


def source_names(batches: Sequence[Batch]) -> list[str]:
    """Every source in the batches, sorted."""
    return sorted({segment.source for batch in batches for segment in batch.segments})


def sums_by_source(losses: Sequence[SegmentLosses], sources: Sequence[str]) -> Tensor:
    """[2, S] on the device: text and flow sums per source. Copies indices to the device, waits for nothing."""
    index = {source: i for i, source in enumerate(sources)}
    sums = losses[0].text_B.new_zeros(2, len(sources), dtype=torch.float32)
    for part in losses:
        segments = part.batch.segments
        text_of = torch.tensor([index[s.source] for s in segments], dtype=torch.int64)
        flow_of = torch.tensor([index[segments[i].source] for i in part.flow_segments], dtype=torch.int64)
        sums[0].index_add_(0, text_of.to(sums.device, non_blocking=True), part.text_B.float())
        sums[1].index_add_(0, flow_of.to(sums.device, non_blocking=True), part.flow_A.float())
    return sums


def tallies(
    losses: Sequence[SegmentLosses], sources: Sequence[str], sums: Sequence[Sequence[float]]
) -> tuple[dict[str, Tally], dict[str, Tally], dict[str, int]]:
    """Text tallies, flow tallies and samples per source; a source without the term is left out of it."""
    text, flow, samples = (dict.fromkeys(sources, 0) for _ in range(3))
    for part in losses:
        segments = part.batch.segments
        for segment, target_length in zip(segments, part.batch.target_lengths, strict=True):
            samples[segment.source] += 1
            text[segment.source] += target_length > 0
        for i in part.flow_segments:
            flow[segments[i].source] += 1
    text_tallies = {s: Tally(sums[0][i], text[s]) for i, s in enumerate(sources) if text[s]}
    flow_tallies = {s: Tally(sums[1][i], flow[s]) for i, s in enumerate(sources) if flow[s]}
    return text_tallies, flow_tallies, samples


def non_finite_segments(losses: Sequence[SegmentLosses]) -> list[str]:
    """Names "source/key" of every segment whose text or flow loss is not finite."""
    found = set()
    for part in losses:
        rows = (~part.text_B.isfinite()).nonzero().flatten().tolist()
        rows += [part.flow_segments[i] for i in (~part.flow_A.isfinite()).nonzero().flatten().tolist()]
        found |= {f"{part.batch.segments[i].source}/{part.batch.segments[i].key}" for i in rows}
    return sorted(found)
