"""Robot tars as TRI's vla_foundry writes them for its large behaviour model: chunks that are cut already.

A record is one anchor frame: `<camera>_t0.jpg` (and earlier times, which are left out), `lowdim.npz` with arrays of
`past + 1 + future` steps at 10 Hz, `metadata.json`, `language_instructions.json`. Its state is what the robot measured
at the anchor, its actions what was commanded from the anchor on, both 20 numbers: left arm, then right arm, each
position (3, metres), rotation (6, the first two rows of its matrix), gripper opening (1, metres), as vla_foundry's
`lbm_data_params.yaml` orders them. Positions are marked for training relative to the state.

Shapes: N steps stored, H steps of a chunk.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pi05_train.convert.episodes import anchor_key
from pi05_train.convert.pictures import PictureError, jpeg
from pi05_train.convert.source import Dropped, Options, Unit, split_of
from pi05_train.convert.tars import Record, tar_files, tar_records
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import ACTION_KINDS, Kind, Sample

CAMERA_NAMES = {
    "base_0_rgb": ("scene_right_0",),
    "base_1_rgb": ("scene_left_0",),
    "left_wrist_0_rgb": ("wrist_left_plus", "wrist_left_minus"),
    "right_wrist_0_rgb": ("wrist_right_minus", "wrist_right_plus"),
}
"""Ours to theirs, the first present; of each wrist the camera that vla_foundry's set of four keeps."""
ARMS = ("left", "right")
PARTS = {"poses__{}::panda__xyz": 3, "poses__{}::panda__rot_6d": 6, "grippers__{}::panda_hand": 1}
"""`robot__actual__` (state) and `robot__action__` (action) arrays of an arm, and their numbers."""
DIM = len(ARMS) * sum(PARTS.values())
RELATIVE = [True] * 3 + [False] * 7
RATE_HZ = 10.0
"""vla_foundry, `tutorials/diffusion_policy.md`; the tars do not say."""


def open_source(path: Path, options: Options) -> RobotTars:
    """The tar at `path` or all below it; one unit per tar.

    Refuses (UserError) a horizon beyond the stored chunks, tars that `manifest.jsonl` names and are absent (unless
    missing files are allowed), and tars without a record of this kind.
    """
    if options.kind not in ACTION_KINDS:
        raise UserError(
            f"conversion of {path}, kind",
            got=repr(options.kind),
            expected="one of " + ", ".join(ACTION_KINDS),
            do="give the kind of a robot source",
        )
    files = tar_files(path, options)
    folder = path if path.is_dir() else path.parent
    names = [file.relative_to(folder).as_posix() for file in files]
    promised = _manifest(folder)
    absent = [name for name in promised if name not in names] if path.is_dir() else []
    if absent and not options.allow_missing:
        raise UserError(
            f"{folder / 'manifest.jsonl'}",
            got=f"{len(absent)} of {len(promised)} tars absent, {absent[0]} first",
            expected="all of them",
            do="fetch them, or take what is there with --allow-missing",
        )
    cameras, steps = _first_facts(files, names)
    if options.horizon > steps:
        raise UserError(
            f"conversion of {path}, horizon",
            got=options.horizon,
            expected=f"at most {steps}, the steps its chunks hold from the anchor on",
            do=f"give --horizon {steps} or less",
        )
    return RobotTars(files, names, promised, absent, cameras, path, options)


