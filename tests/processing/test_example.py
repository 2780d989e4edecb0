"""Packing: the batch is the examples laid end to end, nothing padded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.processing.augmentation import UNCHANGED, Change
from pi05_train.processing.example import Example, FlowDraws, pack

SIZE, PATCH, HORIZON, DIMS = 8, 4, 3, 5
MODEL = ModelConfig(
    name="test",
    vision=VisionConfig(image_size=SIZE, patch_size=PATCH, width=8, depth=1, mlp_dim=8, heads=1),
    backbone=TowerConfig(width=8, mlp_dim=8),
    expert=TowerConfig(width=8, mlp_dim=8),
    depth=1, heads=1, kv_heads=1, head_dim=8, vocab_size=2000, action_dim=DIMS, action_horizon=HORIZON,
)  # fmt: skip
TOKENS = MODEL.vision.tokens_per_image


def example(images: int, prompt: int, target: int, acts: bool, seed: int = 0) -> Example:
    rng = np.random.default_rng(seed)
    return Example(
        images=[torch.full((3, SIZE, SIZE), 10 * seed + i, dtype=torch.uint8) for i in range(images)],
        prefix_ids=rng.integers(1, 2000, prompt).tolist(),
        target_ids=rng.integers(1, 2000, target).tolist(),
        actions=rng.normal(size=(HORIZON, DIMS)).astype(np.float32) if acts else None,
        action_mask=rng.random((HORIZON, DIMS)) < 0.5 if acts else None,
        source="s", kind="MM", key=str(seed),
    )  # fmt: skip


def draws_for(number: int, seed: int) -> FlowDraws:
    rng = np.random.default_rng(seed)
    return FlowDraws(rng.normal(size=(number, HORIZON, DIMS)).astype(np.float32), rng.random(number).astype(np.float32))


shapes = st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(0, 5), st.booleans())


@given(st.lists(shapes, min_size=1, max_size=5), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_every_segment_can_be_read_back(parts: list[tuple[int, int, int, bool]], number: int) -> None:
    examples = [example(*part, seed=i) for i, part in enumerate(parts)]
    draws = [draws_for(number, i) if part[3] else None for i, part in enumerate(parts)]
    batch = pack(examples, draws, list(range(len(parts))), MODEL)
    row = image = label = 0
    for i, (e, draw) in enumerate(zip(examples, draws, strict=True)):
        v, p, t = TOKENS * len(e.images), len(e.prefix_ids), len(e.target_ids)
        assert (batch.prefix_lengths[i], batch.target_lengths[i]) == (v + p, t)
        ids = batch.token_ids_N[row : row + v + p + t].tolist()
        assert ids == [0] * v + e.prefix_ids + e.target_ids
        assert batch.positions_N[row : row + v + p + t].tolist() == list(range(v + p + t))
        for j, token in enumerate(e.target_ids):
            assert batch.labels_L[label + j] == token
            assert batch.token_ids_N[batch.label_rows_L[label + j] + 1] == token
            assert batch.label_segments_L[label + j] == i
        for k, picture in enumerate(e.images):
            assert torch.equal(batch.images_ICHW[image + k], picture)
        assert batch.image_rows_V[image * TOKENS : image * TOKENS + v].tolist() == list(range(row, row + v))
        if draw is not None and e.actions is not None:
            a = batch.action_segments.index(i)
            np.testing.assert_array_equal(batch.actions_AHD[a].numpy(), e.actions)
            np.testing.assert_array_equal(batch.action_mask_AHD[a].numpy(), e.action_mask)
            np.testing.assert_array_equal(batch.noise_AKHD[a].numpy(), draw.noise_KHD)
            np.testing.assert_array_equal(batch.time_AK[a].numpy(), draw.time_K)
        row, image, label = row + v + p + t, image + len(e.images), label + t
    assert (row, label) == (batch.token_ids_N.shape[0], batch.labels_L.shape[0])
    assert image == batch.images_ICHW.shape[0]
    assert len(batch.action_segments) == sum(part[3] for part in parts)


def test_changes_lie_image_after_image_and_the_host_keeps_them() -> None:
    draw = Change(np.full((2, 3), 0.5), np.array([1.1, 0.9, 1.2, 0.3]))
    plain, moved = example(2, 4, 1, False), replace(example(1, 4, 1, False), changes=[draw])
    batch = pack([plain, moved], [None, None], [0, 1], MODEL)
    assert batch.changes is not None
    np.testing.assert_array_equal(batch.changes.crops_I23, [UNCHANGED.crop, UNCHANGED.crop, draw.crop])
    np.testing.assert_array_equal(batch.changes.colours_I4, [UNCHANGED.colours, UNCHANGED.colours, draw.colours])
    elsewhere = batch.to("meta")
    assert elsewhere.images_ICHW.is_meta
    assert elsewhere.changes is batch.changes
    assert pack([plain, plain], [None, None], [0, 1], MODEL).changes is None


def test_absent_parts_keep_their_shapes() -> None:
    batch = pack([example(0, 4, 0, False)], [None], [7], MODEL)
    assert batch.images_ICHW.shape == (0, 3, SIZE, SIZE)
    assert batch.image_rows_V.shape == batch.labels_L.shape == batch.label_rows_L.shape == (0,)
    assert batch.actions_AHD.shape == batch.action_mask_AHD.shape == (0, HORIZON, DIMS)
    assert batch.noise_AKHD.shape == (0, 1, HORIZON, DIMS)
    assert batch.labels_L.dtype == batch.token_ids_N.dtype == batch.image_rows_V.dtype == torch.int64
    assert batch.segments[0].draw == 7


def test_actions_without_flow_draws_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="flow draws"):
        pack([example(1, 2, 2, True)], [None], [0], MODEL)
