"""Mask-free attention over ragged streams.

A `RaggedCall` is one attention over many segments at once: which rows ask, which rows answer, and how long each
segment is on either side. The whole attention mask of pi0.5 (paper appendix E) is three such calls (`plan.py`):
prefix on prefix, target on [prefix, target] (causal, aligned at the last key), action on [prefix, action].

Two ways to run a call, same result: CUDA in half precision through variable-length flash attention; elsewhere
segments of equal lengths are stacked and each stack runs through one `scaled_dot_product_attention`.

Shape letters: N rows of a stream, M query rows and J key rows of a call, S segments in a stack, q and k their lengths,
Q query heads, R key-value heads, E head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_GROUPED_QUERIES: dict[str, Any] = {"enable_gqa": True} if torch.__version__ >= "2.12" else {}
"""torch 2.11's kernel takes fewer key-value heads than query heads without being told."""

Span = tuple[int, int]
"""First row and number of rows."""


@dataclass(frozen=True)
class Stack:
    """Segments of equal lengths, one after the other in the call's rows."""

    segments: int
    query_length: int
    key_length: int


@dataclass(frozen=True)
class RaggedCall:
    """One attention over many segments, sorted by their lengths."""

    query_rows_M: Tensor
    key_rows_J: Tensor
    stacks: tuple[Stack, ...]
    causal: bool
    """Query i of q sees the first k - q + i + 1 of its k keys."""
    cumulative_queries: Tensor
    """int32 [segments + 1], for the variable-length kernel."""
    cumulative_keys: Tensor
    longest_query: int
    longest_key: int


def ragged_call(
    queries: Sequence[Span], keys: Sequence[Sequence[Span]], *, causal: bool, device: torch.device
) -> RaggedCall:
    """The call in which segment s asks with rows `queries[s]` and is answered by the rows of all spans `keys[s]`."""
    lengths = [(q[1], sum(span[1] for span in spans)) for q, spans in zip(queries, keys, strict=True)]
    order = sorted((s for s in range(len(queries)) if lengths[s][0]), key=lambda s: lengths[s])
    stacks = tuple(Stack(len(list(same)), *length) for length, same in groupby(lengths[s] for s in order))
    return RaggedCall(
        query_rows_M=span_rows([queries[s] for s in order]).to(device, non_blocking=True),
        key_rows_J=span_rows([span for s in order for span in keys[s]]).to(device, non_blocking=True),
        stacks=stacks,
        causal=causal,
        cumulative_queries=_cumulative([lengths[s][0] for s in order]).to(device, non_blocking=True),
        cumulative_keys=_cumulative([lengths[s][1] for s in order]).to(device, non_blocking=True),
        longest_query=max((lengths[s][0] for s in order), default=0),
        longest_key=max((lengths[s][1] for s in order), default=0),
    )


def span_rows(spans: Sequence[Span]) -> Tensor:
    """Row numbers of the spans, one span after the other, int64."""
    starts = torch.tensor([start for start, _ in spans], dtype=torch.int64)
    lengths = torch.tensor([length for _, length in spans], dtype=torch.int64)
    before = lengths.cumsum(0) - lengths
    return torch.repeat_interleave(starts - before, lengths) + torch.arange(int(lengths.sum()))


def _cumulative(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(torch.int32)


def attend(q_NQE: Tensor, k_NRE: Tensor, v_NRE: Tensor, call: RaggedCall) -> Tensor:
    """Attention of the call's query rows, [M, Q, E], in the order of `call.query_rows_M`."""
    return attend_in_order(q_NQE[call.query_rows_M], k_NRE[call.key_rows_J], v_NRE[call.key_rows_J], call)


def attend_in_order(q: Tensor, k: Tensor, v: Tensor, call: RaggedCall) -> Tensor:
    """Attention [M, Q, E] of queries [M, Q, E] on keys and values [J, R, E] that lie in the call's order already."""
    if q.shape[0] == 0:
        # Nothing to do, but keys and values stay in the graph: every rank must produce every gradient.
        return q + (k.sum() + v.sum())
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        return _attend_varlen(q, k, v, call)
    return _attend_stacks(q, k, v, call)


def _attend_varlen(q_MQE: Tensor, k_JRE: Tensor, v_JRE: Tensor, call: RaggedCall) -> Tensor:
    """Flash attention on cumulative lengths. Its causal form is aligned at the last key, as `call.causal` says."""
    from torch.nn.attention.varlen import varlen_attn  # its import takes seconds, and only CUDA needs it

    attended = varlen_attn(
        q_MQE,
        k_JRE,
        v_JRE,
        call.cumulative_queries,
        call.cumulative_keys,
        call.longest_query,
        call.longest_key,
        window_size=(-1, 0) if call.causal else (-1, -1),
        **_GROUPED_QUERIES,
    )
    assert isinstance(attended, Tensor)
    return attended


def _attend_stacks(q_MQE: Tensor, k_JRE: Tensor, v_JRE: Tensor, call: RaggedCall) -> Tensor:
    queries = torch.split(q_MQE, [stack.segments * stack.query_length for stack in call.stacks])
    key_sizes = [stack.segments * stack.key_length for stack in call.stacks]
    keys, values = torch.split(k_JRE, key_sizes), torch.split(v_JRE, key_sizes)
    outputs = [
        _attend_stack(q, k, v, stack, causal=call.causal)
        for q, k, v, stack in zip(queries, keys, values, call.stacks, strict=True)
    ]
    return torch.cat(outputs)


def _attend_stack(q: Tensor, k: Tensor, v: Tensor, stack: Stack, *, causal: bool) -> Tensor:
    """One batched attention; query heads that share a key-value head are folded into the query rows."""
    heads, kv_heads = q.shape[1], k.shape[1]
    group = heads // kv_heads
    folded = q.view(stack.segments, stack.query_length, kv_heads, group, -1).transpose(1, 2).flatten(2, 3)
    k, v = (x.view(stack.segments, stack.key_length, kv_heads, -1).transpose(1, 2) for x in (k, v))
    visible = _visible(stack, group, q.device) if causal and stack.query_length > 1 else None
    attended = functional.scaled_dot_product_attention(folded, k, v, attn_mask=visible)
    return torch.unflatten(attended, 2, (stack.query_length, group)).transpose(1, 2).reshape(q.shape)


def _visible(stack: Stack, group: int, device: torch.device) -> Tensor:
    """[q * group, k] bool for one target block: the only place where a causal order is spelled out.

    `is_causal=True` would align at the first key, which is wrong for more keys than queries.
    """
    full = torch.ones(stack.query_length, stack.key_length, dtype=torch.bool, device=device)
    return full.tril(stack.key_length - stack.query_length).repeat_interleave(group, dim=0)
