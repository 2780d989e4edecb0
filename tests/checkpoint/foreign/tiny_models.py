"""Models of random sizes, and random weights for them."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.model.pi05 import Pi05

Shapes = dict[str, tuple[int, ...]]


@st.composite
def model_configs(draw: st.DrawFn, families: tuple[str, ...] = ("pi05", "pi0", "pi0_fast")) -> ModelConfig:
    """Sizes as unlike each other as can be, so that no two axes are taken for one another."""
    few, some = st.integers(1, 3), st.integers(1, 7)
    kv_heads, vision_heads, patch = draw(few), draw(few), draw(few)
    return ModelConfig(
        name="tiny",
        vision=VisionConfig(
            image_size=patch * draw(few),
            patch_size=patch,
            width=vision_heads * draw(some),
            depth=draw(few),
            mlp_dim=draw(some),
            heads=vision_heads,
        ),
        backbone=TowerConfig(width=draw(some), mlp_dim=draw(some)),
        expert=TowerConfig(width=2 * draw(some), mlp_dim=draw(some)),
        depth=draw(few),
        heads=kv_heads * draw(few),
        kv_heads=kv_heads,
        head_dim=2 * draw(few),
        vocab_size=draw(some),
        action_dim=draw(some),
        action_horizon=2,
        family=draw(st.sampled_from(families)),
    )


def shapes_of(config: ModelConfig, *, expert: bool) -> Shapes:
    with torch.device("meta"):
        model = Pi05(config, expert=expert)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def random_bits(shapes: Shapes, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    """Tensors of any bits at all, NaNs among them: what is only moved must survive."""
    generator = torch.Generator().manual_seed(seed)
    bits = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    info = torch.iinfo(bits)
    return {
        name: torch.randint(info.min, info.max, shape, generator=generator, dtype=bits).view(dtype)
        for name, shape in shapes.items()
    }
