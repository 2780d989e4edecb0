"""openpi's JAX tree and PaliGemma's npz files under our names."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pi05_train.checkpoint.foreign.formats import infer_sizes, our_shapes, our_view, write_layout
from pi05_train.checkpoint.foreign.identify import Format
from pi05_train.checkpoint.foreign.layout import OurView, TheirView, same_bits
from pi05_train.checkpoint.foreign.sizes import adaptation_of
from pi05_train.config.compose import compose_model
from pi05_train.errors import UserError
from pi05_train.model.adaptation import AdaptationConfig, LoraRule
from tests.checkpoint.foreign.dict_source import DictSource, read_all
from tests.checkpoint.foreign.tiny_models import golden_config, tiny_config
from tests.golden_numbers import openpi_shapes, tiny_parameters
from tests.model.openpi_names import to_our_names


@pytest.mark.parametrize("name", ["pi05_tiny", "pi0_tiny", "pi0_fast_tiny"])
def test_reads_openpis_checkpoints(name: str) -> None:
    """Against a second, independent statement of the same mapping, which openpi's own numbers have checked."""
    config, leaves = golden_config(name), tiny_parameters(name)
    layout = write_layout(Format.OPENPI_ORBAX, config, our_shapes(config, expert=name != "pi0_fast_tiny"))
    source = DictSource({path: torch.from_numpy(leaf) for path, leaf in leaves.items()})
    ours = read_all(OurView(source, layout))
    expected = to_our_names(leaves)
    assert ours.keys() == expected.keys()
    assert all(same_bits(ours[name], expected[name]) for name in expected)
    assert set(source.reads.values()) == {1}
    theirs = read_all(TheirView(DictSource(ours), layout))
    assert theirs.keys() == leaves.keys()
    assert all(same_bits(theirs[path], torch.from_numpy(leaves[path])) for path in leaves)


def test_reads_openpis_lora() -> None:
    """Factors lie as they are: q, k and v per head, the feed-forward's without."""
    name = "pi05_lora_tiny"
    config, leaves = golden_config(name), tiny_parameters(name)
    source = DictSource({path: torch.from_numpy(leaf) for path, leaf in leaves.items()})
    sizes = infer_sizes(source, Format.OPENPI_ORBAX)
    assert sizes.lora == {
        f"{tower}.{part}": rank for tower, rank in (("backbone", 4), ("expert", 6)) for part in ("attention", "mlp")
    }
    view = our_view(source, Format.OPENPI_ORBAX, config, expert=True, adaptation=adaptation_of(sizes))
    ours = read_all(view)
    assert set(source.reads.values()) == {1}
    assert same_bits(
        ours["layers.1.backbone.v_proj.lora_a"],
        torch.from_numpy(leaves["PaliGemma/llm/layers/attn/kv_einsum/lora_a"][1, 1]),
    )
    assert same_bits(
        ours["layers.2.expert.up_proj.lora_b"],
        torch.from_numpy(leaves["PaliGemma/llm/layers/mlp_1/gating_einsum_lora_b"][2, 1][None]),
    )
    layout = write_layout(Format.OPENPI_ORBAX, config, our_shapes(config, expert=True, adaptation=adaptation_of(sizes)))
    theirs = read_all(TheirView(DictSource(ours), layout))
    assert theirs.keys() == leaves.keys()
    assert all(same_bits(theirs[path], torch.from_numpy(leaves[path])) for path in leaves)


def test_lora_must_be_configured() -> None:
    """A checkpoint with LoRA never loads as if it had none, nor the other way round."""
    config, leaves = golden_config("pi05_lora_tiny"), tiny_parameters("pi05_lora_tiny")
    arrays = {path: torch.from_numpy(leaf) for path, leaf in leaves.items()}
    with pytest.raises(UserError, match=r"rank 4 in backbone.attention.*expected none.*adaptation=openpi_lora"):
        our_view(DictSource(arrays), Format.OPENPI_ORBAX, config, expert=True)
    plain = DictSource({path: array for path, array in arrays.items() if "lora" not in path})
    rules = AdaptationConfig([LoraRule("layers.*.backbone.[qkvo]_proj", 4, 8.0, per_head=True)])
    with pytest.raises(UserError, match=r"got none, expected LoRA.*adaptation=none"):
        our_view(plain, Format.OPENPI_ORBAX, config, expert=True, adaptation=rules)


@pytest.mark.parametrize(
    "rule",
    [
        LoraRule("layers.*.expert.q_proj", 2, 2.0),  # openpi's have factors per head
        LoraRule("layers.*.expert.k_proj", 2, 2.0, per_head=True),  # and k shares its arrays with v
        LoraRule("vision.blocks.*.fc1", 2, 2.0),
    ],
    ids=lambda rule: rule.pattern,
)
def test_lora_that_openpi_cannot_hold_is_refused(rule: LoraRule) -> None:
    config = tiny_config("pi05")
    shapes = our_shapes(config, expert=True, adaptation=AdaptationConfig([rule]))
    with pytest.raises(UserError, match="merge the adapters into the weights first"):
        write_layout(Format.OPENPI_ORBAX, config, shapes)


def test_as_many_key_value_heads_as_heads_share_one_array() -> None:
    config = tiny_config("pi0", heads=2, kv_heads=2)
    layout = write_layout(Format.OPENPI_ORBAX, config, our_shapes(config, expert=True))
    assert layout.leaves["PaliGemma/llm/layers/attn/qkv_einsum_1/w"].shape == (2, 3, 2, 6, 6)
    assert not any("/q_einsum" in path or "/kv_einsum" in path for path in layout.leaves)


def test_paligemma_files_lack_one_prefix() -> None:
    config = tiny_config("pi05")
    shapes = our_shapes(config, expert=False)
    openpi, npz = (
        write_layout(format, config, shapes).leaves for format in (Format.OPENPI_ORBAX, Format.PALIGEMMA_NPZ)
    )
    assert {f"PaliGemma/{path}": leaf for path, leaf in npz.items()} == openpi
    assert openpi.keys() >= {"PaliGemma/img/head/kernel", "PaliGemma/llm/embedder/input_embedding"}


@pytest.mark.parametrize("family", ["pi05", "pi0", "pi0_fast"])
@pytest.mark.parametrize("lora", [False, True])
def test_the_published_sizes_give_openpis_tree(family: str, lora: bool) -> None:
    expert = family != "pi0_fast"
    variant = {(True, True): "openpi_lora", (True, False): "openpi_lora_backbone"}.get((lora, expert), "none")
    config, adaptation = compose_model([f"model={family}", f"adaptation={variant}"])
    towers: dict[str, Any] = {}
    for name, width, mlp, rank in (("backbone", 2048, 16384, 16), ("expert", 1024, 4096, 32))[: 1 + expert]:
        ranks = {part: {"rank": rank} for part in ("attn", "ffn") if lora}
        heads = {"depth": 18, "num_heads": 8, "num_kv_heads": 1, "head_dim": 256}
        towers[name] = {"width": width, "mlp_dim": mlp, "lora": ranks, **heads}
    vision = {"width": 1152, "depth": 27, "mlp_dim": 4304, "num_heads": 16, "patch_size": 14, "head_out": 2048}
    sizes = {"image_tokens_per_camera": 256, "vocab_size": 257152, "action_dim": 32, "pi05": family == "pi05"}
    layout = write_layout(Format.OPENPI_ORBAX, config, our_shapes(config, expert=expert, adaptation=adaptation))
    expected = openpi_shapes({**sizes, **towers, "siglip": vision})
    assert {path: leaf.shape for path, leaf in layout.leaves.items()} == expected
