"""From sample to example and back: what the network sees, and what the robot does."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from pi05_train.errors import UserError
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.processing.augmentation_config import AugmentationConfig
from pi05_train.processing.normalisation import NormStats
from pi05_train.processing.processor import Processor
from pi05_train.processing.templates import Templates
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Box, Sample
from pi05_train.tokenization.boxes import parse_boxes
from pi05_train.tokenization.fast import fit_fast_tokenizer
from pi05_train.tokenization.text import fit_text_tokenizer
from pi05_train.tokenization.tokens import Tokens
from pi05_train.tokenization.vocabulary import BOS_ID
from tests.processing.augmented_pictures import as_seen

SIZE, HORIZON, WIDTH, DIMS = 32, 6, 8, 5
CAMERAS = ["base_0_rgb", "left_wrist_0_rgb"]
MODEL = ModelConfig(
    name="test",
    vision=VisionConfig(image_size=SIZE, patch_size=8, width=8, depth=1, mlp_dim=8, heads=1),
    backbone=TowerConfig(width=8, mlp_dim=8),
    expert=TowerConfig(width=8, mlp_dim=8),
    depth=1, heads=1, kv_heads=1, head_dim=8, vocab_size=4000, action_dim=WIDTH, action_horizon=HORIZON,
)  # fmt: skip
ARM = SourceCard(
    name="arm", kind="ME", shards="arm", cameras=CAMERAS, control_mode="joint", rate_hz=10, state_dim=DIMS,
    action_dim=DIMS, delta_mask=[True, True, False, True],
)  # fmt: skip
WEB = SourceCard(name="web", kind="WD", shards="web", cameras=CAMERAS[:1])
HIGH = SourceCard(name="high", kind="HL", shards="high", cameras=CAMERAS)
CARDS = {card.name: card for card in (ARM, WEB, HIGH)}
RNG = np.random.default_rng(0)
LOW = RNG.normal(size=DIMS)
STATS = NormStats(LOW, LOW + RNG.uniform(0.5, 3, DIMS), LOW, np.ones(DIMS))
STATISTICS = {"arm": {"state": STATS, "actions": STATS}}


def jpeg(height: int = SIZE, width: int = SIZE, box: tuple[int, int, int, int] | None = None) -> bytes:
    image = Image.new("RGB", (width, height), (10, 20, 30))
    if box is not None:
        ImageDraw.Draw(image).rectangle(box, fill=(250, 250, 250))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


def arm_sample(**changes: Any) -> Sample:
    sample = Sample(
        "00000001_000002", "arm", "ME", {camera: jpeg() for camera in CAMERAS}, task="lift the cup",
        state=RNG.normal(size=DIMS).astype(np.float32), actions=RNG.normal(size=(HORIZON + 2, DIMS)).astype(np.float32),
        action_valid=np.ones(HORIZON + 2, dtype=np.bool_), control_mode="joint",
    )  # fmt: skip
    return replace(sample, **changes)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    folder = tmp_path_factory.mktemp("t")
    text = fit_text_tokenizer(["Task: lift the cup, State: 1 2;\nAction: "], folder, pieces=500, fast_size=300)
    return Tokens(text, fit_fast_tokenizer([RNG.normal(size=(HORIZON, WIDTH)) for _ in range(30)], vocab_size=300))


def make(tokens: Tokens, **changes: Any) -> Processor:
    values: dict[str, Any] = {
        "model": MODEL, "cards": CARDS, "statistics": STATISTICS, "tokens": tokens, "templates": Templates(),
        "augmentation": AugmentationConfig(), "stage_has_expert": True,
    }  # fmt: skip
    return Processor(**(values | changes))


def test_physical_actions_invert_the_example_exactly(tokens: Tokens) -> None:
    processor = make(tokens)
    for _ in range(20):
        sample = arm_sample()
        example = processor(sample, key=(1,), training=True)
        assert example.actions is not None
        assert sample.actions is not None
        physical = processor.physical_actions(example.actions, "arm", sample.state)
        np.testing.assert_allclose(physical, sample.actions[:HORIZON], atol=2e-6)


def test_fast_and_flow_targets_are_the_same_chunk(tokens: Tokens) -> None:
    example = make(tokens)(arm_sample(), key=(1,), training=False)
    decoded = tokens.actions(example.target_ids, horizon=HORIZON, dim=WIDTH)
    assert decoded is not None
    np.testing.assert_allclose(decoded, example.actions, atol=0.3)


def test_actions_are_padded_and_masked(tokens: Tokens) -> None:
    valid = np.arange(HORIZON + 2) < 4
    example = make(tokens)(arm_sample(action_valid=valid), key=(1,), training=True)
    assert example.actions is not None
    assert example.action_mask is not None
    assert example.actions.shape == example.action_mask.shape == (HORIZON, WIDTH)
    assert example.actions.dtype == np.float32
    assert (example.actions[:, DIMS:] == 0).all()
    expected = np.zeros((HORIZON, WIDTH), dtype=bool)
    expected[:4, :DIMS] = True
    np.testing.assert_array_equal(example.action_mask, expected)


def test_pretraining_keeps_action_tokens_and_drops_the_chunk(tokens: Tokens) -> None:
    sample = arm_sample()
    with_expert = make(tokens)(sample, key=(1,), training=True)
    without = make(tokens, stage_has_expert=False)(sample, key=(1,), training=True)
    assert without.actions is None
    assert without.action_mask is None
    assert without.target_ids == with_expert.target_ids


def test_prompt_only_is_the_prefix_of_the_unaugmented_example(tokens: Tokens) -> None:
    processor, sample = make(tokens), arm_sample()
    prompt = processor.prompt_only(replace(sample, actions=None, action_valid=None))
    example = processor(sample, key=(1,), training=False)
    assert prompt.prefix_ids == example.prefix_ids
    assert prompt.prefix_ids[0] == BOS_ID
    assert (prompt.target_ids, prompt.actions) == ([], None)
    for a, b in zip(prompt.images, example.images, strict=True):
        assert torch.equal(a, b)


def test_absent_cameras_are_absent_and_the_rest_keep_their_order(tokens: Tokens) -> None:
    wrist = jpeg(box=(0, 0, 31, 31))
    sample = arm_sample(images={"left_wrist_0_rgb": wrist, "base_0_rgb": jpeg()})
    images = make(tokens)(sample, key=(1,), training=False).images
    assert [int(image.float().mean()) > 128 for image in images] == [False, True]
    only = make(tokens)(arm_sample(images={"left_wrist_0_rgb": wrist}), key=(1,), training=False).images
    assert [image.shape for image in only] == [(3, SIZE, SIZE)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stage_has_text": False},
        {"stage_has_expert": False},
        {"model": replace(MODEL, pi0_fast_quirks=True)},
        {"model": replace(MODEL, max_prompt_tokens=9)},
        {"model": replace(MODEL, family="pi0_fast", max_prompt_tokens=25)},
    ],
)
def test_a_sample_is_counted_as_its_example_will_be(changes: dict[str, Any], tokens: Tokens) -> None:
    processor = make(tokens, **changes)
    boxes = (Box("cup", 0, 0, 0.4, 0.4), Box("gone", 0.2, 1.3, 0.3, 1.5), Box("hidden", 0, 0, 1, 1, "base_1_rgb"))
    high = Sample("k", "high", "HL", {"base_0_rgb": jpeg(20, 40)}, task="clean", subtask="go", boxes=boxes)
    for sample in (arm_sample(), arm_sample(images={"base_0_rgb": jpeg()}), high):
        unseen = replace(sample, images=dict.fromkeys(sample.images, b""))
        for training in (False, True):
            example = processor(sample, key=(3,), training=training)
            lengths = len(example.prefix_ids) + len(example.target_ids), len(example.images)
            assert processor.count(unseen) == lengths


def test_augmentation_is_for_training_alone_and_decided_by_the_key(tokens: Tokens) -> None:
    processor, sample = make(tokens), arm_sample(images={"base_0_rgb": jpeg(box=(3, 9, 20, 27))})

    def first(key: tuple[int, ...], training: bool) -> torch.Tensor:
        return as_seen(processor(sample, key=key, training=training))[0]

    assert torch.equal(first((1, 2), True), first((1, 2), True))
    assert not torch.equal(first((1, 2), True), first((1, 3), True))
    assert torch.equal(first((1, 2), False), first((1, 3), False))
    off = make(tokens, augmentation=AugmentationConfig(enabled=False))
    assert torch.equal(as_seen(off(sample, key=(1, 2), training=True))[0], first((0,), False))


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_trained_boxes_lie_where_the_network_sees_the_thing(tokens: Tokens, seed: int) -> None:
    height, width, rectangle = 96, 144, (50, 30, 89, 59)
    box = Box("cup", 30 / height, 50 / width, 60 / height, 90 / width)
    sample = Sample(
        "k", "high", "HL", {"base_0_rgb": jpeg(height, width, rectangle)}, task="clean", subtask="go", boxes=(box,)
    )
    plain = replace(MODEL, vision=replace(MODEL.vision, image_size=96, patch_size=8))
    processor = make(tokens, model=plain, augmentation=AugmentationConfig(colour_probability=0.0))
    example = processor(sample, key=(seed,), training=True)
    (told,) = parse_boxes(tokens.text.decode(example.target_ids))
    rows, columns = torch.nonzero(as_seen(example)[0][0] > 60, as_tuple=True)
    seen = np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]) / 96
    np.testing.assert_allclose([told.y_min, told.x_min, told.y_max, told.x_max], seen, atol=2.5 / 96)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_no_box_is_lost_to_augmentation(tokens: Tokens, seed: int) -> None:
    corner = Box("cup", 0.0, 0.0, 0.01, 0.01)
    sample = Sample("k", "high", "HL", {"base_0_rgb": jpeg()}, task="clean", subtask="go", boxes=(corner,))
    strong = make(tokens, augmentation=AugmentationConfig(crop_fraction=0.5))
    assert len(parse_boxes(tokens.text.decode(strong(sample, key=(seed,), training=True).target_ids))) == 1


def test_text_with_positions_of_its_own_keeps_the_picture_in_place(tokens: Tokens) -> None:
    pictured = {"base_0_rgb": jpeg(box=(3, 9, 20, 27))}
    sample = Sample("k", "web", "WD", pictured, question="What is at <loc0001><loc0002>?", answer="a cup")
    still = make(tokens, augmentation=AugmentationConfig(colour_probability=0.0))
    moved = replace(sample, question="What?")
    unchanged = still.prompt_only(sample).images[0]
    assert torch.equal(as_seen(still(sample, key=(4,), training=True))[0], unchanged)
    assert not torch.equal(as_seen(still(moved, key=(4,), training=True))[0], unchanged)


@pytest.mark.parametrize(("kind", "source"), [("WD", "web"), ("HL", "high"), ("VI", "high")])
def test_other_kinds_never_carry_actions(kind: Any, source: str, tokens: Tokens) -> None:
    sample = arm_sample(source=source, kind=kind, subtask="go", question="What?", answer="A", verbal_instruction="stop")
    example = make(tokens)(sample, key=(1,), training=True)
    assert example.actions is None
    assert not any(tokens.layout.is_fast(i) for i in example.target_ids)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"actions": np.zeros((HORIZON, DIMS + 1), np.float32)}, "actions"),
        ({"actions": np.zeros((HORIZON - 1, DIMS), np.float32)}, "action_horizon"),
        ({"actions": np.full((HORIZON, DIMS), np.nan, np.float32)}, "not finite"),
        ({"actions": None}, "nothing"),
        ({"state": np.zeros(DIMS - 1, np.float32)}, "state"),
        ({"state": np.full(DIMS, np.inf, np.float32)}, "not finite"),
        ({"state": None}, "nothing"),
        ({"source": "else"}, "'else'"),
        ({"images": {"base_0_rgb": b"no picture"}}, "base_0_rgb"),
    ],
)
def test_a_bad_sample_is_refused(changes: dict[str, Any], complaint: str, tokens: Tokens) -> None:
    with pytest.raises(UserError, match=complaint):
        make(tokens)(arm_sample(**changes), key=(1,), training=True)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": replace(MODEL, action_dim=DIMS - 1)}, "action_dim"),
        ({"model": replace(MODEL, vocab_size=600)}, "vocab_size"),
        ({"statistics": {}}, "pi05 data index"),
        ({"statistics": {"arm": {"state": STATS}}}, "no actions"),
        ({"cards": {"arm": replace(ARM, state_dim=DIMS + 1)}}, "statistics of state"),
    ],
)
def test_sources_that_do_not_fit_are_refused_at_once(changes: dict[str, Any], complaint: str, tokens: Tokens) -> None:
    with pytest.raises(UserError, match=complaint):
        make(tokens, **changes)
