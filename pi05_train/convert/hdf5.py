"""robomimic and LIBERO demonstrations: one HDF5 file, or a folder of them (a LIBERO suite).

A file holds `data/demo_k` with `actions` [T, A] and `obs/<key>` (pictures [T, height, width, 3] uint8), facts about the
environment in the attributes of `data` (robomimic docs, "Dataset Structure"), and may list demonstrations under
`mask/train` and `mask/valid`. Actions are kept as they were recorded, idle steps included.

Shapes: T frames of a demonstration, S state dimensions, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import h5py
import numpy as np
from numpy.typing import NDArray

from pi05_train.convert.episodes import Episode
from pi05_train.convert.hdf5_layouts import Facts, columns, facts_of
from pi05_train.convert.records import episode_samples
from pi05_train.convert.source import Dropped, EpisodeRecord, Options, Unit
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import ACTION_KINDS, CAMERAS, Sample, Split

ENDINGS = (".hdf5", ".h5")
_FRAMES_AT_ONCE = 64
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError)
"""What h5py raises for damaged files: flipped bytes in their metadata come out as any of these."""


def open_source(path: Path, options: Options) -> Hdf5Source:
    """The demonstrations of one file or of every `*.hdf5` and `*.h5` below a folder; `dataset` "" finds the layout out.

    Refuses (UserError) files that are no whole HDF5, hold no demonstrations, pictures or states, or differ among each
    other in cameras, dimensions, robot or rate. With `allow_missing` damaged files are left out.
    """
    if options.kind not in ACTION_KINDS:
        raise UserError(
            f"conversion of {path}, kind",
            got=repr(options.kind),
            expected="one of " + ", ".join(ACTION_KINDS),
            do="give the kind of a robot source (subtasks are joined by the format annotations)",
        )
    files: list[_File] = []
    notes: list[str] = []
    for file in _files(path):
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        try:
            files.append(_read_file(file, name, options))
        except _DamagedError as error:
            if not options.allow_missing:
                raise
            notes.append(f"Left out: {error}")
    if not files:
        raise UserError(f"{path}", got="only damaged files", expected="a whole HDF5 file", do="download it again")
    for file_ in files[1:]:
        _same(files[0], file_)
    return Hdf5Source(files, notes, path, options)


class _DamagedError(UserError):
    """A file or demonstration that is not all there, and may be left out on request."""


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    """Relative to the converted folder: part of what decides about the held-out split."""
    facts: Facts
    demos: tuple[str, ...]
    splits: Mapping[str, Split] | None
    """From `mask/`; None without one."""
    absent: int
    """Demonstrations that the file's masks or its `num_demos` speak of and that it does not hold."""


class Hdf5Source:
    """Opened demonstration files: one unit per demonstration, numbered through the files in their names' order."""

    def __init__(self, files: Sequence[_File], notes: Sequence[str], path: Path, options: Options) -> None:
        self._files, self._options = files, options
        self._demos = [(file, demo) for file in files for demo in file.demos]
        self.units = [Unit(number, f"{file.name}/{demo}") for number, (file, demo) in enumerate(self._demos)]
        facts = files[0].facts
        self.notes = [*notes, *_notes(files)]
        self.card = SourceCard(
            name=options.name,
            kind=options.kind,
            shards="",
            description=facts.description,
            cameras=[camera for camera in CAMERAS if camera in facts.cameras],
            embodiment=facts.embodiment,
            control_mode=facts.control_mode,
            rate_hz=facts.rate_hz,
            state_dim=facts.state_dim,
            action_dim=facts.action_dim,
            origin=f"{facts.layout} HDF5, {path.name}",
        )

    def samples(self, unit: Unit) -> Iterator[Sample | EpisodeRecord | Dropped]:
        """The demonstration's samples; see `anchor_samples` for what drops one."""
        file, name = self._demos[unit.number]
        key, samples = f"{unit.number:08d}", 1
        try:
            with h5py.File(file.path, "r") as root:
                demo = root["data"][name]
                samples = max(1, self._options.samples_of(len(demo.get("actions", ()))))
                masked = file.splits is not None and name not in file.splits
                if reason := "in neither mask/train nor mask/valid" if masked else _fault(demo, file.facts):
                    yield Dropped(key, reason, samples)
                    return
                yield from episode_samples(_episode(unit.number, demo, file, name), self.card, self._options)
        except UserError:
            raise
        except _DAMAGE:
            yield Dropped(key, "demonstration unreadable", samples)


class _Frames(Sequence[NDArray[np.uint8]]):
    """The pictures of one camera, read a block at a time, turned upright."""

    def __init__(self, pictures: Any, upside_down: bool) -> None:
        self._pictures, self._upside_down = pictures, upside_down

    def __len__(self) -> int:
        return len(self._pictures)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[NDArray[np.uint8]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | Sequence[NDArray[np.uint8]]:
        block = self._pictures[index]
        turned = block[..., ::-1, ::-1, :] if self._upside_down else block
        return np.ascontiguousarray(turned)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(self), _FRAMES_AT_ONCE):
            yield from self[start : start + _FRAMES_AT_ONCE]


