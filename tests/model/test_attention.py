"""The three mask-free calls are exactly the paper's attention mask, forward and backward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pi05_train.model.attention import attend, span_rows
from pi05_train.model.gemma import rotation
from pi05_train.model.plan import Segments, backbone_plan, expert_plan, last_backbone_plan

HEADS, KV_HEADS, HEAD_DIM, HORIZON = 4, 2, 6, 3


def dense_mask(segments: Segments, chunk_segments: list[int], *, state_token: bool = False) -> Tensor:
    """[rows, rows] bool, written row by row from the paper's table: backbone rows first, then the chunks'.

    With `state_token` the first row of a chunk is pi0's state: the actions see it, it sees none of them.
    """
    rows = [
        (s, "prefix" if i < prefix else "target", i)
        for s, (prefix, target) in enumerate(zip(segments.prefix, segments.target, strict=True))
        for i in range(prefix + target)
    ]
    rows += [(s, f"action {g}", i) for g, s in enumerate(chunk_segments) for i in range(HORIZON + state_token)]
    mask = torch.zeros(len(rows), len(rows), dtype=torch.bool)
    for a, (segment, role, i) in enumerate(rows):
        for b, (other, other_role, j) in enumerate(rows):
            sees_prefix = other_role == "prefix"
            causal = role == "target" or (state_token and i == 0)
            sees_own = role == other_role and role != "prefix" and (not causal or j <= i)
            mask[a, b] = segment == other and (sees_prefix or sees_own)
    return mask


def dense_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, backbone_rows: int, *, insulation: bool) -> Tensor:
    """One softmax over all rows; for action rows the backbone's keys and values are constants if insulated."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    outputs = []
    for rows, fixed in ((slice(0, backbone_rows), False), (slice(backbone_rows, None), insulation)):
        seen_k, seen_v = (
            torch.cat([x[:backbone_rows].detach() if fixed else x[:backbone_rows], x[backbone_rows:]]) for x in (k, v)
        )
        scores = torch.einsum("qhe,khe->hqk", q[rows], seen_k) / HEAD_DIM**0.5
        weights = scores.masked_fill(~mask[rows], -torch.inf).softmax(-1)
        outputs.append(torch.einsum("hqk,khe->qhe", weights, seen_v))
    return torch.cat(outputs)


def ragged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    chunk_segments: list[int],
    *,
    insulation: bool,
    state_token: bool,
) -> Tensor:
    n = segments.rows
    by = rotation(torch.zeros(n, dtype=torch.int64), HEAD_DIM)
    backbone = backbone_plan(segments, by)
    expert = expert_plan(segments, chunk_segments, HORIZON, HEAD_DIM, by, state_token=state_token)
    first = torch.cat([attend(q[:n], k[:n], v[:n], call) for call in backbone.calls])[backbone.order]
    seen_k, seen_v = (torch.cat([x[:n].detach() if insulation else x[:n], x[n:]]) for x in (k, v))
    second = torch.cat([attend(q[n:], seen_k, seen_v, call) for call in expert.calls])[expert.order]
    return torch.cat([first, second])


@st.composite
def ragged_batches(draw: st.DrawFn) -> tuple[Segments, list[int], int]:
    """Segments with images of two tokens, prompts, targets (often none or one token), and chunks for some of them."""
    count = draw(st.integers(1, 5))
    prefix = tuple(2 * draw(st.integers(0, 4)) + draw(st.integers(1, 4)) for _ in range(count))
    target = tuple(draw(st.sampled_from([0, 0, 1, 2, 5])) for _ in range(count))
    acting = [s for s in range(count) if draw(st.booleans())]
    draws = draw(st.integers(1, 3))
    return Segments(prefix, target), [s for s in acting for _ in range(draws)], draw(st.integers(0, 1000))


@pytest.mark.parametrize("state_token", [False, True], ids=["pi05", "pi0"])
@pytest.mark.parametrize("insulation", [False, True])
@given(batch=ragged_batches())
@settings(max_examples=40, deadline=None)
def test_the_calls_equal_the_dense_mask(
    batch: tuple[Segments, list[int], int], insulation: bool, state_token: bool
) -> None:
    segments, chunk_segments, seed = batch
    rows = segments.rows + (HORIZON + state_token) * len(chunk_segments)
    random = torch.Generator().manual_seed(seed)
    shapes = [(rows, HEADS, HEAD_DIM), (rows, KV_HEADS, HEAD_DIM), (rows, KV_HEADS, HEAD_DIM)]
    qkv = [torch.randn(shape, generator=random, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weight = torch.randn(shapes[0], generator=random, dtype=torch.float64)

    mask = dense_mask(segments, chunk_segments, state_token=state_token)
    expected = dense_attention(*qkv, mask, segments.rows, insulation=insulation)
    got = ragged_attention(*qkv, segments, chunk_segments, insulation=insulation, state_token=state_token)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)
    expected_grads = torch.autograd.grad((expected * weight).sum(), qkv)
    got_grads = torch.autograd.grad((got * weight).sum(), qkv)
    torch.testing.assert_close(got_grads, expected_grads, rtol=0, atol=1e-12)


@given(batch=ragged_batches())
@settings(max_examples=20, deadline=None)
def test_last_layer_computes_the_predicting_rows_only(batch: tuple[Segments, list[int], int]) -> None:
    segments, _, seed = batch
    random = torch.Generator().manual_seed(seed)
    q = torch.randn(segments.rows, HEADS, HEAD_DIM, generator=random, dtype=torch.float64)
    k, v = torch.randn(2, segments.rows, KV_HEADS, HEAD_DIM, generator=random, dtype=torch.float64)
    by = rotation(torch.zeros(segments.rows, dtype=torch.int64), HEAD_DIM)
    plan = last_backbone_plan(segments, by, segments.target)
    assert plan.rows is not None
    got = attend(q[plan.rows], k, v, plan.calls[0])[plan.order]
    everything = dense_attention(q, k, v, dense_mask(segments, []), segments.rows, insulation=False)
    torch.testing.assert_close(got, everything[plan.rows], rtol=0, atol=1e-13)
    predicting = [
        start + prefix - 1 + i
        for start, prefix, target in zip(segments.starts, segments.prefix, segments.target, strict=True)
        for i in range(target)
    ]
    assert plan.rows.tolist() == predicting


def test_an_empty_call_keeps_every_tensor_in_the_graph() -> None:
    segments = Segments((3,), (0,))
    by = rotation(torch.zeros(3, dtype=torch.int64), HEAD_DIM)
    target_call = backbone_plan(segments, by).calls[1]
    q = torch.randn(3, HEADS, HEAD_DIM, requires_grad=True)
    k, v = (torch.randn(3, KV_HEADS, HEAD_DIM, requires_grad=True) for _ in range(2))
    attended = attend(q, k, v, target_call)
    assert attended.shape == (0, HEADS, HEAD_DIM)
    for grad in torch.autograd.grad(attended.sum(), (q, k, v)):
        assert not grad.any()


def test_span_rows_lists_the_rows_of_each_span() -> None:
    assert span_rows([(5, 2), (0, 0), (1, 3)]).tolist() == [5, 6, 1, 2, 3]
    assert span_rows([]).tolist() == []
