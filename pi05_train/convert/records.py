"""Tier master: whole episodes as they are, for archive and re-conversion. One tar sample per episode, with the members

- `{key}.json`: texts, rate, split, provenance, and the other members with their CRC-32;
- `{key}.lowdim.npz`: `state` [T, S] and `actions` [T, A], float32, in the source's units;
- `{key}.{camera}.mp4`, a video that was never encoded anew, or `{key}.{camera}.zip`, the T picture files in the order
  of their names, uncompressed; arrays without a file became PNG.

Shapes: T frames of the episode, S state dimensions, A action dimensions.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pi05_train.convert.episodes import FRAME_COUNT, Episode, anchor_samples, episode_fault
from pi05_train.convert.pictures import PictureError, png
from pi05_train.convert.source import Dropped, EpisodeRecord, Options
from pi05_train.convert.video import Footage, VideoError, frame_stamps
from pi05_train.errors import UserError
from pi05_train.samples.archive import write_archive
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import CAMERAS, Sample

SCHEMA = "master 1"
_PLAIN: Mapping[str, type | tuple[type, ...]] = {
    "number": int, "task": (str, list), "rate_hz": (int, float), "success": bool, "environment_id": str,
    "subtasks": list, "utterances": list, "split": (str, type(None)), "split_name": str, "provenance": dict,
}  # fmt: skip
"""Fields of an `Episode` in the JSON, and their types there."""
_SUFFIXES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"RIFF": "webp"}
_MOMENT = (1980, 1, 1, 0, 0, 0)
"""A zip file's time stamps: fixed, so that the same pictures are the same bytes."""


def episode_samples(episode: Episode, card: SourceCard, options: Options) -> Iterator[Sample | EpisodeRecord | Dropped]:
    """What the episode becomes in the tier that is asked for: its samples, or one record of all of it."""
    if options.tier == "master":
        yield episode_record(episode, card)
    else:
        yield from anchor_samples(episode, card, options)


def episode_record(episode: Episode, card: SourceCard) -> EpisodeRecord | Dropped:
    """The episode with every frame. Dropped for what drops a whole episode in tier train; what drops single samples
    there (an unreadable picture file, a missing text) is kept as it is. VideoErrors are let through."""
    key = f"{episode.number:08d}"
    if reason := episode_fault(episode, card):
        return Dropped(key, reason)
    contents = {"lowdim.npz": write_archive({"state": episode.state, "actions": episode.actions})}
    for camera in (camera for camera in CAMERAS if camera in episode.cameras):
        pictures = episode.cameras[camera]
        if isinstance(pictures, Footage):
            content, suffix, count = pictures.mp4(), "mp4", len(pictures.stamps)
        else:
            try:
                (content, count), suffix = _zipped(pictures), "zip"
            except PictureError:
                return Dropped(key, "picture unreadable")
        if count != len(episode.state):
            return Dropped(key, FRAME_COUNT)
        contents[f"{camera}.{suffix}"] = content
    header: dict[str, Any] = {"schema": SCHEMA} | {name: getattr(episode, name) for name in _PLAIN}
    header |= {name: list(header[name]) for name in ("subtasks", "utterances")}
    tasks = [episode.task] if isinstance(episode.task, str) else list(episode.task)
    header["task"] = tasks[0] if len(set(tasks)) == 1 else tasks
    header["members"] = {name: zlib.crc32(content) for name, content in contents.items()}
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    return EpisodeRecord(key, {"json": text} | contents)


def recorded_episode(members: Mapping[str, bytes], where: str) -> Episode:
    """The episode of a record's members; refuses (UserError beginning with `where`) missing and changed ones."""
    header = _header(members.get("json", b""), where)
    if sorted(members) != sorted(["json", *header["members"]]):
        _refuse(where, f"the members {sorted(members)}", f"json and {sorted(header['members'])}")
    for name, expected in header["members"].items():
        if zlib.crc32(members[name]) != expected:
            _refuse(f"{where}, {name}", "bytes that have changed", "those that were stored")
    try:
        with np.load(io.BytesIO(members["lowdim.npz"]), allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: np.asarray(archive[name], np.float32) for name in ("state", "actions")}
        cameras = {
            camera: _shown(members[member], suffix)
            for member in members
            for camera, _, suffix in (member.partition("."),)
            if suffix in ("mp4", "zip")
        }
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, VideoError) as error:
        _refuse(where, " ".join(str(error).split()), "numbers and pictures as they were stored")
    return Episode(**{name: header[name] for name in _PLAIN}, **arrays, cameras=cameras)


def _zipped(pictures: Iterable[NDArray[np.uint8] | bytes]) -> tuple[bytes, int]:
    """(A zip file of the pictures' files, their number)."""
    buffer, count = io.BytesIO(), 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for picture in pictures:
            content = picture if isinstance(picture, bytes) else png(picture)
            suffix = next((name for head, name in _SUFFIXES.items() if content.startswith(head)), "bin")
            archive.writestr(zipfile.ZipInfo(f"{count:06d}.{suffix}", _MOMENT), content)
            count += 1
    return buffer.getvalue(), count


def _shown(content: bytes, suffix: str) -> Footage | list[bytes]:
    if suffix == "mp4":
        return Footage(content, frame_stamps(content)[0])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [archive.read(name) for name in archive.namelist()]


def _header(content: bytes, where: str) -> dict[str, Any]:
    try:
        header = json.loads(content)
    except ValueError as error:
        _refuse(f"{where}, json", error, "JSON")
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        got = header.get("schema") if isinstance(header, dict) else type(header).__name__
        _refuse(f"{where}, json, schema", repr(got), repr(SCHEMA))
    for name, kind in {**_PLAIN, "members": dict}.items():
        if name not in header or not isinstance(header[name], kind):
            _refuse(f"{where}, json, {name}", repr(header.get(name)), "what a master folder holds there")
    return header


def _refuse(where: str, got: object, expected: str) -> NoReturn:
    raise UserError(where, got=got, expected=expected, do="restore the shard, or make the master folder again")
