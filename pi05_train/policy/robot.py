"""A robot's words for what the policy knows: an observation to a sample, a chunk to the robot's commands.

Everything is in physical units. A robot's observation is refused with one sentence that names the key; nothing is
guessed, converted or left out. Shape letters: H steps, D the robot's action dims.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.policy.execution import Remainder
from pi05_train.samples.card import SourceCard
from pi05_train.samples.robot_card import (
    CORRECTION,
    DELAY,
    PROMPT,
    REMAINDER,
    SEED,
    SUBTASK,
    ActionPart,
    Gripper,
    RobotCard,
    StatePart,
    check_agreement,
)
from pi05_train.samples.schema import CAMERAS, Kind, Sample

SIDES = (16, 4096)
"""Shortest and longest side of a picture in pixels."""
MOST_OBLONG = 8
"""How many times longer one side may be than the other."""
DEEPEST = 8
"""Levels of nested dictionaries."""
MOST_CHARACTERS = 2000
"""Of a prompt or a correction. The processor cuts what is more than the model's tokens."""
MOST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Request:
    """What an observation asks for."""

    sample: Sample
    """Without actions."""
    seed: int | None
    """None: any noise will do."""
    remainder: Remainder | None
    """None: the chunk need not go on with a former one."""
    correction: str = ""
    """What a person says to do now instead; "": nothing."""


class RobotInterface:
    """A robot as its card has it, served with what was learnt from one source."""

    def __init__(self, robot: RobotCard, source: SourceCard) -> None:
        """Refuses (UserError) a source that is not this robot's."""
        check_agreement(robot, source)
        self.robot, self.source = robot, source
        self.cameras = {key: view for key, view in robot.cameras.items() if view.camera in source.cameras}
        self._known = {*self.cameras, *robot.state_dims, PROMPT, SEED, REMAINDER, DELAY}

    def request(self, observation: object, *, corrections: bool = False, kept: bool = False) -> Request:
        """The sample of an observation; refuses (UserError) anything that is not as the card has it.

        `corrections`: whether a person may say with it what is to be done now. `kept`: whether a server kept it, with
        the subtask that was acted on.
        """
        values = _flat(observation)
        known = self._known | ({CORRECTION} if corrections else set()) | ({CORRECTION, SUBTASK} if kept else set())
        if unknown := sorted(set(values) - known):
            _refuse(unknown[0], "an unknown key", f"one of {sorted(known)}", "remove it or name the right robot")
        optional = {SEED, REMAINDER, DELAY, *(key for key, view in self.cameras.items() if view.optional)}
        if missing := sorted(self._known - optional - set(values)):
            _refuse(missing[0], "nothing", f"the keys {sorted(self._known - optional)}", "send it")
        pictures = {view.camera: _picture(key, values[key]) for key, view in self.cameras.items() if key in values}
        sample = Sample(
            key="request",
            source=self.source.name,
            kind=cast(Kind, self.source.kind),
            images={camera: pictures[camera] for camera in CAMERAS if camera in pictures},
            task=_text(PROMPT, values[PROMPT], "send the command in words"),
            subtask=_text(SUBTASK, values[SUBTASK], "take the file as it was kept") if SUBTASK in values else "",
            state=self._state(values),
            embodiment=self.source.embodiment,
            control_mode=self.source.control_mode,
            rate_hz=self.source.rate_hz,
        )
        seed = _whole(SEED, values[SEED], MOST_SEED, "2**63 - 1") if SEED in values else None
        words = "say in words what to do now, or leave it out"
        correction = _text(CORRECTION, values[CORRECTION], words) if CORRECTION in values else ""
        return Request(sample, seed, self._remainder(values), correction)

    def blank(self) -> dict[str, object]:
        """An observation of nothing: black pictures, a state of zeros, a command of two words."""
        pictures = {key: np.zeros((SIDES[0], SIDES[0], 3), np.uint8) for key in self.cameras}
        states = {key: np.zeros(dims, np.float32) for key, dims in self.robot.state_dims.items()}
        return {**pictures, **states, PROMPT: "stand by"}

    def commands(self, chunk_HD: NDArray[np.float32]) -> NDArray[np.float32]:
        """A policy's chunk in the robot's own numbers: its grippers' open and closed.

        Raises ValueError for numbers that are not finite: no robot should get them.
        """
        if not np.isfinite(chunk_HD).all():
            raise ValueError("the policy's actions are not finite")
        commands_HD = chunk_HD.copy()
        for dims, gripper in self._gripper_commands():
            commands_HD[:, dims] = gripper.open + chunk_HD[:, dims] * (gripper.closed - gripper.open)
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

    def _gripper_commands(self) -> Iterator[tuple[slice, Gripper]]:
        """Dims of a command whose numbers are not the samples'."""
        start = 0
        for part in self.robot.actions:
            if part.gripper is not None:
                yield slice(start, start + part.dims), part.gripper
            start += part.dims

    def _remainder(self, values: Mapping[str, object]) -> Remainder | None:
        if REMAINDER not in values and DELAY not in values:
            return None
        for key, other in ((REMAINDER, DELAY), (DELAY, REMAINDER)):
            if key not in values:
                _refuse(key, "nothing", f"both it and {other}", "send both or neither")
        commands_RD = _steps(values[REMAINDER], self.source.action_dim)
        for dims, gripper in self._gripper_commands():
            commands_RD[:, dims] = _as_sampled(gripper, commands_RD[:, dims])
        left = len(commands_RD)
        return Remainder(commands_RD, _whole(DELAY, values[DELAY], left, f"the {left} steps that are left"))

    def _state(self, values: Mapping[str, object]) -> NDArray[np.float32]:
        vectors = {key: _numbers(key, values[key], dims) for key, dims in self.robot.state_dims.items()}
        parts, used = [], dict.fromkeys(vectors, 0)
        for part in self.robot.state:
            start = used[part.key]
            used[part.key] += part.dims
            numbers = vectors[part.key][start : start + part.dims]
            parts.append(numbers if part.gripper is None else _as_sampled(part.gripper, numbers))
        return np.concatenate(parts)


