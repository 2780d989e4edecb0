"""What the families want of an example: pi0 a state row and no target, pi0-FAST black pictures for absent cameras."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pi05_train.errors import UserError
from pi05_train.processing.normalisation import normalise
from pi05_train.processing.templates import Templates
from pi05_train.tokenization.tokens import Tokens
from tests.processing.test_processor import ARM, CAMERAS, DIMS, MODEL, STATS, arm_sample, jpeg, make, tokens

__all__ = ["tokens"]
PI0 = replace(MODEL, family="pi0")


def test_pi0_gets_the_padded_state_beside_the_prompt(tokens: Tokens) -> None:
    sample = arm_sample()
    processor = make(tokens, model=PI0, templates=Templates(low_level="{task}\n"))
    for example in (processor(sample, key=(1,), training=True), processor.prompt_only(sample)):
        assert example.state is not None
        assert sample.state is not None
        np.testing.assert_array_equal(example.state[:DIMS], normalise(sample.state, STATS).astype(np.float32))
        assert not example.state[DIMS:].any()
    assert make(tokens)(sample, key=(1,), training=True).state is None


def test_a_stage_without_text_has_the_same_prefix_and_no_target(tokens: Tokens) -> None:
    sample = arm_sample()
    with_text = make(tokens)(sample, key=(1,), training=True)
    without = make(tokens, stage_has_text=False)(sample, key=(1,), training=True)
    assert without.prefix_ids == with_text.prefix_ids
    assert without.target_ids == []
    np.testing.assert_array_equal(without.actions, with_text.actions)


def test_an_absent_camera_is_absent_or_with_the_quirk_black(tokens: Tokens) -> None:
    sample = arm_sample(images={CAMERAS[1]: jpeg()})
    (only,) = make(tokens)(sample, key=(1,), training=False).images
    quirky = replace(MODEL, family="pi0_fast", pi0_fast_quirks=True)
    black, same = make(tokens, model=quirky, stage_has_expert=False)(sample, key=(1,), training=False).images
    assert not black.any()
    assert same.equal(only)


def test_a_state_wider_than_the_state_token_is_refused(tokens: Tokens) -> None:
    wide = replace(ARM, state_dim=MODEL.action_dim + 1)
    with pytest.raises(UserError, match="state_dim: got 9, expected at most the model's action_dim 8"):
        make(tokens, model=PI0, cards={"arm": wide})