def _fault(demo: Any, facts: Facts) -> str:
    """Why a demonstration cannot be an episode, as far as its arrays' shapes tell; "" for no reason."""
    wanted = ["actions", *(f"obs/{key}" for key in (*facts.state_keys, *facts.cameras.values()))]
    if any(not isinstance(demo.get(each), h5py.Dataset) or not demo[each].ndim for each in wanted):
        return "arrays missing"
    if any(demo[each].dtype.kind not in "fiu" for each in wanted):
        return "arrays of no numbers"
    lengths = {len(demo["actions"]), *(len(demo[f"obs/{key}"]) for key in facts.state_keys)}
    stated = demo.attrs.get("num_samples")
    if len(lengths) > 1 or (stated is not None and int(stated) not in lengths):
        return "array lengths differ"
    pictures = [demo[f"obs/{key}"] for key in facts.cameras.values()]
    if any(array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8 for array in pictures):
        return "pictures not uint8 [frames, height, width, 3]"
    return ""


def _episode(number: int, demo: Any, file: _File, name: str) -> Episode:
    """The demonstration, its pictures still on the disk."""
    facts = file.facts
    states = [np.asarray(demo[f"obs/{key}"], np.float32) for key in facts.state_keys]
    rewards = demo.get("rewards")
    return Episode(
        number=number,
        task=facts.instruction(demo),
        state=np.concatenate([part.reshape(len(part), columns(part)) for part in states], 1),
        actions=np.asarray(demo["actions"], np.float32),
        cameras={camera: _Frames(demo[f"obs/{key}"], facts.upside_down) for camera, key in facts.cameras.items()},
        rate_hz=facts.rate_hz,
        success=_succeeded(np.asarray(rewards) if isinstance(rewards, h5py.Dataset) else None),
        environment_id=facts.environment_id,
        split=None if file.splits is None else file.splits[name],
        split_name=f"{file.name}/{name}",
        provenance={"file": file.name, "demonstration": name},
    )


def _succeeded(rewards: NDArray[Any] | None) -> bool:
    """False where the file can tell: a sparse reward (0 or 1) that was never given."""
    return rewards is None or not len(rewards) or not np.isin(rewards, (0, 1)).all() or bool(rewards.any())


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in ENDINGS) if path.is_dir() else []
    if not files:
        got = "nothing there" if not path.exists() else "no such files"
        raise UserError(f"HDF5 source {path}", got=got, expected="*.hdf5 or *.h5 files", do="correct the path")
    return files


def _read_file(path: Path, name: str, options: Options) -> _File:
    where = f"HDF5 file {path}"
    try:
        with h5py.File(path, "r") as root:
            data = root.get("data")
            if not isinstance(data, h5py.Group):
                raise UserError(
                    where, got=f"the groups {sorted(root)}", expected="a group data with demonstrations",
                    do="give a robomimic or LIBERO file",
                )  # fmt: skip
            demos = tuple(sorted((each for each in data if each.startswith("demo")), key=_natural))
            if not demos:
                raise UserError(
                    where, got="no data/demo_k", expected="at least one demonstration", do="download it again"
                )
            splits = _splits(root)
            absent = max(len(set(splits or ()) - set(demos)), int(data.attrs.get("num_demos", 0)) - len(demos), 0)
            if absent and not options.allow_missing:
                raise _DamagedError(
                    where,
                    got=f"{absent} of its demonstrations absent",
                    expected="all that its masks or num_demos speak of",
                    do="download it again, or take what is there with --allow-missing",
                )
            return _File(path, name, facts_of(root, path, demos, options.dataset), demos, splits, absent)
    except UserError:
        raise
    except _DAMAGE as error:
        raise _DamagedError(
            where, got=" ".join(str(error).split()), expected="a whole HDF5 file", do="download it again"
        ) from error


def _splits(root: Any) -> dict[str, Split] | None:
    """What `mask/train` and `mask/valid` say; without `mask/train`, all that is not in `mask/valid` is for training."""
    found: dict[str, Split] = {}
    mask = root.get("mask", {})
    if "train" not in mask and "valid" not in mask:
        return None
    if "train" not in mask:
        found = dict.fromkeys((name for name in root["data"]), "train")
    for name, split in (("train", "train"), ("valid", "heldout")):
        if name in mask:
            found |= dict.fromkeys((demo.decode() for demo in mask[name]), split)
    return found


def _natural(name: str) -> tuple[int, str]:
    digits = "".join(letter for letter in name if letter.isdigit())
    return int(digits or 0), name


def _same(first: _File, other: _File) -> None:
    """Refuse files that cannot be one source."""
    for what in (
        "layout",
        "cameras",
        "upside_down",
        "state_dim",
        "action_dim",
        "control_mode",
        "rate_hz",
        "embodiment",
    ):
        got, expected = getattr(other.facts, what), getattr(first.facts, what)
        if got != expected:
            raise UserError(
                f"HDF5 file {other.path}, {what}",
                got=got,
                expected=f"{expected} as in {first.name}",
                do="convert the two as sources of their own",
            )


def _notes(files: Sequence[_File]) -> list[str]:
    notes = list(dict.fromkeys(note for file in files for note in file.facts.notes))
    notes.append("Actions are kept as recorded, idle (no-op) steps included.")
    notes += [
        f"{file.name}: {file.absent} demonstrations that it speaks of are absent." for file in files if file.absent
    ]
    if masked := sum(file.splits is not None for file in files):
        notes.append(f"The held-out split is mask/valid in {masked} of {len(files)} files.")
    notes.append("The files state no licence.")
    return notes
