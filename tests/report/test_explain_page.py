from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pi05_train.policy.explain import Explanation, explain
from pi05_train.policy.robot import RobotInterface
from pi05_train.report.explain_figures import chunk_figure, denoising_figure, movement_figure
from pi05_train.report.explain_page import explain_page
from pi05_train.samples.robot_card import Gripper
from pi05_train.samples.schema import Box
from tests.policy.robots import robot_of
from tests.policy.toy_policy import toy_policy, toy_samples
from tests.report.test_sample_page import Page
from tests.synthetic import CARDS


@pytest.fixture(scope="module")
def explained() -> Explanation:
    """Of a training sample whose episode ends inside the chunk."""
    sample = min(toy_samples("toy_mobile"), key=lambda sample: sample.action_valid.sum())  # type: ignore[union-attr]
    return explain(toy_policy(), sample, 7, max_text_tokens=4)


def numbers(content: str) -> dict[str, list[list[float]]]:
    found = re.search(r"<pre>(\{&quot;actions.*?)</pre>", content)
    assert found is not None
    return json.loads(found[1].replace("&quot;", '"'))  # type: ignore[no-any-return]


def test_the_page_has_the_networks_pixels_and_the_policys_numbers_and_asks_nothing_of_the_network(
    explained: Explanation,
) -> None:
    content = explain_page(explained, {"run": "<mine>"})
    assert "<mine>" not in content
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|<script""", content)
    assert len(content) < 2_000_000
    actions = explained.actions
    assert actions is not None
    assert actions.truth_valid_H is not None
    assert actions.truth_HD is not None
    sources = [attributes["src"] or "" for tag, attributes in Page(content).tags if tag == "img"]
    for source, pixels in zip(sources, actions.prompt.pictures.values(), strict=False):
        shown = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        np.testing.assert_array_equal(np.asarray(shown), pixels)
    shown_numbers = numbers(content)
    np.testing.assert_array_equal(np.array(shown_numbers["actions"], np.float32), actions.chunk_HD)
    valid = int(actions.truth_valid_H.sum())
    assert 0 < valid < len(actions.chunk_HD)
    np.testing.assert_array_equal(np.array(shown_numbers["demonstrated"], np.float32), actions.truth_HD[:valid])


def test_every_token_stands_there_with_its_position_and_id(explained: Explanation) -> None:
    actions = explained.actions
    assert actions is not None
    titles = [attributes.get("title") for _, attributes in Page(explain_page(explained, {})).tags]
    start = len(actions.prompt.pictures) * actions.prompt.tokens_per_picture
    for place, token in enumerate([*actions.prompt.tokens, *explained.target]):
        assert f"position {start + place}, id {token.id}" in titles
    end, horizon = actions.prompt.length, len(actions.chunk_HD)
    assert f"positions {end} to {end + horizon - 1}" in titles
    with_state = explain_page(replace(explained, actions=replace(actions, state_token=True)), {})
    assert f"positions {end + 1} to {end + horizon}" in with_state


def test_figures_hold_the_very_arrays(explained: Explanation) -> None:
    actions = explained.actions
    assert actions is not None
    names = [str(dim) for dim in range(4)]
    figure = chunk_figure(actions.chunk_HD, actions.truth_HD, {0: 0.5}, names, 10.0)
    for dim, axis in enumerate(figure.axes):
        truth, policy, *now = axis.lines
        np.testing.assert_array_equal(truth.get_ydata(), actions.truth_HD[:, dim])  # type: ignore[index]
        np.testing.assert_array_equal(policy.get_ydata(), actions.chunk_HD[:, dim])
        np.testing.assert_array_equal(policy.get_xdata(), np.arange(len(actions.chunk_HD)) / 10)
        assert [line.get_ydata()[0] for line in now] == ([0.5] if dim == 0 else [])  # type: ignore[index]

    path = actions.denoising
    maps = [axis.images[0].get_array() for axis in denoising_figure(path).axes if axis.images]
    expected = [*path.x_THD, *path.velocity_THD, *(path.x_THD[1:] - path.x_THD[:-1])]
    assert len(maps) == len(expected)
    for shown, x_HD in zip(maps, expected, strict=True):
        np.testing.assert_array_equal(shown, x_HD.T)  # type: ignore[arg-type]

    moved, left = movement_figure(path, names).axes
    for dim in range(4):
        steps = (path.x_THD[1:, :, dim] - path.x_THD[:-1, :, dim]).astype(np.float64)
        np.testing.assert_allclose(moved.lines[dim].get_ydata(), np.sqrt((steps**2).mean(1)), rtol=1e-5)
        assert np.asarray(left.lines[dim].get_ydata())[-1] == 0


def test_boxes_stand_where_the_network_said(explained: Explanation) -> None:
    assert explained.words is not None
    box = Box("<cup>", 0.25, 0.5, 0.75, 1.0)
    content = explain_page(replace(explained, words=replace(explained.words, boxes=[box])), {})
    (drawn,) = [attributes for tag, attributes in Page(content).tags if tag == "rect"]
    assert [float(drawn[name] or "nan") for name in ("x", "y", "width", "height")] == [500, 250, 500, 500]
    assert "<cup>" not in content


def test_with_a_robot_the_numbers_are_those_it_gets(explained: Explanation) -> None:
    card = robot_of(CARDS["toy_mobile"])
    *rest, gripper = card.actions
    card = replace(card, actions=[*rest, replace(gripper, name="jaw", unit="-1 shut", gripper=Gripper(1.0, -1.0))])
    robot, actions = RobotInterface(card, CARDS["toy_mobile"]), explained.actions
    assert actions is not None
    content = explain_page(explained, {}, robot)
    shown = np.array(numbers(content)["actions"], np.float32)
    np.testing.assert_array_equal(shown, robot.commands(actions.chunk_HD))
    assert (shown != actions.chunk_HD).any()
    assert robot.action_names()[-1] == "jaw (-1 shut)"
    assert "other joints 1 (rad)" in content


@pytest.mark.parametrize("source", ["toy_subtasks", "toy_web", "toy_verbal"])
def test_samples_in_words_have_a_page_too(source: str) -> None:
    sample = toy_samples(source)[0]
    content = explain_page(explain(toy_policy(expert=False), sample, 0, max_text_tokens=4), {})
    words = Page(content).words.getvalue()
    assert all(said in words for said in (sample.task, sample.question, sample.verbal_instruction))
    assert content.count("<rect") == len(sample.boxes)
    assert "The action chunk" not in content
