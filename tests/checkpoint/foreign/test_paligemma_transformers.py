"""Hugging Face's PaliGemma and our backbone are the same network: the same weights give the same logits, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pi05_train.checkpoint.foreign.formats import infer_sizes, our_shapes, our_view, write_layout
from pi05_train.checkpoint.foreign.identify import Format
from pi05_train.checkpoint.foreign.layout import TheirView, same_bits
from pi05_train.checkpoint.foreign.paligemma_config import paligemma_config
from pi05_train.checkpoint.foreign.sizes import config_of
from pi05_train.checkpoint.storage.safetensors_files import SafetensorsSource, write_safetensors
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.model.pi05 import Pi05
from tests.checkpoint.foreign.dict_source import DictSource
from tests.model.batches import Segment, pack, segment

CONFIGS = [
    ModelConfig(
        name="one key-value head",
        vision=VisionConfig(image_size=28, patch_size=14, width=24, depth=2, mlp_dim=36, heads=3),
        backbone=TowerConfig(width=40, mlp_dim=56), expert=TowerConfig(8, 8),
        depth=3, heads=8, kv_heads=1, head_dim=8, vocab_size=70, action_dim=5, action_horizon=4,
    ),
    ModelConfig(
        name="groups of heads",
        vision=VisionConfig(image_size=24, patch_size=8, width=32, depth=1, mlp_dim=20, heads=4),
        backbone=TowerConfig(width=48, mlp_dim=32), expert=TowerConfig(8, 8),
        depth=2, heads=6, kv_heads=2, head_dim=16, vocab_size=131, action_dim=5, action_horizon=4,
    ),
    ModelConfig(
        name="every head its own keys",
        vision=VisionConfig(image_size=20, patch_size=5, width=16, depth=3, mlp_dim=64, heads=1),
        backbone=TowerConfig(width=24, mlp_dim=80), expert=TowerConfig(8, 8),
        depth=4, heads=2, kv_heads=2, head_dim=4, vocab_size=33, action_dim=5, action_horizon=4,
    ),
]  # fmt: skip
parametrised = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)


@pytest.fixture(scope="module")
def paligemma() -> Any:
    """transformers' class; its import takes seconds."""
    reason = "Hugging Face's own code is the reference; it is a development dependency"
    transformers = pytest.importorskip("transformers", minversion="4.53", reason=reason)
    transformers.utils.logging.disable_progress_bar()
    return transformers.PaliGemmaForConditionalGeneration


def segments(config: ModelConfig) -> list[Segment]:
    """No, one and two pictures; each with a prompt and a target."""
    return [segment(cameras, 5, 6, False, seed=cameras, config=config) for cameras in (0, 1, 2)]


def their_logits(model: Any, config: ModelConfig, s: Segment) -> Tensor:
    """Scores of every target token, [targets, vocab_size]."""
    images, target = len(s.images_ICHW), len(s.target)
    image_ids = [config.vocab_size] * images * config.vision.tokens_per_image
    ids = torch.tensor([[*image_ids, *s.prompt, *s.target]])
    is_target = (torch.arange(ids.shape[1]) >= ids.shape[1] - target).long()[None]
    pixels = {"pixel_values": s.images_ICHW / 255 * 2 - 1} if images else {}
    known = {"attention_mask": torch.ones_like(ids), "token_type_ids": is_target}
    labels = ids.masked_fill(ids == config.vocab_size, -100)  # without labels, 4.x takes all of it for the prefix
    with torch.no_grad():
        logits: Tensor = model(ids, labels=labels, **known, **pixels).logits
    return logits[0, -target - 1 : -1]


def assert_same_network(ours: Pi05, theirs: Any) -> None:
    made = segments(ours.config)
    with torch.no_grad():
        got = ours(pack(made, ours.config)).logits_LV
    expected = torch.cat([their_logits(theirs.eval(), ours.config, s) for s in made])
    assert expected.std() > 0.1, "logits that say nothing compare nothing"
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def randomise(model: Any) -> None:
    """Every parameter far from its start, norms and biases too; the tied pair stays one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)


def loaded(view: Any, config: ModelConfig) -> Pi05:
    model = Pi05(config, expert=False)
    model.load_state_dict({name: view.read(name) for name in view.specs}, strict=True)
    return model


@parametrised
def test_reads_what_transformers_saves(paligemma: Any, config: ModelConfig, tmp_path: Path) -> None:
    theirs = paligemma(paligemma.config_class.from_dict(paligemma_config(config)))
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    source, config_json = SafetensorsSource(tmp_path), json.loads((tmp_path / "config.json").read_text())
    found = config_of(infer_sizes(source, Format.PALIGEMMA_SAFETENSORS, config_json), config.name)
    assert (found.vision, found.heads, found.kv_heads, found.head_dim) == (
        config.vision, config.heads, config.kv_heads, config.head_dim,
    )  # fmt: skip
    view = our_view(source, Format.PALIGEMMA_SAFETENSORS, config, expert=False, config_json=config_json)
    assert not view.left_out
    assert_same_network(loaded(view, config), theirs)


@parametrised
def test_transformers_loads_what_is_written(paligemma: Any, config: ModelConfig, tmp_path: Path) -> None:
    """Nothing is missing, unexpected or of another shape, and the output head is the embedding."""
    ours = Pi05(config, expert=False)
    randomise(ours)
    shapes = our_shapes(config, expert=False)
    view = TheirView(DictSource(ours.state_dict()), write_layout(Format.PALIGEMMA_SAFETENSORS, config, shapes))
    tensors = ((name, view.read(name)) for name in view.specs)
    write_safetensors(tmp_path / "model.safetensors", view.specs, tensors, {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(paligemma_config(config)))
    theirs, info = paligemma.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert same_bits(theirs.lm_head.weight, ours.embedding.weight)
    assert_same_network(ours, theirs)
