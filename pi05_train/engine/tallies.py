"""What a step's loss is made of, per source and over all ranks: counts on the host, sums on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pi05_train.engine.protocol import StepResult, Tally
from pi05_train.engine.world import World
from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.objective.losses import Counts, count


@dataclass(frozen=True)
class SegmentLosses:
    """Detached losses of one micro-batch: its part of the step's loss, text_B, flow_A over segments with actions."""

    batch: Batch
    total: Tensor
    text_B: Tensor
    flow_A: Tensor

    @property
    def flow_segments(self) -> tuple[int, ...]:
        """Segments of flow_A: those with actions, none for a network without an expert."""
        return self.batch.action_segments if self.flow_A.shape[0] else ()


@dataclass(frozen=True)
class StepCounts:
    """What a step holds, over all its micro-batches and ranks; lists follow `names`."""

    names: list[str]
    text: list[int]
    """Segments with labels."""
    flow: list[int]
    """Segments with actions."""
    segments: list[int]
    tokens: int
    of_losses: Counts
    """What the losses are divided by."""

    @property
    def samples(self) -> dict[str, int]:
        return {name: n for name, n in zip(self.names, self.segments, strict=True) if n}

    def result(self, sums: Sequence[float], backbone_norm: float, expert_norm: float | None) -> StepResult:
        """Of the step with these `loss_sums` over all ranks; a source without text or flow is left out of its tally."""
        loss, *flat = sums
        both = flat[: len(self.names)], flat[len(self.names) :]
        text, flow = (
            {name: Tally(total, n) for name, n, total in zip(self.names, counts, of, strict=True) if n}
            for counts, of in zip((self.text, self.flow), both, strict=True)
        )
        return StepResult(loss, text, flow, self.samples, self.tokens, backbone_norm, expert_norm)


class SourceNames:
    """The sources met so far, by any rank; what is summed per source needs the same order everywhere."""

    def __init__(self, world: World, *, expert: bool) -> None:
        """`expert`: whether segments with actions have a flow loss."""
        self.names: list[str] = []
        self.world = world
        self._expert = expert

    def count(self, batches: Sequence[Batch]) -> StepCounts:
        """The counts of a step. A collective: one small sum on the host, and one more exchange for a new source.

        Every rank must have the same number of micro-batches, since each is a turn of all of them.
        """
        met = {segment.source for batch in batches for segment in batch.segments}
        own = self._own(batches, met)
        known, turns, *rest = self.world.sum([int(met <= set(self.names)), len(batches), *own])
        if known < self.world.size:
            self.names = sorted({name for names in self.world.gather(met | set(self.names)) for name in names})
            turns, *rest = self.world.sum([len(batches), *self._own(batches, met)])
        assert turns == len(batches) * self.world.size, "ranks have different numbers of micro-batches"
        tokens, text, flow, *flat = rest
        size = len(self.names)
        parts = flat[:size], flat[size : 2 * size], flat[2 * size :]
        return StepCounts(self.names, *parts, tokens, Counts(text, flow))

    def _own(self, batches: Sequence[Batch], met: set[str]) -> list[int]:
        """This rank's tokens and loss counts, then per known source: segments with labels, with actions, all."""
        text, flow, segments = (dict.fromkeys({*self.names, *met}, 0) for _ in range(3))
        for batch in batches:
            for segment, target_length in zip(batch.segments, batch.target_lengths, strict=True):
                segments[segment.source] += 1
                text[segment.source] += target_length > 0
            for i in batch.action_segments if self._expert else ():
                flow[batch.segments[i].source] += 1
        tokens = sum(sum(batch.prefix_lengths) + sum(batch.target_lengths) for batch in batches)
        of_losses = sum((count(batch) for batch in batches), Counts(0, 0))
        by_source = (text, flow, segments)
        return [tokens, of_losses.text, of_losses.flow, *(counts[name] for counts in by_source for name in self.names)]


def loss_sums(losses: Sequence[SegmentLosses], sources: Sequence[str]) -> Tensor:
    """[1 + 2 S] on the device: this rank's part of the step's loss, then text sums and flow sums per source.

    Copies indices to the device, waits for nothing.
    """
    total = sum((part.total for part in losses), losses[0].total.new_zeros(()))
    index = {source: i for i, source in enumerate(sources)}
    sums = losses[0].text_B.new_zeros(2, len(sources), dtype=torch.float32)
    for part in losses:
        segments = part.batch.segments
        text_of = torch.tensor([index[s.source] for s in segments], dtype=torch.int64)
        flow_of = torch.tensor([index[segments[i].source] for i in part.flow_segments], dtype=torch.int64)
        sums[0].index_add_(0, text_of.to(sums.device, non_blocking=True), part.text_B.float())
        sums[1].index_add_(0, flow_of.to(sums.device, non_blocking=True), part.flow_A.float())
    return torch.cat([total[None], sums.flatten()])


def non_finite(step: int, losses: Sequence[SegmentLosses], sources: SourceNames) -> UserError:
    """Why a step whose loss or gradient is not finite is refused, in the same words on every rank. A collective."""
    bad = sorted({name for names in sources.world.gather(_non_finite_segments(losses)) for name in names})
    return UserError(
        f"step {step}",
        got=f"a loss that is not finite in {', '.join(bad)}" if bad else "gradients that are not finite",
        expected=f"finite losses and gradients from the sources {', '.join(sources.names)}",
        do="look at these samples; the weights are unchanged" if bad else "lower the learning rate or raise precision",
    )


def _non_finite_segments(losses: Sequence[SegmentLosses]) -> list[str]:
    """Names "source/key" of every segment whose text or flow loss is not finite."""
    found = set()
    for part in losses:
        rows = (~part.text_B.isfinite()).nonzero().flatten().tolist()
        rows += [part.flow_segments[i] for i in (~part.flow_A.isfinite()).nonzero().flatten().tolist()]
        found |= {f"{part.batch.segments[i].source}/{part.batch.segments[i].key}" for i in rows}
    return sorted(found)
