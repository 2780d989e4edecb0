"""Call 3 against a cache (`plan.py`), laid out once for all Euler steps.

Shape letters: G chunks, M rows of all chunks, J key rows, E head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pi05_train.model.attention import RaggedCall, ragged_call
from pi05_train.model.config import ModelConfig
from pi05_train.model.gemma import Rotation, rotation
from pi05_train.model.plan import Segments


@dataclass(frozen=True)
class ChunkPlan:
    """Call 3 against a cache, laid out once for all Euler steps: every chunk's keys lie together, its own rows last."""

    call: RaggedCall
    """Without row numbers: rows lie in its order. Heads that share keys count as query rows of their own."""
    memory_rows_J: Tensor
    """Row of the cache behind every key row; 0 for the chunks' own."""
    own_rows_M: Tensor
    """Key rows of the chunks' own steps, chunk after chunk."""
    order_G: Tensor
    """Which chunk lies at which place: shortest prefix first."""
    back_G: Tensor
    """Brings the chunks back into the order of the segments."""
    rotation: Rotation
    """[G, rows, 1, E/2], in the order they lie in."""


@dataclass(frozen=True)
class DenoisingPlan:
    """The attention of the chunks, and before them of the state tokens where the network has these."""

    chunks: ChunkPlan
    states: ChunkPlan | None


def denoising_plan(
    segments: Segments, config: ModelConfig, like: Rotation, *, memory_rows: int | None = None
) -> DenoisingPlan:
    """One chunk per segment. The cache may have more rows than the segments, `memory_rows`."""
    end = segments.rows if memory_rows is None else memory_rows
    states = chunk_plan(segments, config, 1, end, like) if config.state_token else None
    after = int(config.state_token)
    return DenoisingPlan(chunk_plan(segments, config, config.action_horizon, end, like, after=after), states)


def chunk_plan(
    segments: Segments, config: ModelConfig, rows: int, memory_rows: int, like: Rotation, *, after: int = 0
) -> ChunkPlan:
    """One chunk of `rows` per segment, on the segment's cached prefix and itself.

    With `after` = 1 one more cached row stands between prefix and chunk: row `memory_rows` + s for segment s.
    """
    device, count = like.cos.device, len(segments.prefix)
    cached = memory_rows + after * count
    asking = rows * (config.heads // config.kv_heads)
    keys = [
        [(start, prefix), (memory_rows + s, after), (cached + s * rows, rows)]
        for s, (start, prefix) in enumerate(zip(segments.starts, segments.prefix, strict=True))
    ]
    call = ragged_call([(s * asking, asking) for s in range(count)], keys, causal=False, device=device)
    steps = torch.arange(rows, device=device)
    order_G = call.query_rows_M[::asking] // asking
    first_G = torch.tensor(segments.prefix, dtype=torch.int64).to(device, non_blocking=True)[order_G] + after
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    return ChunkPlan(
        call=replace(call, query_rows_M=nothing, key_rows_J=nothing),
        memory_rows_J=call.key_rows_J * (call.key_rows_J < cached),
        own_rows_M=(call.cumulative_keys[1:, None].long() - rows + steps).flatten(),
        order_G=order_G,
        back_G=order_G.argsort(),
        rotation=rotation(first_G[:, None] + steps, config.head_dim, like.cos.dtype),
    )
