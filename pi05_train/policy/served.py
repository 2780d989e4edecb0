"""A policy for a robot: a run's, or with the card of a source one from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi05_train.checkpoint.foreign.identify import Format, identify
from pi05_train.checkpoint.run_state import find_checkpoint
from pi05_train.config.compose import read_config
from pi05_train.config.robots import read_robot
from pi05_train.config.sources import read_card
from pi05_train.errors import UserError
from pi05_train.policy.load import check_acts, load_foreign_policy, load_policy, run_folder
from pi05_train.policy.policy import Policy
from pi05_train.policy.robot import RobotInterface
from pi05_train.samples.card import SourceCard


@dataclass(frozen=True)
class Served:
    """A policy, whom it moves and what clients are told of it."""

    policy: Policy
    robot: RobotInterface
    about: dict[str, Any]


def load_served(
    where: str,
    robot: str,
    source: str | None,
    overrides: Sequence[str],
    *,
    asset: str | None,
    ema: bool,
    device: str,
    bfloat16: bool,
    compiled: bool,
) -> Served:
    """The policy of a run folder or of any other weights, for the robot of a card.

    A run has its sources' cards; their names are what `source` may be. Other weights have none: `source` is then a card
    in data_mixtures/source or a card file, `overrides` and `asset` are those of `load_foreign_policy`. What does not go
    together is refused (UserError) before weights are read.
    """
    card = read_robot(robot)
    if not _is_run(where):
        if not ema:
            raise UserError(f"serve {where}, --weights", got="raw", expected="a run, which has two", do="leave it out")
        if source is None:
            expected = "the card of a source in data_mixtures/source, or a card file: what the robot's numbers mean"
            raise UserError(f"serve {where}, --source", got="nothing", expected=expected, do="name one")
        interface = RobotInterface(card, read_card(source))
        policy = load_foreign_policy(
            where, interface.source, overrides, asset=asset, device=device, bfloat16=bfloat16, compiled=compiled
        )
        return Served(policy, interface, {"checkpoint": where, "format": identify(where).value})
    if asset is not None or overrides:
        given = " ".join([*overrides, *([] if asset is None else [f"--asset {asset}"])])
        raise UserError(f"serve {where}", got=given, expected="a run alone: it says what it is", do="leave it out")
    run = run_folder(Path(where))
    config = read_config(run / "config.yaml")
    check_acts(f"serve {where}", config.model.family, expert=config.stage.objective.expert)
    checkpoint = find_checkpoint(Path(where))
    policy = load_policy(checkpoint, ema=ema, device=device, bfloat16=bfloat16, compiled=compiled)
    interface = RobotInterface(card, source_of(policy, robot, source, f"serve {where}"))
    step = int(checkpoint.name.removeprefix("step-"))
    about = {"run": run.resolve().name, "step": step, "weights": "ema" if ema else "raw"}
    return Served(policy, interface, about)


def source_of(policy: Policy, robot: str, source: str | None, where: str) -> SourceCard:
    """The source of a run that is meant; without a name, the only one whose card names the robot."""
    cards = {name: card for name, card in policy.processor.cards.items() if card.has_actions}
    named = [name for name, card in cards.items() if card.robot == robot]
    if source is None and len(named) == 1:
        return cards[named[0]]
    if source not in cards:
        raise UserError(
            f"{where}, --source",
            got=repr(source) if source else f"nothing, and {len(named)} sources whose card names the robot {robot}",
            expected=f"one of {sorted(cards)}",
            do="name the source whose statistics the robot's numbers have",
        )
    return cards[source]


def _is_run(where: str) -> bool:
    return (run_folder(Path(where)) / "config.yaml").is_file() or identify(where) is Format.RUN
