"""LeRobot datasets (v2.0, v2.1, v3.0) as a foreign source: one unit per episode.

`options.dataset` overrides the names of cameras: see `lerobot_cameras`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pi05_train.convert.episodes import Episode
from pi05_train.convert.lerobot_cameras import (
    control_mode,
    depth_features,
    name_cameras,
    parse_overrides,
    short_name,
)
from pi05_train.convert.lerobot_files import Description, read_description
from pi05_train.convert.lerobot_rows import (
    ACTION_NAMES,
    NUMBERING,
    STATE_NAMES,
    EpisodeError,
    check_table,
    feature_name,
    measured_rate,
    read_rows,
    stored_pictures,
)
from pi05_train.convert.records import episode_samples
from pi05_train.convert.source import Dropped, EpisodeRecord, Options, Unit
from pi05_train.convert.video import Footage, VideoError, frame_stamps
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import ACTION_KINDS, Sample

_SHOWN = 8
"""Episode numbers that a message lists."""


@dataclass(frozen=True)
class LeRobotSource:
    """An opened LeRobot dataset."""

    root: Path
    options: Options
    description: Description
    cameras: Mapping[str, str]
    """Feature to our camera name."""
    subtask_column: str
    """"": LeRobot's own columns."""
    rate_hz: float
    card: SourceCard
    units: Sequence[Unit]
    notes: Sequence[str]

    def samples(self, unit: Unit) -> Iterator[Sample | EpisodeRecord | Dropped]:
        """The samples of an episode."""
        try:
            rows = read_rows(self.root, unit.number, self.description, self.rate_hz, self.subtask_column)
            episode = Episode(
                number=unit.number,
                task=rows.tasks,
                state=rows.state_TS,
                actions=rows.actions_TA,
                cameras={name: self._pictures(unit, key, rows.times_T) for key, name in self.cameras.items()},
                rate_hz=self.rate_hz,
                success=rows.success,
                subtasks=rows.subtasks,
                utterances=rows.utterances,
                provenance={"format": f"LeRobot {self.description.version}", "episode": unit.name},
            )
            yield from episode_samples(episode, self.card, self.options)
        except (EpisodeError, VideoError, UnicodeDecodeError) as error:
            reason = "text is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            samples = self.options.samples_of(self.description.lengths[unit.number])
            yield Dropped(f"{unit.number:08d}", reason, max(samples, 1))

    def _pictures(self, unit: Unit, feature: str, times_T: NDArray[np.float64]) -> Iterable[NDArray[np.uint8] | bytes]:
        """The episode's pictures of a camera; raises VideoError before any is decoded if there is not one per row."""
        if self.description.features[feature].get("dtype") == "image":
            return stored_pictures(self.root, unit.number, self.description, feature)
        clip = self.description.clip(unit.number, feature)
        half = 0.5 / self.rate_hz
        end_s = None if clip.end_s is None else clip.end_s - half
        stamps, unit_s = frame_stamps(self.root / clip.file, clip.start_s - half, end_s)
        if len(stamps) != len(times_T):
            raise VideoError("frame count of a video differs")
        shown_T = np.array(stamps) * unit_s
        if np.abs(shown_T - (clip.start_s + times_T)).max() > half:  # by time, never by number divided by the rate
            raise VideoError("video and rows disagree in time")
        return Footage(self.root / clip.file, stamps)


def open_source(path: Path, options: Options) -> LeRobotSource:
    """The dataset in the folder `path`. Refuses (UserError) what cannot be converted, before anything is decoded."""
    description = read_description(path)
    where, features = description.where, description.features
    overrides = parse_overrides(options.dataset)
    cameras = name_cameras(features, overrides, where)
    state, action = _numbers(description, options)
    subtask_column = overrides.get("subtask", "")
    _check_language(description, options, subtask_column)
    present, notes = _present(path, description, cameras, options)
    needed = [*NUMBERING, state, *([action] if options.kind in ACTION_KINDS else [])]
    needed += [key for key in cameras if features[key].get("dtype") == "image"]
    needed += [subtask_column] if subtask_column else []
    files = list(dict.fromkeys(description.data_file(number) for number in present))
    for file in files if description.major == 3 else files[:1]:  # v2 has a file per episode: too many to open them all
        check_table(path, file, description, needed)
    rate_hz = measured_rate(path, present[0], description) or description.fps
    if abs(rate_hz / description.fps - 1) <= 0.01:
        rate_hz = description.fps
    else:
        rate_hz = round(rate_hz, 2)
        notes.append(
            f"info.json says {description.fps:g} frames per second, time stamps {rate_hz:g}: the latter is used."
        )
    mode, certain = control_mode(features.get(action, {}).get("names"), overrides)
    if options.kind in ACTION_KINDS and not certain:
        notes.append(f'Control mode "{mode}" is a guess: the dimensions of {action} have no telling names.')
    licence = _licence(path)
    notes += _notes(description, cameras, overrides, licence)
    return LeRobotSource(
        root=path,
        options=options,
        description=description,
        cameras=cameras,
        subtask_column=subtask_column,
        rate_hz=rate_hz,
        card=_card(description, options, list(cameras.values()), rate_hz, mode, licence),
        units=[Unit(number, f"episode {number}") for number in present],
        notes=notes,
    )


def _notes(
    description: Description, cameras: Mapping[str, str], overrides: Mapping[str, str], licence: str
) -> list[str]:
    """What a person should know about what was taken and what was not."""
    features = description.features
    notes = [f"Camera {short_name(key)} is {name}." for key, name in cameras.items()]
    notes += [f"Camera {name} is left out, as asked for." for name, ours in overrides.items() if ours == "none"]
    notes += [f"Depth map {short_name(name)} is left out." for name in depth_features(features)]
    if "language_persistent" in features or "language_events" in features:
        notes.append("Of the language columns, subtasks and what a person said are taken; other styles are left out.")
    if not licence:
        notes.append("The dataset names no licence.")
    return notes


