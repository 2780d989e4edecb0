"""Models of random sizes, and random weights for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from tests.golden_numbers import golden_json
from tests.model import golden_model

Shapes = Mapping[str, tuple[int, ...]]


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


def tiny_config(family: str, **changes: object) -> ModelConfig:
    """A fixed small model; no two of its sizes are the same."""
    config = ModelConfig(
        name="tiny",
        vision=VisionConfig(image_size=9, patch_size=3, width=8, depth=2, mlp_dim=11, heads=2),
        backbone=TowerConfig(width=10, mlp_dim=13),
        expert=TowerConfig(width=6, mlp_dim=7),
        depth=2,
        heads=4,
        kv_heads=2,
        head_dim=6,
        vocab_size=17,
        action_dim=5,
        action_horizon=3,
        family=family,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def golden_config(name: str) -> ModelConfig:
    """The sizes of one of the models that openpi's reference numbers are of."""
    return golden_model.golden_config(golden_json("configs")[name], name=name)


def random_bits(shapes: Shapes, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    """Tensors of any bits at all, NaNs among them: what is only moved must survive."""
    generator = torch.Generator().manual_seed(seed)
    bits = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    info = torch.iinfo(bits)
    return {
        name: torch.randint(info.min, info.max, shape, generator=generator, dtype=bits).view(dtype)
        for name, shape in shapes.items()
    }
