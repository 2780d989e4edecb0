"""A robot's words for what the policy knows: an observation to a sample, a chunk to the robot's commands.

Everything is in physical units. A robot's observation is refused with one sentence that names the key; nothing is
guessed, converted or left out. Shape letters: H steps, D the robot's action dims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.robot_card import PROMPT, SEED, ActionPart, Gripper, RobotCard, StatePart, check_agreement
from pi05_train.samples.schema import CAMERAS, Kind, Sample

SIDES = (16, 4096)
"""Shortest and longest side of a picture in pixels."""
MOST_OBLONG = 8
"""How many times longer one side may be than the other."""
DEEPEST = 8
"""Levels of nested dictionaries."""
MOST_CHARACTERS = 2000
"""Of a prompt. The processor cuts what is more than the model's tokens."""
SEEDS = 2**63


@dataclass(frozen=True)
class Request:
    """What an observation asks for."""

    sample: Sample
    """Without actions."""
    seed: int | None
    """None: any noise will do."""


class RobotInterface:
    """A robot as its card has it, served with what was learnt from one source."""

    def __init__(self, robot: RobotCard, source: SourceCard) -> None:
        """Refuses (UserError) a source that is not this robot's."""
        check_agreement(robot, source)
        self.robot, self.source = robot, source
        self.cameras = {key: view for key, view in robot.cameras.items() if view.camera in source.cameras}
        self._known = {*self.cameras, *robot.state_dims, PROMPT, SEED}

    def request(self, observation: object) -> Request:
        """The sample of an observation; refuses (UserError) anything that is not as the card has it."""
        values = _flat(observation)
        if unknown := sorted(set(values) - self._known):
            _refuse(unknown[0], "an unknown key", f"one of {sorted(self._known)}", "remove it or name the right robot")
        optional = {SEED, *(key for key, view in self.cameras.items() if view.optional)}
        if missing := sorted(self._known - optional - set(values)):
            _refuse(missing[0], "nothing", f"the keys {sorted(self._known - optional)}", "send it")
        pictures = {view.camera: _picture(key, values[key]) for key, view in self.cameras.items() if key in values}
        sample = Sample(
            key="request",
            source=self.source.name,
            kind=cast(Kind, self.source.kind),
            images={camera: pictures[camera] for camera in CAMERAS if camera in pictures},
            task=_prompt(values[PROMPT]),
            state=self._state(values),
            embodiment=self.source.embodiment,
            control_mode=self.source.control_mode,
            rate_hz=self.source.rate_hz,
        )
        return Request(sample, _seed(values[SEED]) if SEED in values else None)

    def commands(self, chunk_HD: NDArray[np.float32]) -> NDArray[np.float32]:
        """A policy's chunk in the robot's own numbers: its grippers' open and closed.

        Raises ValueError for numbers that are not finite: no robot should get them.
        """
        if not np.isfinite(chunk_HD).all():
            raise ValueError("the policy's actions are not finite")
        commands_HD, start = chunk_HD.copy(), 0
        for part in self.robot.actions:
            if part.gripper is not None:
                dims = slice(start, start + part.dims)
                commands_HD[:, dims] = part.gripper.open + chunk_HD[:, dims] * (part.gripper.closed - part.gripper.open)
            start += part.dims
        return commands_HD

    def description(self) -> dict[str, Any]:
        """What a client may want to know, in plain values: the keys to send and the meaning of the numbers."""
        robot = self.robot
        ends = np.cumsum([part.dims for part in robot.actions]).tolist()
        return {
            "robot": robot.name,
            "source": self.source.name,
            "control_mode": robot.control_mode,
            "rate_hz": robot.rate_hz,
            "cameras": {key: {"camera": view.camera, "optional": view.optional} for key, view in self.cameras.items()},
            "state": [
                {"key": part.key, "name": part.name, "dims": part.dims, "unit": part.unit} for part in robot.state
            ],
            "actions": [
                {"name": part.name, "start": end - part.dims, "stop": end, "unit": part.unit}
                for part, end in zip(robot.actions, ends, strict=True)
            ],
        }

    def state_names(self) -> list[str]:
        """A name for each number of a sample's state."""
        return [
            name for part in self.robot.state for name in _numbered(part, "0 open, 1 closed" if part.gripper else "")
        ]

    def action_names(self) -> list[str]:
        """A name and unit for each number of `commands`."""
        return [name for part in self.robot.actions for name in _numbered(part)]

    def _state(self, values: Mapping[str, object]) -> NDArray[np.float32]:
        vectors = {key: _numbers(key, values[key], dims) for key, dims in self.robot.state_dims.items()}
        parts, used = [], dict.fromkeys(vectors, 0)
        for part in self.robot.state:
            start = used[part.key]
            used[part.key] += part.dims
            parts.append(_as_sampled(part, vectors[part.key][start : start + part.dims]))
        return np.concatenate(parts)


