"""Robot cards by name or path."""

from __future__ import annotations

from pathlib import Path

import yaml

from pi05_train.config.convert import build
from pi05_train.errors import UserError
from pi05_train.resources import resource
from pi05_train.samples.robot_card import RobotCard, check_robot


def shipped_robots() -> list[str]:
    """Names of the cards in data_mixtures/robot."""
    return sorted(path.stem for path in (resource("data_mixtures") / "robot").glob("*.yaml"))


def read_robot(name: str) -> RobotCard:
    """A robot card by its name in data_mixtures/robot, or by the path of its file; refuses one that cannot be meant."""
    path = Path(name) if name.endswith(".yaml") else resource("data_mixtures") / "robot" / f"{name}.yaml"
    try:
        content = yaml.safe_load(path.read_text())
    except OSError:
        known = f"a file, or one of {shipped_robots()}"
        raise UserError("robot card", got=repr(name), expected=known, do="correct the name") from None
    except (ValueError, yaml.YAMLError) as error:
        got = " ".join(str(error).split())
        raise UserError(f"robot card {path}", got=got, expected="YAML", do="correct it") from error
    card = build(RobotCard, content, f"robot card {path.name}")
    check_robot(card)
    return card