def _numbered(part: StatePart | ActionPart, unit: str = "") -> list[str]:
    """Names of the numbers of a part, counted where there are several; `unit`: instead of the part's own."""
    numbers = [""] if part.dims == 1 else [f" {place}" for place in range(part.dims)]
    return [f"{part.name}{number} ({unit or part.unit})" for number in numbers]


def _as_sampled(rule: Gripper, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    return (numbers - np.float32(rule.open)) / np.float32(rule.closed - rule.open)


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
    return _finite(key, np.asarray(value)).reshape(dims)


def _steps(value: object, dims: int) -> NDArray[np.float32]:
    """[R, dims] finite float32, R at least 1."""
    floats = isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float64)
    if not floats or (rows := cast(NDArray[Any], value)).ndim != 2 or rows.shape[1] != dims or not len(rows):
        _refuse(
            REMAINDER, _kind(value), f"float32 or float64 [steps, {dims}]", "send what is left of the last `actions`"
        )
    return _finite(REMAINDER, rows)


def _finite(key: str, value: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        numbers = value.astype(np.float32)
    if not (finite := np.isfinite(numbers)).all():
        place = int(np.argmin(finite))
        _refuse(f"{key}[{place}]", str(numbers.flat[place]), "finite numbers", "look at the robot's sensors")
    return numbers


def _text(key: str, value: object, do: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MOST_CHARACTERS:
        got = f"{len(value)} characters" if isinstance(value, str) else _kind(value)
        _refuse(key, got, f"1 to {MOST_CHARACTERS} characters of text", do)
    return value


def _whole(key: str, value: object, most: int, most_in_words: str) -> int:
    """From 0 to `most`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not 0 <= (number := int(cast(int, value))) <= most:
        got = repr(value) if whole else _kind(value)
        _refuse(key, got, f"a whole number from 0 to {most_in_words}", "correct it or leave it out")
    return number


def _kind(value: object) -> str:
    """What a value is, never its content: that may be long."""
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype} {list(value.shape)}"
    return f"a value of type {type(value).__name__}"


def _refuse(key: str, got: str, expected: str, do: str) -> NoReturn:
    where = "observation" + (f", {' '.join(key.split())[:80]}" if key else "")
    raise UserError(where, got=got, expected=expected, do=do)
