"""The card of a robot: what its observations and commands are called, in which order, in which units.

One card describes a robot to conversion, training and serving. A source names its robot's card; all three refuse the
two where they disagree (`check_agreement`), so that what a network learnt and what its robot says cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import CAMERAS

PROMPT, SEED, CORRECTION = "prompt", "seed", "correction"
"""Keys that every observation may have: the command in words, what chooses the noise of the flow, and what a person
says to do now instead."""
SUBTASK = "subtask"
"""Key of a kept observation: what was done."""
REMAINDER, DELAY = "remainder/actions", "remainder/delay_steps"
"""Keys of real-time chunking, both or neither: what is left of the chunk in execution, and how many steps of it will
have been executed when the answer arrives."""


@dataclass(frozen=True)
class CameraView:
    """A picture of an observation, uint8 RGB."""

    camera: str
    """One of `CAMERAS`."""
    optional: bool = False
    """Observations may come without it, and a source may not have it."""


@dataclass(frozen=True)
class Gripper:
    """The numbers by which a robot means an open and a closed gripper; samples have 0 and 1."""

    open: float
    closed: float


@dataclass(frozen=True)
class StatePart:
    """Numbers of the state. Parts with one key are consecutive pieces of that key's vector."""

    key: str
    name: str
    dims: int
    unit: str
    """In words: rad, m, "0 open, 1 closed"."""
    gripper: Gripper | None = None
    """None: samples have the robot's own numbers."""


@dataclass(frozen=True)
class ActionPart:
    """Numbers of a command: a slice of the last axis of `actions`."""

    name: str
    dims: int
    unit: str
    relative: bool = False
    """Whether the network learns it relative to the chunk's first state. Robots always get absolute numbers."""
    gripper: Gripper | None = None


@dataclass(frozen=True)
class RobotCard:
    """One robot; a YAML file in `data_mixtures/robot/`."""

    name: str
    control_mode: str
    """"joint" or "end effector"."""
    rate_hz: float
    """Control steps per second."""
    cameras: dict[str, CameraView]
    """By the observation's key; nested dictionaries are written `images/cam_high`."""
    state: list[StatePart]
    """In the order of the samples' state."""
    actions: list[ActionPart]
    """In the order of the samples' actions."""
    description: str = ""

    @property
    def state_dim(self) -> int:
        return sum(part.dims for part in self.state)

    @property
    def action_dim(self) -> int:
        return sum(part.dims for part in self.actions)

    @property
    def delta_mask(self) -> list[bool]:
        """As source cards have it; [] where nothing is relative."""
        mask = [part.relative for part in self.actions for _ in range(part.dims)]
        return mask[: self.state_dim] if any(mask) else []

    @property
    def state_dims(self) -> dict[str, int]:
        """Numbers that an observation has under each state key, in the order of the state."""
        dims: dict[str, int] = {}
        for part in self.state:
            dims[part.key] = dims.get(part.key, 0) + part.dims
        return dims


def check_robot(robot: RobotCard) -> None:
    """Refuse a card that cannot describe a robot."""

    def require(good: bool, what: str, got: object, expected: str) -> None:
        if not good:
            raise UserError(f"robot card {robot.name}, {what}", got=got, expected=expected, do="correct it")

    modes = ("joint", "end effector")
    require(robot.control_mode in modes, "control_mode", repr(robot.control_mode), "'joint' or 'end effector'")
    require(0 < robot.rate_hz < math.inf, "rate_hz", robot.rate_hz, "a positive number")
    cameras = [view.camera for view in robot.cameras.values()]
    unknown = [camera for camera in cameras if camera not in CAMERAS]
    require(not unknown, "cameras", unknown, f"names among {list(CAMERAS)}")
    require(len(set(cameras)) == len(cameras) > 0, "cameras", cameras, "at least one, each once")
    for what, parts in (("state", robot.state), ("actions", robot.actions)):
        require(bool(parts), what, "no parts", "at least one")
        for part in parts:
            require(part.dims >= 1, f"{what}, {part.name}, dims", part.dims, "at least 1")
            rule = part.gripper
            different = rule is None or (rule.open != rule.closed and math.isfinite(rule.open - rule.closed))
            require(different, f"{what}, {part.name}, gripper", rule, "two finite numbers that differ")
    free = [PROMPT, SEED, CORRECTION, SUBTASK, REMAINDER, DELAY]
    keys = [*robot.cameras, *robot.state_dims, *free]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    require(not twice, "keys", f"{twice} twice", f"each once, and {free} left free")
    runs = [key for key, _ in groupby(part.key for part in robot.state)]
    require(len(set(runs)) == len(runs), "state", runs, "parts with the same key one after the other")
    relative = [part.relative for part in robot.actions for _ in range(part.dims)]
    require(not any(relative[robot.state_dim :]), "actions", "relative dims beyond the state", "a state for each")


def check_agreement(robot: RobotCard, source: SourceCard) -> None:
    """Refuse a source whose card says something else of the robot than the robot's own."""
    theirs = {view.camera: view.optional for view in robot.cameras.values()}
    absent = [camera for camera in theirs if camera not in source.cameras and not theirs[camera]]
    pairs: dict[str, tuple[object, object]] = {
        "cameras": (sorted(source.cameras), sorted({*absent, *(c for c in source.cameras if c in theirs)})),
        "control_mode": (source.control_mode, robot.control_mode),
        "rate_hz": (source.rate_hz, robot.rate_hz),
        "state_dim": (source.state_dim, robot.state_dim),
        "action_dim": (source.action_dim, robot.action_dim),
        "delta_mask": (_padded(source.delta_mask, robot), _padded(robot.delta_mask, robot)),
    }
    for what, (got, expected) in pairs.items():
        if got != expected:
            raise UserError(
                f"source card {source.name}, {what}",
                got=repr(got),
                expected=f"{expected!r} as the card of its robot {robot.name} has it",
                do="correct one of the two, or name the right robot",
            )


def _padded(mask: Sequence[bool], robot: RobotCard) -> list[bool]:
    return [*mask, *[False] * (robot.action_dim - len(mask))]
