from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.errors import UserError
from pi05_train.policy.execution import Remainder
from pi05_train.policy.explain import explain
from pi05_train.policy.hierarchy import MODES, Hierarchy, RobotState, Turn
from pi05_train.policy.tokens import SORTS, read_tokens
from pi05_train.processing.sequence import build_prompt, prompt_text, state_place
from pi05_train.processing.templates import Templates
from pi05_train.tokenization.state import state_text
from tests.policy.toy_policy import toy_policy, toy_processor, toy_samples


@settings(max_examples=40, deadline=None)
@given(
    task=st.text(min_size=1, max_size=30),
    state=st.lists(st.floats(-2, 2), min_size=1, max_size=6),
    template=st.sampled_from([Templates().low_level, "{state} {task}", "do {task}; no state"]),
)
def test_the_words_of_tokens_are_the_text_and_state_tokens_hold_the_bins(
    task: str, state: list[float], template: str
) -> None:
    sample, tokens, numbers = replace(toy_samples("toy_mobile")[0], task=task), toy_processor().tokens, np.array(state)
    templates = Templates(low_level=template)
    ids = build_prompt(sample, templates=templates, tokens=tokens, state_normalised=numbers)
    place = state_place(sample, templates, numbers)
    if place is not None:
        assert prompt_text(sample, templates, numbers)[slice(*place)] == state_text(numbers)
    assert (place is not None) == ("{state}" in template)
    read = read_tokens(ids, tokens.text, place)
    assert [token.id for token in read] == ids
    assert {token.sort for token in read} <= set(SORTS)
    assert read[0].words == "<bos>"
    assert "".join(token.words for token in read[1:]) == tokens.text.decode(ids)
    said = "".join(token.words for token in read if token.sort == "state")
    assert (state_text(numbers) in said) == (place is not None)


def test_every_sort_of_token_is_told_apart() -> None:
    tokens = toy_processor().tokens
    ids = [*tokens.text.encode("at <loc0007>", bos=True, eos=True), tokens.layout.fast_id(5)]
    read = read_tokens(ids, tokens.text)
    assert [(read[0].sort, read[0].words), (read[-2].sort, read[-2].words)] == [("mark", "<bos>"), ("mark", "<eos>")]
    assert (read[-3].sort, read[-3].words) == ("loc", "<loc0007>")
    assert (read[-1].sort, read[-1].words) == ("FAST", "<fast5>")
    assert {token.sort for token in read[1:-3]} == {"text"}


@pytest.mark.parametrize("mode", MODES)
def test_what_is_explained_is_what_the_policy_computes(mode: str) -> None:
    policy, sample = toy_policy(), replace(toy_samples("toy_mobile")[1], subtask="lift it")
    explained = explain(policy, sample, 7, mode=mode, max_text_tokens=8)
    actions, words = explained.actions, explained.words
    assert actions is not None
    assert words is not None
    levels = Hierarchy(policy, mode, max_text_tokens=8)
    ((chunk, state),) = levels.act([Turn(sample, RobotState(), 0.0, 7)])
    np.testing.assert_array_equal(actions.chunk_HD, chunk)
    asked = replace(sample, subtask=state.subtask, boxes=())
    assert actions.prompt.sample == asked
    np.testing.assert_array_equal(policy.actions([asked], [7])[0], chunk)

    path, dims = policy.denoising(asked, 7), chunk.shape[1]
    np.testing.assert_array_equal(actions.denoising.x_THD, path.x_THD[..., :dims])
    np.testing.assert_array_equal(actions.denoising.velocity_THD, path.velocity_THD[..., :dims])
    assert actions.denoising.times == path.times
    last = policy.processor.physical_actions(path.x_THD[-1], sample.source, sample.state)
    np.testing.assert_allclose(chunk, last, atol=1e-5)

    example = policy.processor.prompt_only(asked)
    assert [token.id for token in actions.prompt.tokens] == example.prefix_ids
    assert list(actions.prompt.pictures) == policy.processor.cards[sample.source].cameras
    for pixels, image in zip(actions.prompt.pictures.values(), example.images, strict=True):
        np.testing.assert_array_equal(pixels, image.permute(1, 2, 0).numpy())
    assert [words.text] == policy.text([levels.question(sample)], 8)
    assert [token.id for token in explained.target] == policy.processor(sample, key=(), training=False).target_ids


def test_a_chunk_that_goes_on_is_explained_with_its_guided_denoising() -> None:
    policy, (first, second) = toy_policy(), toy_samples("toy_mobile")[:2]
    rest = Remainder(policy.actions([first], [1])[0][3:], 2)
    actions = explain(policy, second, 7, mode="flat", remainder=rest, max_text_tokens=1).actions
    assert actions is not None
    asked = replace(second, subtask="", boxes=())
    np.testing.assert_array_equal(actions.chunk_HD, policy.actions([asked], [7], [rest])[0])
    np.testing.assert_array_equal(actions.chunk_HD[:2], rest.actions_RD[:2])
    x_HD, (dims,) = actions.denoising.x_THD[-1], actions.chunk_HD.shape[1:]
    np.testing.assert_allclose(x_HD, policy.normalised_actions([asked], [7], [rest])[0][:, :dims], atol=1e-5)
    assert (policy.denoising(asked, 7).velocity_THD[..., :dims] != actions.denoising.velocity_THD).any()


def test_a_request_has_no_target_and_a_policy_without_experts_is_refused() -> None:
    request = replace(toy_samples("toy_mobile")[1], actions=None, action_valid=None)
    explained = explain(toy_policy(), request, 7, max_text_tokens=2)
    assert explained.target == []
    assert explained.actions is not None
    assert explained.actions.truth_HD is None
    with pytest.raises(UserError, match="a run without an action expert"):
        explain(toy_policy(expert=False), request, 7)


@pytest.mark.parametrize("source", ["toy_subtasks", "toy_web", "toy_verbal"])
def test_samples_in_words_are_explained_without_an_expert(source: str) -> None:
    policy, sample = toy_policy(expert=False), toy_samples(source)[0]
    explained = explain(policy, sample, 0, max_text_tokens=4)
    assert explained.actions is None
    assert explained.words is not None
    assert [explained.words.text] == policy.text([sample], 4)
    assert len(explained.true_boxes) == len(sample.boxes)
    assert explained.target[-1].words == "<eos>"


def test_a_prompt_that_is_cut_says_so() -> None:
    policy, sample = toy_policy(), toy_samples("toy_mobile")[1]
    long = explain(policy, replace(sample, task="word " * 400), 7, max_text_tokens=1).actions
    short = explain(policy, sample, 7, max_text_tokens=1).actions
    assert long is not None
    assert long.prompt.cut
    assert short is not None
    assert not short.prompt.cut