def _card(
    description: Description, options: Options, cameras: list[str], rate_hz: float, mode: str, licence: str
) -> SourceCard:
    state, action = feature_name(description, STATE_NAMES), feature_name(description, ACTION_NAMES)
    acts = options.kind in ACTION_KINDS
    return SourceCard(
        name=options.name,
        kind=options.kind,
        shards="",
        description=f"{len(description.lengths)} episodes of {description.robot_type or 'an unnamed robot'}",
        cameras=cameras,
        embodiment=description.robot_type,
        control_mode=mode if acts else "",
        rate_hz=rate_hz if acts else 0.0,
        state_dim=_width(description, state),
        action_dim=_width(description, action) if acts else 0,
        licence=licence,
        origin=f"LeRobot dataset {description.name}, {description.version}",
    )


def _numbers(description: Description, options: Options) -> tuple[str, str]:
    """Names of the state and of the action; the latter may be "" for kinds without actions."""
    state, action = feature_name(description, STATE_NAMES), feature_name(description, ACTION_NAMES)
    wanted = [("state", state, STATE_NAMES)] + [("action", action, ACTION_NAMES)] * (options.kind in ACTION_KINDS)
    for what, name, names in wanted:
        if not name:
            raise UserError(
                f"{description.where}, features",
                got=sorted(description.features),
                expected=f"{what} under one of the names {list(names)}",
                do="rename the feature, or join its parts into one",
            )
        _width(description, name)
    return state, action


def _width(description: Description, name: str) -> int:
    """Dimensions of a feature; `shape` is [n], or empty for a scalar."""
    shape = description.features[name].get("shape")
    if not isinstance(shape, list) or len(shape) > 1 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise UserError(
            f"{description.where}, features, {name}, shape",
            got=shape,
            expected="one length",
            do="correct meta/info.json",
        )
    return int(shape[0]) if shape else 1


def _check_language(description: Description, options: Options, subtask_column: str) -> None:
    features = description.features
    texts = [name for name, feature in features.items() if feature.get("dtype") == "string"]
    if subtask_column and subtask_column not in texts:
        raise UserError(
            f"{description.where}, --dataset subtask",
            got=repr(subtask_column),
            expected=f"one of the text columns {texts}",
            do="correct it",
        )
    indexed = "subtask_index" in features and description.subtasks
    annotated = subtask_column or "language_persistent" in features or indexed
    if options.kind == "WD":
        raise UserError(description.where, got="kind WD", expected="a kind of robot data", do="choose another kind")
    if options.kind in ("HL", "VI") and not annotated:
        raise UserError(
            f"{description.where}, kind {options.kind}",
            got="no subtasks",
            expected="the feature language_persistent, or subtask_index with meta/subtasks.parquet",
            do="annotate the dataset, name a text column with --dataset subtask=COLUMN, or choose another kind",
        )
    if options.kind == "VI" and "language_events" not in features:
        raise UserError(
            f"{description.where}, kind VI",
            got="no feature language_events",
            expected="what a person said in it",
            do="annotate the dataset or choose another kind",
        )


def _present(
    path: Path, description: Description, cameras: Mapping[str, str], options: Options
) -> tuple[list[int], list[str]]:
    """Episodes whose files are all there, and notes about the others; refuses absent ones unless they are allowed."""
    videos = [key for key in cameras if description.features[key].get("dtype") == "video"]
    folders: dict[str, set[str]] = {}
    absent: dict[int, str] = {}
    for number in description.lengths:
        for file in (description.data_file(number), *(description.clip(number, key).file for key in videos)):
            folder, _, name = file.rpartition("/")
            if folder not in folders:  # listed once: asking for every file takes long on network storage
                folders[folder] = set(os.listdir(path / folder)) if (path / folder).is_dir() else set()
            if name not in folders[folder]:
                absent.setdefault(number, file)
    total, announced = len(description.lengths), description.announced
    if len(absent) == total or (absent and not options.allow_missing):
        first, example = next(iter(absent.items()))
        raise UserError(
            f"{description.where}, episodes",
            got=f"{len(absent)} of {total} without their files (episode {first} lacks {example})",
            expected="a table and a video per camera for each",
            do="fetch the rest" if len(absent) == total else "fetch the rest, or give --allow-missing",
        )
    if announced != total and not options.allow_missing:
        raise UserError(
            f"{description.where}, episodes",
            got=f"{total} in meta/episodes",
            expected=f"the {announced} of meta/info.json",
            do="fetch the rest, or give --allow-missing",
        )
    notes = [f"meta/info.json speaks of {announced} episodes, meta/episodes lists {total}."] * (announced != total)
    if absent:
        shown = ", ".join(map(str, list(absent)[:_SHOWN]))
        shown += f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        notes.append(f"{len(absent)} of {total} episodes are absent: {shown}.")
    return [number for number in description.lengths if number not in absent], notes


def _licence(path: Path) -> str:
    """By the head of the dataset's README, or the first line of its LICENSE; "" where neither says."""
    readme = path / "README.md"
    if readme.is_file():
        lines = readme.read_text("utf-8", errors="replace").splitlines()
        if lines and lines[0].strip() == "---":
            for line in lines[1:]:
                if line.strip() == "---":
                    break
                if line.startswith("license:"):
                    return line.partition(":")[2].strip().strip("'\"")
    text = path / "LICENSE"
    lines = text.read_text("utf-8", errors="replace").splitlines() if text.is_file() else []
    return next((line.strip() for line in lines if line.strip()), "")
