"""Operations against a count by hand, and against the published roofline of the real size."""

from __future__ import annotations

import pytest
import torch

from pi05_train.model.batch import Batch, SegmentInfo
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.trainer.flops import training_flops

PI05 = ModelConfig(
    name="pi05",
    vision=VisionConfig(image_size=224, patch_size=14, width=1152, depth=27, mlp_dim=4304, heads=16),
    backbone=TowerConfig(width=2048, mlp_dim=16384),
    expert=TowerConfig(width=1024, mlp_dim=4096),
    depth=18,
    heads=8,
    kv_heads=1,
    head_dim=256,
    vocab_size=257152,
    action_dim=32,
    action_horizon=50,
)


def shaped(model: ModelConfig, *, images: int, prefix: int, target: int, labels: int, acting: bool = True) -> Batch:
    """A batch of one segment on the meta device: shapes only."""
    meta = torch.device("meta")
    chunks = 1 if acting else 0
    size, shape = model.vision.image_size, (model.action_horizon, model.action_dim)
    rows = torch.empty(0, dtype=torch.int64, device=meta)
    return Batch(
        images_ICHW=torch.empty(images, 3, size, size, dtype=torch.uint8, device=meta),
        image_rows_V=rows,
        token_ids_N=rows,
        positions_N=rows,
        prefix_lengths=(prefix,),
        target_lengths=(target,),
        label_rows_L=rows,
        labels_L=torch.empty(labels, dtype=torch.int64, device=meta),
        label_segments_L=rows,
        action_segments=(0,) if acting else (),
        actions_AHD=torch.empty(chunks, *shape, device=meta),
        action_mask_AHD=torch.empty(chunks, *shape, device=meta),
        noise_AKHD=torch.empty(chunks, 1, *shape, device=meta),
        time_AK=torch.empty(chunks, 1, device=meta),
        states_BD=torch.empty(1, model.action_dim, device=meta),
        segments=(SegmentInfo("s", "ME", "k", 0),),
    )


@pytest.mark.parametrize(
    ("batch", "tera"),
    [
        (shaped(PI05, images=3, prefix=968, target=0, labels=0), 14.0),
        (shaped(PI05, images=3, prefix=968, target=100, labels=100), 15.6),
        (shaped(PI05, images=2, prefix=572, target=60, labels=60), 9.3),
        (shaped(PI05, images=1, prefix=306, target=50, labels=50, acting=False), 5.1),
    ],
    ids=["flow only", "co-training", "two cameras", "web"],
)
def test_real_size_agrees_with_the_roofline(batch: Batch, tera: float) -> None:
    """The table this is checked against was counted independently and is rounded to 0.1."""
    assert training_flops(batch, PI05) / 1e12 == pytest.approx(tera, rel=0.01)


def test_small_size_by_hand() -> None:
    model = ModelConfig(
        name="hand",
        vision=VisionConfig(image_size=4, patch_size=2, width=3, depth=1, mlp_dim=5, heads=1),
        backbone=TowerConfig(width=6, mlp_dim=7),
        expert=TowerConfig(width=4, mlp_dim=5),
        depth=1,
        heads=2,
        kv_heads=1,
        head_dim=2,
        vocab_size=11,
        action_dim=3,
        action_horizon=2,
    )
    # Four patches of 2*2*3 numbers: embedding 12x3, q k v o 4 * 3x3, MLP 3x5 and 5x3, head 3x6; attention 2 * 4*4*3.
    vision = 2 * 4 * (12 * 3 + 4 * 9 + 15 + 15 + 18) + 2 * 2 * 4 * 4 * 3
    # Five prefix and two target rows: q 6x4, k and v 6x2, o 4x6, MLP 3 * 6x7; pairs 5*5 and 2*7, 4 wide, twice.
    backbone = 2 * 7 * (24 + 12 + 12 + 24 + 3 * 42) + 2 * 2 * (25 + 14) * 4
    head = 2 * 2 * 6 * 11
    # Two action rows: q 4x4, k and v 4x2, o 4x4, MLP 3 * 4x5, in 3x4, out 4x3; pairs 2*7.
    # Once for the chunk: two time projections 4x4, three modulations 4x12.
    expert = 2 * 2 * (16 + 8 + 8 + 16 + 60 + 24) + 2 * 2 * 14 * 4 + 2 * (32 + 3 * 48)
    batch = shaped(model, images=1, prefix=5, target=2, labels=2)
    assert training_flops(batch, model) == 3 * (vision + backbone + head + expert)
