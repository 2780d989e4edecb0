"""Hand-made segments and the batches packed from them, for tests of the network and its objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pi05_train.model.batch import Batch, SegmentInfo
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.model.pi05 import Pi05

TINY = ModelConfig(
    name="tiny",
    vision=VisionConfig(image_size=16, patch_size=8, width=24, depth=2, mlp_dim=32, heads=2),
    backbone=TowerConfig(width=32, mlp_dim=48),
    expert=TowerConfig(width=24, mlp_dim=40),
    depth=3,
    heads=4,
    kv_heads=1,
    head_dim=8,
    vocab_size=50,
    action_dim=5,
    action_horizon=4,
)


def open_model(family: str = "pi05", *, expert: bool = True, dtype: torch.dtype = torch.float32) -> Pi05:
    """A model whose every parameter is non-zero; with gates and norms at zero the expert would be the identity."""
    model = Pi05(replace(TINY, family=family), expert=expert)
    model.init_weights(seed=0)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)
    return model.to(dtype)


@dataclass(frozen=True)
class Segment:
    """The content of one example."""

    images_ICHW: Tensor
    prompt: tuple[int, ...]
    target: tuple[int, ...]
    actions_HD: Tensor | None
    mask_HD: Tensor
    noise_KHD: Tensor
    time_K: Tensor
    state_D: Tensor


def segment(
    cameras: int, prompt: int, target: int, actions: bool, *, seed: int, draws: int = 1, config: ModelConfig = TINY
) -> Segment:
    """A random segment with the given lengths; the same seed gives the same prefix whatever the target."""
    random = torch.Generator().manual_seed(seed)
    size, horizon, dim = config.vision.image_size, config.action_horizon, config.action_dim
    images = torch.randint(0, 256, (cameras, 3, size, size), generator=random, dtype=torch.uint8)
    noise = torch.randn(draws, horizon, dim, generator=random)
    time = torch.rand(draws, generator=random) * 0.999 + 0.001
    chunk = torch.randn(horizon, dim, generator=random)
    mask = torch.rand(horizon, dim, generator=random) < 0.7
    ids = torch.randint(4, config.vocab_size, (prompt + target,), generator=random).tolist()
    target_ids, state = tuple(ids[prompt:]), torch.randn(dim, generator=random)
    return Segment(images, tuple(ids[:prompt]), target_ids, chunk if actions else None, mask, noise, time, state)


def random_segments(seed: int, *, draws: int = 1) -> list[Segment]:
    """A few segments of random shapes, always with every special case among them."""
    random = torch.Generator().manual_seed(seed)

    def up_to(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=random))

    shapes = [
        (1, up_to(1, 6), 0, True),
        (2, up_to(1, 6), 1, False),
        (4, up_to(1, 6), up_to(2, 7), True),
        (0, up_to(1, 6), up_to(2, 7), False),
        *((up_to(1, 3), up_to(1, 6), up_to(0, 7), bool(up_to(0, 1))) for _ in range(up_to(0, 3))),
    ]
    shuffled = [shapes[i] for i in torch.randperm(len(shapes), generator=random)]
    return [segment(*shape, seed=seed * 100 + i, draws=draws) for i, shape in enumerate(shuffled)]


def pack(segments: Sequence[Segment], config: ModelConfig = TINY) -> Batch:
    """The batch of these segments."""
    per_image = config.vision.tokens_per_image
    ids: list[int] = []
    positions: list[int] = []
    image_rows: list[int] = []
    label_rows: list[int] = []
    for s in segments:
        images = len(s.images_ICHW) * per_image
        start, prefix = len(ids), images + len(s.prompt)
        ids += [0] * images + list(s.prompt + s.target)
        positions += range(prefix + len(s.target))
        image_rows += range(start, start + images)
        label_rows += range(start + prefix - 1, start + prefix - 1 + len(s.target))
    acting = [i for i, s in enumerate(segments) if s.actions_HD is not None]
    shape, draws = (config.action_horizon, config.action_dim), len(segments[0].time_K)
    return Batch(
        images_ICHW=torch.cat([s.images_ICHW for s in segments]),
        image_rows_V=torch.tensor(image_rows, dtype=torch.int64),
        token_ids_N=torch.tensor(ids),
        positions_N=torch.tensor(positions),
        prefix_lengths=tuple(len(s.images_ICHW) * per_image + len(s.prompt) for s in segments),
        target_lengths=tuple(len(s.target) for s in segments),
        label_rows_L=torch.tensor(label_rows, dtype=torch.int64),
        labels_L=torch.tensor([t for s in segments for t in s.target], dtype=torch.int64),
        label_segments_L=torch.tensor([i for i, s in enumerate(segments) for _ in s.target], dtype=torch.int64),
        action_segments=tuple(acting),
        actions_AHD=torch.cat(
            [torch.zeros(0, *shape), *(s.actions_HD[None] for s in segments if s.actions_HD is not None)]
        ),
        action_mask_AHD=torch.cat(
            [torch.zeros(0, *shape, dtype=torch.bool), *(segments[i].mask_HD[None] for i in acting)]
        ),
        noise_AKHD=torch.cat([torch.zeros(0, draws, *shape), *(segments[i].noise_KHD[None] for i in acting)]),
        time_AK=torch.cat([torch.zeros(0, draws), *(segments[i].time_K[None] for i in acting)]),
        states_BD=torch.stack([s.state_D for s in segments]),
        segments=tuple(SegmentInfo("made", "CE", f"{i:08d}_000000", i) for i in range(len(segments))),
    )


def without_target(s: Segment) -> Segment:
    return replace(s, target=())
