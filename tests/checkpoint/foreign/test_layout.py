"""What holds for every layout: nothing is computed, nothing is read twice, nothing is passed over in silence."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pi05_train.checkpoint.foreign.formats import FOREIGN, WITHOUT_EXPERT, our_shapes, our_view, write_layout
from pi05_train.checkpoint.foreign.identify import Format
from pi05_train.checkpoint.foreign.layout import Layout, Leaf, OurView, Piece, TheirView, same_bits
from pi05_train.errors import UserError
from pi05_train.model.config import ModelConfig
from tests.checkpoint.foreign.dict_source import DictSource, read_all
from tests.checkpoint.foreign.tiny_models import model_configs, random_bits, tiny_config

CONFIG = tiny_config("pi05")


def has_expert(format: Format, config: ModelConfig) -> bool:
    return format not in WITHOUT_EXPERT and config.family != "pi0_fast"


def same(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(same_bits(some[name], others[name]) for name in some)


@settings(deadline=None, max_examples=25)
@given(config=model_configs(), format=st.sampled_from(FOREIGN), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_both_ways_bit_for_bit(config: ModelConfig, format: Format, dtype: torch.dtype) -> None:
    shapes = our_shapes(config, expert=has_expert(format, config))
    layout = write_layout(format, config, shapes)
    ours = random_bits(shapes, dtype)
    theirs = read_all(TheirView(DictSource(ours), layout))
    source = DictSource(theirs)
    view = OurView(source, layout)
    assert same(read_all(view), ours)
    assert {name: spec.shape for name, spec in view.specs.items()} == shapes
    assert source.reads == dict.fromkeys(theirs.keys() - layout.zeros.keys(), 1)

    random = random_bits({name: leaf.shape for name, leaf in layout.leaves.items()}, dtype, seed=1)
    back = TheirView(OurView(DictSource(random), layout), layout)
    assert same({name: back.read(name) for name in random}, random)


def written(format: Format, config: ModelConfig = CONFIG, *, expert: bool = True) -> dict[str, Tensor]:
    shapes = our_shapes(config, expert=expert)
    return read_all(TheirView(DictSource(random_bits(shapes)), write_layout(format, config, shapes)))


def refusal(arrays: Mapping[str, Tensor], format: Format = Format.OPENPI_ORBAX, *, expert: bool = True) -> str:
    with pytest.raises(UserError) as error:
        our_view(DictSource(arrays, "there"), format, CONFIG, expert=expert)
    return str(error.value)


def test_missing_unknown_and_misshapen_arrays_are_named_in_one_sentence() -> None:
    arrays = written(Format.OPENPI_ORBAX)
    for name in ("action_in_proj/bias", "PaliGemma/llm/final_norm/scale"):
        del arrays[name]
    arrays |= {"more": torch.zeros(1), "action_out_proj/bias": torch.zeros(2)}
    message = refusal(arrays)
    assert message.startswith("checkpoint there: got arrays missing 2 (PaliGemma/llm/final_norm/scale, action_in_proj")
    assert "unknown 1 (more)" in message
    assert "of another shape 1 (action_out_proj/bias: [2] instead of [5])" in message
    assert "openpi's JAX checkpoint of a pi05 model" in message


def test_a_cut_off_download_is_suspected_where_arrays_only_lack() -> None:
    arrays = written(Format.OPENPI_ORBAX)
    del arrays["PaliGemma/img/head/bias"]
    assert "download was cut off" in refusal(arrays)


@pytest.mark.parametrize("format", [Format.OPENPI_ORBAX, Format.OPENPI_TORCH, Format.LEROBOT])
@pytest.mark.parametrize("family", ["pi0", "pi0_fast"])
def test_another_family_is_recognised(format: Format, family: str) -> None:
    message = refusal(written(format, tiny_config(family), expert=family == "pi0"), format)
    if family == "pi0":
        assert "its family is pi0 (it has a state token and plain norms), the configuration's is pi05" in message
        assert "override model=pi0 " in message
    else:
        assert "it has no action expert, the configured model has one" in message
        assert "stage.objective.expert=false" in message


def test_an_expert_that_the_model_has_no_place_for_is_refused() -> None:
    assert "it has an action expert, the configured model has none" in refusal(
        written(Format.OPENPI_ORBAX), expert=False
    )


def test_other_sizes_name_the_overrides() -> None:
    other = tiny_config("pi05", depth=3, vocab_size=19)
    message = refusal(written(Format.OPENPI_TORCH, other), Format.OPENPI_TORCH)
    assert "its depth is 3, the configuration's is 2" in message
    assert "model.depth=3" in message
    assert "model.vocab_size=19" in message


def test_what_is_left_out_is_reported() -> None:
    arrays = written(Format.OPENPI_TORCH)
    view = our_view(DictSource(arrays), Format.OPENPI_TORCH, CONFIG, expert=True)
    head = "paligemma_with_expert.gemma_expert.lm_head.weight"
    assert dict(view.left_out) == {head: "the action expert's output head, which nothing uses"}
    assert not arrays[head].any()


EMBEDDING = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
HEAD = "model.paligemma_with_expert.paligemma.lm_head.weight"


def test_two_names_of_one_array_must_agree() -> None:
    arrays = written(Format.LEROBOT)
    view = our_view(DictSource(arrays), Format.LEROBOT, CONFIG, expert=True)
    assert view.left_out[EMBEDDING] == f"another copy of {HEAD}"
    assert same_bits(view.read("embedding.weight"), arrays[HEAD])

    arrays[HEAD] = arrays[EMBEDDING] + 1
    view = our_view(DictSource(arrays), Format.LEROBOT, CONFIG, expert=True)
    with pytest.raises(UserError, match=r"different arrays .* single token embedding"):
        view.read("embedding.weight")
    for taken in (HEAD, EMBEDDING):
        source = DictSource(arrays)
        view = our_view(source, Format.LEROBOT, CONFIG, expert=True, take=taken)
        assert same_bits(view.read("embedding.weight"), arrays[taken])
        assert set(source.reads) == {taken}
        assert {HEAD, EMBEDDING} - {taken} <= view.left_out.keys()


@pytest.mark.parametrize("format", [Format.OPENPI_TORCH, Format.LEROBOT, Format.PALIGEMMA_SAFETENSORS])
@pytest.mark.parametrize("name", ["embed_tokens.weight", "lm_head.weight"])
def test_either_name_of_the_embedding_is_enough(format: Format, name: str) -> None:
    expert = format != Format.PALIGEMMA_SAFETENSORS
    shapes = our_shapes(CONFIG, expert=expert)
    ours = random_bits(shapes)
    layout = write_layout(format, CONFIG, shapes)
    arrays = read_all(TheirView(DictSource(ours), layout))
    ((copy, leaf),) = layout.copies.items()
    arrays[copy] = arrays[leaf]
    for other in [other for other in (copy, leaf) if not other.endswith(name)]:
        del arrays[other]
    assert same(read_all(our_view(DictSource(arrays), format, CONFIG, expert=expert)), ours)


def test_take_must_name_an_array_that_is_stored_twice() -> None:
    with pytest.raises(UserError, match="got embed_tokens, expected nothing: no array is stored twice"):
        our_view(
            DictSource(written(Format.OPENPI_ORBAX)), Format.OPENPI_ORBAX, CONFIG, expert=True, take="embed_tokens"
        )


def test_parameters_without_a_place_are_refused() -> None:
    lora = {"layers.0.expert.q_proj.lora_a": (1, 6, 2)}
    with pytest.raises(UserError, match=r"LeRobot.*1 \(layers.0.expert.q_proj.lora_a\).*merge the adapters"):
        write_layout(Format.LEROBOT, CONFIG, our_shapes(CONFIG, expert=True) | lora)
    with pytest.raises(UserError, match=r"PaliGemma.*leave it out"):
        write_layout(Format.PALIGEMMA_SAFETENSORS, CONFIG, our_shapes(CONFIG, expert=True))


def test_weights_of_another_model_are_not_written() -> None:
    shapes = our_shapes(CONFIG, expert=True)
    ours = random_bits(shapes)
    del ours["final_norm.scale"]
    with pytest.raises(UserError, match=r"weights memory: got arrays missing 1 \(final_norm.scale\)"):
        TheirView(DictSource(ours), write_layout(Format.OPENPI_ORBAX, CONFIG, shapes))


def test_pieces_of_several_dtypes_share_the_narrowest_that_holds_all() -> None:
    layout = Layout("two", {"a": (2,), "b": (2,)}, {"ab": Leaf((2, 2), (Piece("a", (0,)), Piece("b", (1,))))})
    ours = {"a": torch.tensor([1.0, 2.0], dtype=torch.bfloat16), "b": torch.tensor([1e-40, 3.0])}
    view = TheirView(DictSource(ours), layout)
    assert view.specs["ab"].dtype == "float32"
    assert torch.equal(view.read("ab"), torch.stack([ours["a"].float(), ours["b"]]))


def test_rows_that_no_parameter_fills_are_written_as_zeros() -> None:
    layout = Layout("padded", {"a": (2, 3)}, {"rows": Leaf((4, 3), (Piece("a", (slice(2),)),))})
    view = TheirView(DictSource({"a": torch.ones(2, 3)}), layout)
    assert torch.equal(view.read("rows"), torch.tensor([[1.0] * 3] * 2 + [[0.0] * 3] * 2))
