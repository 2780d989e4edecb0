"""Robot cards: those that ship can be meant, agree with their sources and simulators, and bad ones are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pi05_train.config.card_file import shipped
from pi05_train.config.compose import compose
from pi05_train.config.robots import read_robot
from pi05_train.convert.rlds_datasets import find_entry
from pi05_train.errors import UserError
from pi05_train.resources import resource
from pi05_train.samples.card import SourceCard, load_card
from pi05_train.samples.robot_card import ActionPart, CameraView, Gripper, check_agreement, check_robot
from pi05_train.simulation import aloha, fetch, metaworld

SOURCES = [load_card(path) for path in sorted((resource("data_mixtures") / "source").glob("*.yaml"))]
OF_ROBOTS = [card for card in SOURCES if card.robot]


def test_the_robots_of_the_demo_and_of_the_field_ship() -> None:
    robots = ["aloha", "droid", "libero", "mobile_bimanual", "sim_aloha", "sim_fetch", "sim_metaworld", "ur5"]
    assert shipped("robot") == robots
    assert {name: read_robot(name).action_dim for name in robots} == {
        "aloha": 14, "droid": 8, "libero": 7, "mobile_bimanual": 18, "sim_aloha": 14, "sim_fetch": 4,
        "sim_metaworld": 4, "ur5": 7,
    }  # fmt: skip


@pytest.mark.parametrize("card", OF_ROBOTS, ids=lambda card: card.name)
def test_a_shipped_source_agrees_with_its_robot(card: SourceCard) -> None:
    check_agreement(read_robot(card.robot), card)


@pytest.mark.parametrize("spec", [aloha.SPEC, fetch.SPEC, metaworld.SPEC], ids=lambda spec: spec.source)
def test_a_simulator_is_the_robot_of_its_card(spec: Any) -> None:
    robot = read_robot(spec.source)
    assert [view.camera for view in robot.cameras.values()] == [view.name for view in spec.views]
    assert (robot.state_dim, robot.action_dim) == (spec.state_dim, spec.action_dim)
    assert (robot.control_mode, robot.rate_hz) == (spec.control_mode, spec.rate_hz)


def test_droid_is_asked_for_what_its_data_set_stores() -> None:
    """The observation keys are those that the conversion reads, so they are the same numbers."""
    robot, entry = read_robot("droid"), find_entry("droid")
    assert {key: view.camera for key, view in robot.cameras.items()} == {c.key: c.ours for c in entry.cameras}
    assert robot.state_dims == {part.key: part.size for part in entry.state}


def test_a_lift_with_two_axes_makes_nineteen_dims() -> None:
    robot = read_robot("mobile_bimanual")
    *others, lift = robot.actions
    wider = replace(robot, actions=[*others, replace(lift, dims=2)])
    check_robot(wider)
    assert wider.action_dim == 19


DROID = read_robot("droid")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"control_mode": "torque"}, "droid, control_mode: got 'torque', expected 'joint' or 'end effector'"),
        ({"rate_hz": 0.0}, "droid, rate_hz: got 0.0"),
        ({"cameras": {"a": CameraView("front")}}, r"droid, cameras: got \['front'\]"),
        ({"cameras": {}}, "expected at least one, each once"),
        ({"cameras": {k: CameraView("base_0_rgb") for k in "ab"}}, "expected at least one, each once"),
        ({"cameras": {"prompt": CameraView("base_0_rgb")}}, r"keys: got \['prompt'\] twice"),
        ({"state": []}, "state: got no parts"),
        ({"state": [*DROID.state, DROID.state[0]]}, "parts with the same key one after the other"),
        ({"actions": [replace(DROID.actions[0], dims=0)]}, "actions, joint targets, dims: got 0"),
        ({"actions": [ActionPart("all", 9, "rad", relative=True)]}, "relative dims beyond the state"),
        ({"actions": [ActionPart("hand", 8, "", gripper=Gripper(1, 1))]}, "two finite numbers that differ"),
    ],
)
def test_a_card_that_cannot_be_meant(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_robot(replace(DROID, **change))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"state_dim": 7}, "open_droid, state_dim: got 7, expected 8 as the card of its robot droid has it"),
        ({"action_dim": 7}, "open_droid, action_dim: got 7"),
        ({"rate_hz": 5.0}, "open_droid, rate_hz: got 5.0, expected 15.0"),
        ({"control_mode": "end effector"}, "open_droid, control_mode"),
        ({"cameras": ["base_0_rgb"]}, "open_droid, cameras"),
        ({"delta_mask": []}, "open_droid, delta_mask"),
    ],
)
def test_a_source_that_says_something_else_than_its_robot(change: dict[str, Any], sentence: str) -> None:
    card = next(card for card in SOURCES if card.name == "open_droid")
    with pytest.raises(UserError, match=sentence):
        check_agreement(DROID, replace(card, **change))


def test_a_card_is_read_by_path_and_an_unknown_one_lists_those_that_ship(tmp_path: Path) -> None:
    shipped = (resource("data_mixtures") / "robot" / "ur5.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(shipped)
    assert read_robot(str(tmp_path / "mine.yaml")) == read_robot("ur5")
    with pytest.raises(UserError, match=r"robot card: got 'ur6', expected a file, or one of .*'ur5'"):
        read_robot("ur6")
    content: dict[str, Any] = yaml.safe_load(shipped)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content | {"rate": 5}))
    with pytest.raises(UserError, match=r"mine.yaml.rate: got an unknown key, .* did you mean 'rate_hz'"):
        read_robot(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"mine.yaml: got .*, expected YAML"):
        read_robot(str(tmp_path / "mine.yaml"))


def test_a_source_may_lack_a_camera_that_is_optional_and_no_other() -> None:
    card = next(card for card in SOURCES if card.name == "open_droid")
    check_agreement(DROID, replace(card, cameras=["base_0_rgb", "left_wrist_0_rgb"]))
    with pytest.raises(UserError, match="open_droid, cameras"):
        check_agreement(DROID, replace(card, cameras=[*card.cameras, "right_wrist_0_rgb"]))


def test_training_refuses_a_source_that_disagrees_with_its_robot() -> None:
    with pytest.raises(UserError, match=r"sim_fetch, rate_hz: got 10.0, expected 12.5 as the card of its robot"):
        compose(["experiment=demo_posttrain", "mixture.sources.sim_fetch.card.rate_hz=10.0"])