class RobotTars:
    """Opened robot tars. `Sample.episode` is a hash of the original episode's name and instruction: tars hold frames of
    many episodes, and the sample's key counts the records of its tar."""

    def __init__(
        self,
        files: Sequence[Path],
        names: Sequence[str],
        promised: Mapping[str, int],
        absent: Sequence[str],
        cameras: Mapping[str, str],
        path: Path,
        options: Options,
    ) -> None:
        self._files, self._names, self._promised, self._options = files, names, promised, options
        self._cameras = cameras
        self.units = [Unit(number, name) for number, name in enumerate(names)]
        self.notes = [
            f"Cameras: {', '.join(f'{theirs} is {ours}' for ours, theirs in cameras.items())}; "
            "others and earlier times are left out.",
            "Of each frame's instruction and its paraphrases one was chosen by a hash.",
            f"The tars state no rate: {RATE_HZ:g} Hz taken, as vla_foundry documents.",
            *([f"Tars absent: {', '.join(absent)}."] if absent else []),
            "The tars state no licence.",
        ]
        self.card = SourceCard(
            name=options.name,
            kind=options.kind,
            shards="",
            description="State and actions: left arm, then right arm, each position 3 (metres), rotation 6 (two rows "
            "of its matrix), gripper opening 1 (metres); actions are commanded poses, absolute.",
            cameras=list(cameras),
            embodiment="two pandas",
            control_mode="end effector",
            rate_hz=RATE_HZ,
            state_dim=DIM,
            action_dim=DIM,
            delta_mask=RELATIVE * len(ARMS),
            origin=f"vla_foundry tars, {path.name}",
        )

    def samples(self, unit: Unit) -> Iterator[Sample | Dropped]:
        """The tar's samples, in its order."""
        name, count = self._names[unit.number], 0
        for position, record in enumerate(tar_records(self._files[unit.number], name)):
            if isinstance(record, Dropped):
                yield record
                continue
            count += 1
            try:
                frame = _read(record, self._cameras)
                if frame.number % self._options.stride == 0:
                    yield self._sample(frame, unit.number, position, name)
            except _BadRecordError as error:
                yield Dropped(record.key, str(error))
            except PictureError:
                yield Dropped(record.key, "picture unreadable")
        if (lost := self._promised.get(name, count) - count) > 0:
            yield Dropped(name, "fewer records than manifest.jsonl says", lost)

    def _sample(self, frame: _Frame, unit: int, position: int, tar: str) -> Sample:
        horizon = self._options.horizon
        if len(frame.actions_HA) < horizon:
            raise _BadRecordError("chunk shorter than the horizon")
        chosen = _hash(f"instruction/{self.card.name}/{frame.key}") % len(frame.instructions)
        return Sample(
            key=anchor_key(unit, position),
            source=self.card.name,
            kind=cast(Kind, self.card.kind),
            images={camera: jpeg(content, self._options) for camera, content in frame.pictures.items()},
            task=frame.instructions[chosen],
            state=frame.state_S,
            actions=np.ascontiguousarray(frame.actions_HA[:horizon]),
            action_valid=np.ascontiguousarray(frame.valid_H[:horizon]),
            embodiment=self.card.embodiment,
            control_mode=self.card.control_mode,
            rate_hz=RATE_HZ,
            episode=_hash(f"{frame.episode}/{frame.instructions[0]}"),
            frame=frame.number,
            split=split_of(self._options, frame.episode),
            provenance={"tar": tar, "episode": frame.episode, "sample": frame.key},
        )


class _BadRecordError(Exception):
    """A record that cannot be a sample; says why in a phrase to count by."""


@dataclass(frozen=True)
class _Frame:
    """A record, read."""

    key: str
    episode: str
    number: int
    """Of the anchor in its episode."""
    instructions: Sequence[str]
    """The original one first, then its paraphrases."""
    state_S: NDArray[np.float32]
    actions_HA: NDArray[np.float32]
    """From the anchor to the last stored step."""
    valid_H: NDArray[np.bool_]
    pictures: Mapping[str, bytes]


