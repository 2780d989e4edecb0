"""openpi's JAX tree and PaliGemma's npz files under our names."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.checkpoint.foreign.layout import OurView, TheirView, same_bits
from pi05_train.checkpoint.foreign.openpi_jax import openpi_layout, paligemma_npz_layout
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from tests.checkpoint.foreign.dict_source import DictSource, read_all
from tests.checkpoint.foreign.tiny_models import model_configs, random_bits, shapes_of
from tests.golden_numbers import golden_json, openpi_shapes, tiny_parameters
from tests.model.openpi_names import to_our_names


def golden_config(name: str) -> ModelConfig:
    sizes = golden_json("configs")[name]
    vision, backbone = sizes["siglip"], sizes["backbone"]
    expert = sizes.get("expert", backbone)
    return ModelConfig(
        name=name,
        vision=VisionConfig(
            sizes["image_resolution"], vision["patch_size"], vision["width"], vision["depth"], vision["mlp_dim"],
            vision["num_heads"],
        ),
        backbone=TowerConfig(backbone["width"], backbone["mlp_dim"]),
        expert=TowerConfig(expert["width"], expert["mlp_dim"]),
        depth=backbone["depth"],
        heads=backbone["num_heads"],
        kv_heads=backbone["num_kv_heads"],
        head_dim=backbone["head_dim"],
        vocab_size=sizes["vocab_size"],
        action_dim=sizes.get("action_dim", 7),
        action_horizon=sizes.get("action_horizon", 10),
        family=next(family for family in ("pi0_fast", "pi05", "pi0") if name.startswith(family)),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["pi05_tiny", "pi0_tiny", "pi0_fast_tiny"])
def test_reads_openpis_checkpoints(name: str) -> None:
    """Against a second, independent statement of the same mapping, which openpi's own numbers have checked."""
    config, leaves = golden_config(name), tiny_parameters(name)
    layout = openpi_layout(config, shapes_of(config, expert=name != "pi0_fast_tiny"))
    source = DictSource({path: torch.from_numpy(leaf) for path, leaf in leaves.items()})
    ours = read_all(OurView(source, layout))
    expected = to_our_names(leaves)
    assert ours.keys() == expected.keys()
    assert all(same_bits(ours[name], expected[name]) for name in expected)
    assert set(source.reads.values()) == {1}
    theirs = read_all(TheirView(DictSource(ours), layout))
    assert theirs.keys() == leaves.keys()
    assert all(same_bits(theirs[path], torch.from_numpy(leaves[path])) for path in leaves)