def _numbered(part: StatePart | ActionPart, unit: str = "") -> list[str]:
    """Names of the numbers of a part, counted where there are several; `unit`: instead of the part's own."""
    numbers = [""] if part.dims == 1 else [f" {place}" for place in range(part.dims)]
    return [f"{part.name}{number} ({unit or part.unit})" for number in numbers]


def _as_sampled(part: StatePart, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    rule: Gripper | None = part.gripper
    return numbers if rule is None else (numbers - np.float32(rule.open)) / np.float32(rule.closed - rule.open)


def _flat(observation: object) -> dict[str, object]:
    """Nested dictionaries with their keys joined by slashes."""
    if not isinstance(observation, Mapping):
        _refuse("", _kind(observation), "a dictionary", "send the robot's observation")
    flat: dict[str, object] = {}

    def add(values: Mapping[Any, object], before: str) -> None:
        for key, value in values.items():
            if not isinstance(key, str):
                _refuse(f"{before}{key!r}", "a key that is no text", "text", "correct it")
            name = before + key
            if isinstance(value, Mapping):
                if name.count("/") >= DEEPEST:
                    _refuse("", "dictionaries inside each other", f"at most {DEEPEST} levels", "send the card's keys")
                add(value, f"{name}/")
            elif name in flat:
                _refuse(name, "the key twice", "once", "send it once")
            else:
                flat[name] = value

    add(observation, "")
    return flat


def _picture(key: str, value: object) -> bytes:
    """An uncompressed image file (PPM) of the very pixels: what the processor decodes is what the robot sent."""
    expected = f"uint8 [height, width, 3] or [3, height, width], sides {SIDES[0]} to {SIDES[1]}"
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3:
        _refuse(key, _kind(value), expected, "send an RGB picture")
    pixels = value if value.shape[2] == 3 else value.transpose(1, 2, 0)
    height, width, colours = pixels.shape
    short, long = sorted((height, width))
    if colours != 3 or short < SIDES[0] or long > min(SIDES[1], MOST_OBLONG * short):
        oblong = f", the longer at most {MOST_OBLONG} times the shorter"
        _refuse(key, _kind(value), expected + oblong, "send an RGB picture")
    return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()


def _numbers(key: str, value: object, dims: int) -> NDArray[np.float32]:
    """[dims] finite float32."""
    shapes = [(dims,), ()] if dims == 1 else [(dims,)]
    floats = isinstance(value, np.ndarray | np.floating) and value.dtype in (np.float32, np.float64)
    if not floats or cast(NDArray[Any], value).shape not in shapes:
        _refuse(key, _kind(value), f"float32 or float64 [{dims}]", "send the card's numbers")
    with np.errstate(over="ignore"):
        numbers = np.asarray(value).astype(np.float32).reshape(dims)
    if not (finite := np.isfinite(numbers)).all():
        place = int(np.argmin(finite))
        _refuse(f"{key}[{place}]", str(numbers[place]), "finite numbers", "look at the robot's sensors")
    return numbers


def _prompt(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MOST_CHARACTERS:
        got = f"{len(value)} characters" if isinstance(value, str) else _kind(value)
        _refuse(PROMPT, got, f"1 to {MOST_CHARACTERS} characters of text", "send the command in words")
    return value


def _seed(value: object) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not 0 <= (seed := int(cast(int, value))) < SEEDS:
        got = repr(value) if whole else _kind(value)
        _refuse(SEED, got, "a whole number from 0 to 2**63 - 1", "correct it or leave it out")
    return seed


def _kind(value: object) -> str:
    """What a value is, never its content: that may be long."""
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype} {list(value.shape)}"
    return f"a value of type {type(value).__name__}"


def _refuse(key: str, got: str, expected: str, do: str) -> NoReturn:
    where = "observation" + (f", {' '.join(key.split())[:80]}" if key else "")
    raise UserError(where, got=got, expected=expected, do=do)