def _read(record: Record, cameras: Mapping[str, str]) -> _Frame:
    """The record's content; raises _BadRecordError."""
    meta, words = _json(record, "metadata.json"), _json(record, "language_instructions.json")
    arrays = _arrays(record)
    state_NS, actions_NA = _robot(arrays, "actual"), _robot(arrays, "action")
    anchor, number, steps = meta.get("anchor_relative_idx"), meta.get("anchor_timestep"), len(state_NS)
    if not isinstance(anchor, int) or not isinstance(number, int) or not 0 <= anchor < steps or number < 0:
        raise _BadRecordError("anchor missing in metadata.json")
    future_N = arrays.get("future_mask")
    if future_N is None or future_N.shape != (steps,) or len(actions_NA) != steps:
        raise _BadRecordError("array lengths differ")
    valid_H = future_N[anchor:].astype(bool)
    if not valid_H[0] or (np.diff(valid_H.astype(int)) > 0).any():
        raise _BadRecordError("future_mask has gaps")
    if not np.isfinite(state_NS[anchor]).all():
        raise _BadRecordError("NaN in states")
    if not np.isfinite(actions_NA[anchor:]).all():
        raise _BadRecordError("NaN in actions")
    texts = [text for kind in ("original", *sorted(words.keys() - {"original"})) for text in words.get(kind) or ()]
    instructions = [text.strip() for text in texts if isinstance(text, str) and text.strip()]
    if not instructions:
        raise _BadRecordError("no instruction")
    pictures = {ours: record.members.get(f"{theirs}_t0.jpg", b"") for ours, theirs in cameras.items()}
    if not all(pictures.values()):
        raise _BadRecordError("picture missing")
    return _Frame(
        record.key, str(meta.get("episode_id", "")), number, instructions, state_NS[anchor],
        actions_NA[anchor:], valid_H, pictures,
    )  # fmt: skip


def _robot(arrays: Mapping[str, NDArray[Any]], what: str) -> NDArray[np.float32]:
    """[N, 20] of both arms; `what` is "actual" or "action"."""
    parts = []
    for arm in ARMS:
        for name, size in PARTS.items():
            part = arrays.get(f"robot__{what}__{name.format(arm)}")
            if part is None:
                raise _BadRecordError("arrays missing")
            if part.ndim != 2 or part.shape[1] != size or part.dtype.kind != "f":
                raise _BadRecordError("dimensions differ from the card")
            parts.append(part.astype(np.float32))
    if len({len(part) for part in parts}) > 1:
        raise _BadRecordError("array lengths differ")
    return np.concatenate(parts, 1)


def _arrays(record: Record) -> dict[str, NDArray[Any]]:
    wanted = (
        "future_mask",
        *(f"robot__{what}__{part.format(arm)}" for what in ("actual", "action") for arm in ARMS for part in PARTS),
    )
    try:
        with np.load(io.BytesIO(record.members.get("lowdim.npz", b"")), allow_pickle=False) as archive:
            return {name: archive[name] for name in wanted if name in archive}
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _BadRecordError("lowdim.npz missing or unreadable") from error


def _json(record: Record, name: str) -> dict[str, Any]:
    try:
        content = json.loads(record.members.get(name, b""))
    except (ValueError, RecursionError) as error:
        raise _BadRecordError(f"{name} missing or unreadable") from error
    if not isinstance(content, dict):
        raise _BadRecordError(f"{name} missing or unreadable")
    return content


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _manifest(folder: Path) -> dict[str, int]:
    """Tar name to number of records, as `manifest.jsonl` says; {} without one."""
    path = folder / "manifest.jsonl"
    if not path.is_file():
        return {}
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        return {f"{line['shard']}.tar": int(line["num_sequences"]) for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            str(path), got=f"{type(error).__name__}: {error}", expected='lines {"shard": ..., "num_sequences": ...}',
            do="fetch it again, or remove it",
        ) from error  # fmt: skip


def _first_facts(files: Sequence[Path], names: Sequence[str]) -> tuple[dict[str, str], int]:
    """(Our camera name to theirs, steps stored from the anchor on), from the first good record."""
    reason = "no record"
    for file, name in zip(files, names, strict=True):
        for record in tar_records(file, name):
            if isinstance(record, Dropped):
                reason = record.reason
                continue
            try:
                present = _json(record, "metadata.json").get("camera_names") or ()
                cameras = {
                    ours: next(each for each in theirs if each in present)
                    for ours, theirs in CAMERA_NAMES.items()
                    if any(each in present for each in theirs)
                }
                frame = _read(record, cameras)
            except _BadRecordError as error:
                reason = str(error)
                continue
            if cameras:
                return cameras, len(frame.actions_HA)
            reason = f"cameras {list(present)}, none of which is known"
    raise UserError(
        f"robot tars in {files[0].parent}", got=reason, expected="records as vla_foundry writes them (lowdim.npz, "
        "metadata.json, language_instructions.json, <camera>_t0.jpg)", do="correct the path or the dataset",
    )  # fmt: skip
