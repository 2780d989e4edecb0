"""What arrays tell of a network is so, and a configuration that says otherwise hears what to override."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.checkpoint.foreign.formats import FOREIGN, WITHOUT_EXPERT, infer_sizes, our_shapes, write_layout
from pi05_train.checkpoint.foreign.identify import Format
from pi05_train.checkpoint.foreign.layout import TheirView
from pi05_train.checkpoint.foreign.sizes import Sizes, check_sizes, config_of, differences
from pi05_train.errors import UserError
from pi05_train.model.config import ModelConfig
from tests.checkpoint.foreign.dict_source import DictSource
from tests.checkpoint.foreign.tiny_models import model_configs, random_bits, tiny_config


def inferred(format: Format, config: ModelConfig, *, expert: bool) -> Sizes:
    shapes = our_shapes(config, expert=expert)
    view = TheirView(DictSource(random_bits(shapes)), write_layout(format, config, shapes))
    return infer_sizes(view, format)


@settings(deadline=None, max_examples=25)
@given(config=model_configs(), format=st.sampled_from(FOREIGN))
def test_arrays_tell_the_network(config: ModelConfig, format: Format) -> None:
    expert = format not in WITHOUT_EXPERT and config.family != "pi0_fast"
    sizes = inferred(format, config, expert=expert)
    assert sizes.family == (config.family if expert else None)
    assert not differences(sizes, config, expert=expert)
    found = config_of(sizes, config.name)
    assert our_shapes(found, expert=expert) == our_shapes(config, expert=expert)
    if format in (Format.OPENPI_ORBAX, Format.PALIGEMMA_NPZ):
        assert found.vision == config.vision
        assert (found.heads, found.kv_heads, found.head_dim) == (config.heads, config.kv_heads, config.head_dim)
    layouts = [write_layout(format, c, our_shapes(config, expert=expert)).leaves for c in (config, found)]
    assert layouts[0] == layouts[1]


CHANGES = {
    "depth": 3, "heads": 2, "kv_heads": 1, "head_dim": 4, "vocab_size": 30, "action_dim": 6, "vision.width": 10,
    "vision.depth": 1, "vision.mlp_dim": 12, "vision.heads": 4, "vision.image_size": 6, "backbone.width": 11,
    "backbone.mlp_dim": 14, "expert.width": 8, "expert.mlp_dim": 9,
}  # fmt: skip


@pytest.mark.parametrize("key", CHANGES)
def test_each_difference_is_one_sentence_with_its_override(key: str) -> None:
    config = tiny_config("pi05")
    group, _, name = key.rpartition(".")
    there = (
        replace(config, **{group: replace(getattr(config, group), **{name: CHANGES[key]})})
        if group
        else (replace(config, **{key: CHANGES[key]}))
    )
    found = differences(inferred(Format.OPENPI_ORBAX, there, expert=True), config, expert=True)
    ((sentence, override),) = found.items()
    assert sentence.startswith(f"its {key} is {CHANGES[key]}, the configuration's is ")
    assert override == f"model.{key}={CHANGES[key]}"


def test_pytorch_formats_tell_only_the_product_of_heads() -> None:
    config = tiny_config("pi05")
    sizes = inferred(Format.LEROBOT, config, expert=True)
    assert not differences(sizes, replace(config, heads=8, kv_heads=4, head_dim=3), expert=True)
    found = differences(sizes, replace(config, heads=8, kv_heads=4), expert=True)
    assert [*found.values()] == ["model.heads and model.head_dim", "model.kv_heads and model.head_dim"]


def test_a_config_json_tells_the_rest() -> None:
    config = tiny_config("pi05")
    shapes = our_shapes(config, expert=True)
    view = TheirView(DictSource(random_bits(shapes)), write_layout(Format.LEROBOT, config, shapes))
    declared = {"chunk_size": 7, "tokenizer_max_length": 90}
    found = config_of(infer_sizes(view, Format.LEROBOT, declared), "there")
    assert (found.action_horizon, found.max_prompt_tokens) == (7, 90)

    shapes = our_shapes(config, expert=False)
    view = TheirView(DictSource(random_bits(shapes)), write_layout(Format.PALIGEMMA_SAFETENSORS, config, shapes))
    declared = {"text_config": {"num_attention_heads": 4, "num_key_value_heads": 2}, "vision_config": {}}
    found = config_of(infer_sizes(view, Format.PALIGEMMA_SAFETENSORS, declared), "there")
    assert (found.heads, found.kv_heads, found.head_dim) == (4, 2, 6)


def test_all_differences_are_refused_at_once() -> None:
    sizes = Sizes("pi0", {"depth": 3, "heads": 7, "vision.depth": 9, "action_dim": 8})
    with pytest.raises(UserError) as error:
        check_sizes("gs://there", sizes, tiny_config("pi05"), expert=True)
    message = str(error.value)
    assert message.startswith("checkpoint gs://there: got its family is pi0 (it has a state token and plain norms)")
    assert "and 1 more" in message
    assert "override model=pi0 (or model.family=pi0 at other sizes), model.depth=3, model.heads=7" in message


def test_a_checkpoint_of_something_else_is_refused() -> None:
    shapes = {"encoder.weight": (3, 3)}
    for format in FOREIGN:
        with pytest.raises(UserError, match=r"no array .* among 1"):
            infer_sizes(DictSource(random_bits(shapes)), format)


def test_a_configuration_made_from_sizes_is_whole() -> None:
    config = tiny_config("pi0")
    found = config_of(inferred(Format.OPENPI_ORBAX, config, expert=True), "tiny")
    differing = {key for key, value in asdict(found).items() if value != asdict(config)[key]}
    assert differing == {"action_horizon", "max_prompt_tokens"}  # which no array tells
    assert found.max_prompt_tokens == 48
