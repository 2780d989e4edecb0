"""openpi's PyTorch names, LeRobot's and Hugging Face's, and what these programs ask of a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pi05_train.checkpoint.foreign.formats import our_shapes, our_view, write_layout
from pi05_train.checkpoint.foreign.identify import Format
from pi05_train.checkpoint.foreign.layout import TheirView, same_bits
from tests.checkpoint.foreign.dict_source import DictSource, read_all
from tests.checkpoint.foreign.tiny_models import golden_config, random_bits, tiny_config
from tests.golden_numbers import complete_path, tiny_parameters
from tests.model.openpi_names import to_our_names


def names_of(listing: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, (shape, _) in listing.items()}


@pytest.mark.parametrize("name", ["pi05_tiny", "pi0_tiny"])
def test_writes_the_names_of_openpis_converter(name: str) -> None:
    """And no others: `safetensors.torch.load_model` of the file is strict."""
    golden = json.loads(complete_path(f"openpi_torch/{name}_state_dict.json").read_text())
    config = golden_config(name)
    shapes = our_shapes(config, expert=True)
    view = TheirView(DictSource(random_bits(shapes)), write_layout(Format.OPENPI_TORCH, config, shapes))
    assert {name: spec.shape for name, spec in view.specs.items()} == names_of(golden["file_keys"])
    lerobot = TheirView(DictSource(random_bits(shapes)), write_layout(Format.LEROBOT, config, shapes))
    expected = {f"model.{name}": shape for name, shape in names_of(golden["state_dict_keys"]).items()}
    assert {name: spec.shape for name, spec in lerobot.specs.items()} == expected


def test_reads_openpis_converted_checkpoint() -> None:
    """Bit for bit what openpi's JAX checkpoint holds, from which it was converted."""
    source = DictSource(load_file(complete_path("openpi_torch/pi05_tiny.safetensors")))
    view = our_view(source, Format.OPENPI_TORCH, golden_config("pi05_tiny"), expert=True)
    expected = to_our_names(tiny_parameters("pi05_tiny"))
    ours = read_all(view)
    assert ours.keys() == expected.keys()
    assert all(same_bits(ours[name], expected[name]) for name in expected)
    assert list(view.left_out) == ["paligemma_with_expert.gemma_expert.lm_head.weight"]


OLD = (("language_model.model.", "language_model.model."), ("lm_head.weight", "language_model.lm_head.weight"))
IN_MODEL = (
    ("language_model.model.", "model.language_model."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
WITHOUT_MODEL = (("vision_tower.vision_model.", "vision_tower."),)


@pytest.mark.parametrize(
    "renamed", [OLD, IN_MODEL, WITHOUT_MODEL, (*WITHOUT_MODEL, *IN_MODEL)], ids=["old", "state_dict", "5.x", "both"]
)
@pytest.mark.parametrize("head", [False, True])
def test_reads_every_name_transformers_gave_to_paligemma(renamed: tuple[tuple[str, str], ...], head: bool) -> None:
    config = tiny_config("pi05")
    shapes = our_shapes(config, expert=False)
    ours = random_bits(shapes)
    arrays = read_all(TheirView(DictSource(ours), write_layout(Format.PALIGEMMA_SAFETENSORS, config, shapes)))
    if head:
        arrays["lm_head.weight"] = arrays["language_model.model.embed_tokens.weight"]
    for old, new in renamed:
        arrays = {new + name.removeprefix(old) if name.startswith(old) else name: t for name, t in arrays.items()}
    got = read_all(our_view(DictSource(arrays), Format.PALIGEMMA_SAFETENSORS, config, expert=False))
    assert got.keys() == ours.keys()
    assert all(same_bits(got[name], ours[name]) for name in ours)


@pytest.mark.parametrize("config_json", [{"image_token_index": 17}, None], ids=["declared", "by configuration"])
def test_padding_of_the_vocabulary_is_left_out(config_json: dict[str, Any] | None) -> None:
    """transformers' PaliGemma has 64 rows more than the vocabulary."""
    config = tiny_config("pi05", vocab_size=17 if config_json else 257_152)
    shapes = our_shapes(config, expert=False)
    ours = random_bits(shapes)
    arrays = read_all(TheirView(DictSource(ours), write_layout(Format.PALIGEMMA_SAFETENSORS, config, shapes)))
    name = "language_model.model.embed_tokens.weight"
    arrays[name] = torch.cat([arrays[name], torch.ones(64, 10)])
    view = our_view(DictSource(arrays), Format.PALIGEMMA_SAFETENSORS, config, expert=False, config_json=config_json)
    assert same_bits(view.read("embedding.weight"), ours["embedding.weight"])
    rows = f"{name}[{config.vocab_size}:{config.vocab_size + 64}]"
    assert dict(view.left_out) == {rows: "padding that transformers puts behind the vocabulary"}


def test_reads_lerobot_and_openpi_under_their_other_prefixes() -> None:
    """Without `model.`, and with the names that PaliGemma's parts had before transformers 4.52."""
    config = tiny_config("pi0")
    shapes = our_shapes(config, expert=True)
    ours = random_bits(shapes)
    arrays = read_all(TheirView(DictSource(ours), write_layout(Format.LEROBOT, config, shapes)))
    bare = {name.removeprefix("model."): tensor for name, tensor in arrays.items()}
    old = {
        name.replace("paligemma.model.language_model.", "paligemma.language_model.model.").replace(
            "paligemma.model.", "paligemma."
        ): tensor
        for name, tensor in arrays.items()
    }
    assert any("paligemma.language_model.model.layers.0." in name for name in old)
    for stored in (arrays, bare, old):
        for format in (Format.LEROBOT, Format.OPENPI_TORCH):
            got = read_all(our_view(DictSource(stored), format, config, expert=True))
            assert got.keys() == ours.keys()
            assert all(same_bits(got[name], ours[name]) for name in ours)
