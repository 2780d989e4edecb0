"""Robot cards by name or path."""

from __future__ import annotations

from pi05_train.config.card_file import read_content
from pi05_train.config.convert import build
from pi05_train.samples.robot_card import RobotCard, check_robot


def read_robot(name: str) -> RobotCard:
    """A robot card by its name in data_mixtures/robot, or by the path of its file; refuses one that cannot be meant."""
    card = build(RobotCard, *read_content("robot", name))
    check_robot(card)
    return card
