"""Which rows attend to which: the lengths of a batch turned into ragged attention calls, once per forward pass.

The backbone's stream holds, segment after segment, the prefix and then the target. The action expert's stream holds
one chunk of H rows per (segment with actions, flow draw). Actions see the prefix and their own chunk, never targets;
nothing sees actions. Source: pi0.5 paper appendix E; the three calls are exact, no mask is lost. pi0 has a state token
before its actions that sees the prefix and itself alone: a fourth call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from pi05_train.model.attention import RaggedCall, ragged_call, span_rows
from pi05_train.model.gemma import Rotation, rotation


@dataclass(frozen=True)
class BackbonePlan:
    """What one layer's backbone does."""

    calls: tuple[RaggedCall, ...]
    rotation: Rotation
    order: Tensor
    """Brings the calls' outputs, one after the other, into the order of the rows."""
    rows: Tensor | None = None
    """Rows that are read after this layer (the others only lend keys and values); None: all."""


@dataclass(frozen=True)
class ExpertPlan:
    """What the action expert does in every layer. Key rows count the backbone's rows first, then the expert's."""

    calls: tuple[RaggedCall, ...]
    order: Tensor
    """Brings the calls' outputs, one after the other, into the order of the chunks."""
    rotation: Rotation
    """[G, rows, 1, E/2]: chunks start right after their prefix, parallel to the target."""


@dataclass(frozen=True)
class Segments:
    """Lengths of the segments of a backbone stream."""

    prefix: tuple[int, ...]
    target: tuple[int, ...]

    @property
    def starts(self) -> list[int]:
        return [0, *accumulate(p + t for p, t in zip(self.prefix, self.target, strict=True))][:-1]

    @property
    def rows(self) -> int:
        return sum(self.prefix) + sum(self.target)


def backbone_plan(segments: Segments, rotation: Rotation) -> BackbonePlan:
    """Calls 1 and 2: prefix rows on their prefix, target rows on their prefix and the target so far."""
    device = rotation.cos.device
    each = list(zip(segments.starts, segments.prefix, segments.target, strict=True))
    prefix = ragged_call([(s, p) for s, p, _ in each], [[(s, p)] for s, p, _ in each], causal=False, device=device)
    target = ragged_call(
        [(s + p, t) for s, p, t in each], [[(s, p + t)] for s, p, t in each], causal=True, device=device
    )
    order = torch.cat([prefix.query_rows_M, target.query_rows_M]).argsort()
    return BackbonePlan((prefix, target), rotation, order)


def prefix_plan(segments: Segments, rotation: Rotation) -> BackbonePlan:
    """Call 1 alone, for segments without targets."""
    assert not any(segments.target), "a prefix cache is made of prompts"
    spans = list(zip(segments.starts, segments.prefix, strict=True))
    call = ragged_call(spans, [[span] for span in spans], causal=False, device=rotation.cos.device)
    return BackbonePlan((call,), rotation, call.query_rows_M.argsort())


def last_backbone_plan(segments: Segments, rotation: Rotation, predictions: Sequence[int]) -> BackbonePlan:
    """The last layer: only rows that predict something are asked for.

    `predictions[s]` rows of segment s, the first of which is the last row of the prefix: that one sees exactly the
    prefix, the next ones a target token more each. Call 1 has nothing left to do.
    """
    device = rotation.cos.device
    each = list(zip(segments.starts, segments.prefix, predictions, strict=True))
    rows = span_rows([(start + prefix - 1, n) for start, prefix, n in each]).to(device, non_blocking=True)
    before = [0, *accumulate(predictions)][:-1]
    queries = list(zip(before, predictions, strict=True))
    call = ragged_call(queries, [[(s, p - 1 + n)] for s, p, n in each], causal=True, device=device)
    return BackbonePlan((call,), rotation, call.query_rows_M.argsort(), rows)


def ends_plan(segments: Segments, head_dim: int, like: Rotation) -> BackbonePlan:
    """The last row of every prefix, on the prefix that it ends."""
    keys = [[span] for span in zip(segments.starts, segments.prefix, strict=True)]
    device = like.cos.device
    call = ragged_call([(s, 1) for s in range(len(keys))], keys, causal=False, device=device)
    positions = torch.tensor(segments.prefix, dtype=torch.int64).to(device, non_blocking=True) - 1
    return BackbonePlan((call,), rotation(positions, head_dim, like.cos.dtype), call.query_rows_M.argsort())


def decode_plan(
    segments: Segments,
    owners: Sequence[int],
    decoded: int,
    head_dim: int,
    like: Rotation,
    *,
    skipped_positions: int = 0,
) -> BackbonePlan:
    """Call 2 against a cache: one new row per answer, after `decoded` earlier steps of one row per answer each.

    Answer a goes on from the prefix of segment `owners[a]`. Key rows count the cached prefix rows, then the rows of
    every step, this one included. Positions go on where the prefix ended, `skipped_positions` further.
    """
    device, count, starts = like.cos.device, len(owners), segments.starts
    keys = [
        [(starts[s], segments.prefix[s]), *((segments.rows + step * count + a, 1) for step in range(decoded + 1))]
        for a, s in enumerate(owners)
    ]
    call = ragged_call([(a, 1) for a in range(count)], keys, causal=True, device=device)
    lengths = torch.tensor([segments.prefix[s] for s in owners], dtype=torch.int64).to(device, non_blocking=True)
    positions = lengths + decoded + skipped_positions
    return BackbonePlan((call,), rotation(positions, head_dim, like.cos.dtype), call.query_rows_M.argsort())


def expert_plan(
    segments: Segments,
    chunk_segments: Sequence[int],
    horizon: int,
    head_dim: int,
    like: Rotation,
    *,
    state_token: bool = False,
) -> ExpertPlan:
    """Call 3: chunk g, of segment `chunk_segments[g]`, on that segment's prefix and on itself.

    With a `state_token` every chunk begins with one row more, which the actions see and which sees no action.
    """
    device, starts, rows = like.cos.device, segments.starts, horizon + state_token
    prefixes = [(starts[s], segments.prefix[s]) for s in chunk_segments]

    def call(first: int, asking: int, answering: int) -> RaggedCall:
        """In every chunk, `asking` rows from `first` on ask the prefix and the chunk's first `answering` rows."""
        queries = [(g * rows + first, asking) for g in range(len(chunk_segments))]
        keys = [[prefix, (segments.rows + g * rows, answering)] for g, prefix in enumerate(prefixes)]
        return ragged_call(queries, keys, causal=False, device=device)

    calls = (call(0, 1, 1), call(1, horizon, rows)) if state_token else (call(0, horizon, horizon),)
    first = torch.tensor([segments.prefix[s] for s in chunk_segments], dtype=torch.int64)
    positions = (first[:, None] + torch.arange(rows)).to(device, non_blocking=True)
    order = torch.cat([each.query_rows_M for each in calls]).argsort()
    return ExpertPlan(calls, order, rotation(positions, head_dim, like.cos.dtype))
