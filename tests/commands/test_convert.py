"""Conversion with the card of the robot that recorded the data."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from pi05_train.commands.main import main
from pi05_train.config.robots import read_robot
from pi05_train.samples.card import load_card
from pi05_train.samples.robot_card import ActionPart, RobotCard, StatePart
from tests.convert import hdf5_files

WORDS = ["--name", "kitchen", "--kind", "CE", "--horizon", "4", "--workers", "1"]


def recorded(tmp_path: Path) -> str:
    return str(hdf5_files.write_libero(tmp_path / "pick_up_the_bowl_demo.hdf5"))


def card_file(path: Path, robot: RobotCard) -> str:
    path.write_text(yaml.safe_dump(asdict(robot)))
    return str(path)


def test_the_sources_card_names_the_robot_and_takes_from_it_what_files_do_not_tell(tmp_path: Path) -> None:
    libero = read_robot("libero")
    relative = [replace(libero.actions[0], relative=True), *libero.actions[1:]]
    robot = card_file(tmp_path / "robot.yaml", replace(libero, actions=relative))
    command = ["data", "convert", "hdf5", recorded(tmp_path), str(tmp_path / "kitchen"), *WORDS, "--robot", robot]
    assert main(command) == 0
    card = load_card(tmp_path / "kitchen" / "kitchen.yaml")
    assert (card.robot, card.delta_mask) == (robot, [True] * 3 + [False] * 4)
    assert main(command) == 0
    assert load_card(tmp_path / "kitchen" / "kitchen.yaml") == card


def test_data_of_another_robot_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    libero = read_robot("libero")
    other = replace(libero, state=[StatePart("state", "all", 9, "m")], actions=[ActionPart("all", 7, "m")])
    robot = card_file(tmp_path / "robot.yaml", other)
    command = ["data", "convert", "hdf5", recorded(tmp_path), str(tmp_path / "kitchen"), *WORDS, "--robot", robot]
    assert main(command) == 2
    assert "kitchen, state_dim: got 8, expected 9 as the card of its robot libero has it" in capsys.readouterr().err
    assert not (tmp_path / "kitchen").exists()
