"""RLDS episodes (Open X-Embodiment, DROID, BridgeData V2) as TFDS stores them, without TensorFlow.

One record is one episode, a sequence of steps. The action of step i acts on the observation of step i. A step with
`is_last` holds the final observation; RLDS leaves its action undefined, so such a step is neither an anchor nor part of
a chunk: chunks end, repeated and invalid, at the step before. An episode that was cut off has no `is_last`, and all
its steps count. Source: google-research/rlds, README.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi05_train.convert.episodes import Episode
from pi05_train.convert.records import episode_samples
from pi05_train.convert.rlds_datasets import Camera, Entry, find_entry
from pi05_train.convert.rlds_steps import Steps
from pi05_train.convert.source import Dropped, EpisodeRecord, Options, Unit
from pi05_train.convert.tfds import Feature, Shard, Split, read_features, read_info, read_split, splits_there
from pi05_train.convert.tfrecord import MalformedError, parse_example, read_record, record_offsets
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Sample

_FILE_PATH = "episode_metadata/file_path"


@dataclass
class RldsSource:
    """One data set's shards, read by its entry in the table."""

    card: SourceCard
    units: Sequence[Unit]
    notes: Sequence[str]
    options: Options
    entry: Entry
    cameras: tuple[Camera, ...]
    features: Mapping[str, Feature]
    shards: Sequence[Shard]

    def __post_init__(self) -> None:
        self._offsets: tuple[Shard | None, list[int]] = (None, [])

    def samples(self, unit: Unit) -> Iterator[Sample | EpisodeRecord | Dropped]:
        """The episode's samples; a record that is damaged or is not what features.json says ends the conversion."""
        shard = next(shard for shard in reversed(self.shards) if shard.first <= unit.number)
        offset = self._offsets_of(shard)[unit.number - shard.first]
        payload = read_record(shard.path, offset)
        try:
            steps = Steps(parse_example(payload, _wanted(self.entry, self.cameras)), self.features)
            if not steps.count:
                yield Dropped(f"{unit.number:08d}", "no frames")
                return
            kept = _kept(steps, self.entry)
            episode = self._episode(unit, steps, kept)
        except (MalformedError, ValueError) as error:
            raise UserError(
                f"{shard.path}, offset {offset}",
                got=error,
                expected="an episode as features.json describes it",
                do="fetch the data set's files again",
            ) from error
        episode.provenance |= {"file": shard.path.name, "offset": str(offset)}
        yield from _cut_off(unit, steps.count, kept, self.options)
        if len(episode.state):
            yield from episode_samples(episode, self.card, self.options)

    def _offsets_of(self, shard: Shard) -> list[int]:
        """Where the shard's records begin; remembered for the shard that was asked for last."""
        if self._offsets[0] != shard:
            self._offsets = shard, checked_offsets(shard)
        return self._offsets[1]

    def _episode(self, unit: Unit, steps: Steps, kept: slice) -> Episode:
        """The episode's steps that have an action."""
        path = steps.text(_FILE_PATH) if _FILE_PATH in self.features else ""
        task = self._task(unit, steps)
        pictures = {camera.ours: steps.pictures(camera) for camera in self.cameras}
        return Episode(
            number=unit.number,
            task=task if isinstance(task, str) else task[kept],
            state=steps.concatenated(self.entry.state)[kept],
            actions=steps.concatenated(self.entry.actions)[kept],
            cameras={ours: shown[kept] for ours, shown in pictures.items() if shown is not None},
            rate_hz=self.entry.rate_hz,
            success=_succeeded(self.entry, steps),
            provenance={"dataset": self.entry.name} | ({"episode": path} if path else {}),
        )

    def _task(self, unit: Unit, steps: Steps) -> str | Sequence[str]:
        """One instruction per step, or one for all; of alternatives a hash of the episode's number chooses."""
        found = [steps.texts(f"steps/{key}") for key in self.entry.language if f"steps/{key}" in self.features]
        choices = [texts for texts in found if any(text.strip() for text in texts)]
        if not choices:
            return ""
        digest = hashlib.sha256(f"language/{self.options.name}/{unit.number}".encode()).digest()
        chosen = choices[int.from_bytes(digest[:8], "big") % len(choices)]
        return chosen[0] if len(set(chosen)) == 1 else chosen


def open_source(path: Path, options: Options) -> RldsSource:
    """The data set in a TFDS folder (`<name>/<version>`, or `<name>` with one version in it).

    `options.dataset` is the table's name of the data set, `name:split` for another split than train, `name:all` for all
    of them; without it the name in dataset_info.json is looked up. Refuses (UserError) an unknown name, files that lack
    what the entry needs or have it in other shapes, and absent shards.
    """
    folder = _version_folder(path)
    info, features = read_info(folder), read_features(folder)
    name, _, split = options.dataset.partition(":")
    entry = find_entry(name or str(info.get("name", "")))
    cameras = _cameras_there(folder, entry, features)
    _check_features(folder, entry, features)
    there = splits_there(folder)
    chosen = (there or ["train"]) if split == "all" else [split or "train"]
    splits: list[Split] = []
    for part in chosen:
        first = splits[-1].end if splits else 0
        splits.append(read_split(folder, info, part, allow_missing=options.allow_missing, first=first))
    shards = [shard for part in splits for shard in part.shards]
    units = [
        Unit(shard.first + record, f"{shard.path.name} record {record}")
        for shard in shards
        for record in range(shard.records)
    ]
    if not units:
        raise UserError(f"{folder}", got="shards without records", expected="episodes", do="fetch the shards again")
    licence = _licence(folder)
    card = SourceCard(
        name=options.name,
        kind=options.kind,
        shards="",
        description=f"{entry.name}, from RLDS: {entry.note or entry.embodiment}.",
        cameras=[camera.ours for camera in cameras],
        embodiment=entry.embodiment,
        control_mode=entry.control_mode,
        rate_hz=entry.rate_hz,
        state_dim=entry.state_dim,
        action_dim=entry.action_dim,
        delta_mask=list(entry.delta_mask),
        licence=licence,
        origin=f"RLDS {info.get('name', entry.name)} {info.get('version', '')}".rstrip(),
    )
    notes = _notes(entry, cameras, features)
    notes += [f"Splits left out: {', '.join(left)}."] if (left := _other_splits(info, there, chosen)) else []
    notes += ["Steps whose action was never commanded are not in the master folder."] * (options.tier == "master")
    notes += [f"{absent} shards are absent."] if (absent := sum(part.absent for part in splits)) else []
    notes += [] if licence else [f"No licence stands in {folder.name}: find it before you publish anything."]
    return RldsSource(card, units, notes, options, entry, cameras, features, shards)


def _other_splits(info: Mapping[str, Any], there: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """Splits that are not converted, whether their files are there or only dataset_info.json names them."""
    named = {str(entry.get("name", "")) for entry in info.get("splits", [])}
    return [name if name in there else f"{name} (no files)" for name in sorted((named | set(there)) - set(chosen))]


def checked_offsets(shard: Shard) -> list[int]:
    """Where the shard's records begin; refuses (UserError) another number of them than dataset_info.json has."""
    offsets = record_offsets(shard.path)
    if len(offsets) != shard.records:
        expected = f"{shard.records} as dataset_info.json has it"
        raise UserError(f"{shard.path}, records", got=len(offsets), expected=expected, do="fetch the file again")
    return offsets


def _kept(steps: Steps, entry: Entry) -> slice:
    """The steps whose action was commanded."""
    last = "steps/is_last" in steps.features and steps.numbers("steps/is_last")[-1].any()
    return slice(min(entry.skip_first, steps.count), steps.count - bool(last))


def _cut_off(unit: Unit, count: int, kept: slice, options: Options) -> Iterator[Dropped]:
    """How many samples it costs that steps without an action are no anchors."""
    lengths = (count, count - kept.start, max(kept.stop - kept.start, 0))
    samples = [options.samples_of(length) for length in lengths]
    key = f"{unit.number:08d}"
    for reason, before, after in zip(("first", "last"), samples, samples[1:], strict=False):
        if before > after:
            yield Dropped(key, f"{reason} step has no action", before - after)


def _succeeded(entry: Entry, steps: Steps) -> bool:
    if not entry.success_key:
        return True
    if entry.success_word:
        return entry.success_word in steps.text(entry.success_key)
    values = steps.numbers(entry.success_key)
    return bool(values[-1].all()) if len(values) else False


def _wanted(entry: Entry, cameras: Sequence[Camera]) -> set[str]:
    """Names of the features that are read: the others of a record (depth, embeddings) are not even decoded."""
    keys = {part.key for part in (*entry.state, *entry.actions)} | {camera.key for camera in cameras}
    wanted = {f"steps/{key}" for key in keys | set(entry.language) | {"is_first", "is_last"}}
    return wanted | {_FILE_PATH} | ({entry.success_key} if entry.success_key else set())


def _check_features(folder: Path, entry: Entry, features: Mapping[str, Feature]) -> None:
    """Refuse files that do not have what the entry reads."""
    where = f"{folder / 'features.json'}"
    languages = [f"steps/{key}" for key in entry.language]
    needed = ["steps/is_first", *(f"steps/{part.key}" for part in (*entry.state, *entry.actions)), languages[0]]
    needed += [entry.success_key] if entry.success_key else []
    if absent := [name for name in dict.fromkeys(needed) if name not in features]:
        do = "name the data set that the files hold"
        raise UserError(where, got=f"no {', '.join(absent)}", expected=f"the features of {entry.name}", do=do)
    for part in (*entry.state, *entry.actions):
        shape = features[f"steps/{part.key}"].shape
        if shape not in {(part.of,)} | ({()} if part.of == 1 else set()):
            raise UserError(
                f"{where}, steps/{part.key}",
                got=f"shape {list(shape)}",
                expected=f"[{part.of}] as {entry.name} has it",
                do="name the data set that the files hold",
            )


def _cameras_there(folder: Path, entry: Entry, features: Mapping[str, Feature]) -> tuple[Camera, ...]:
    there = tuple(c for c in entry.cameras if (f := features.get(f"steps/{c.key}")) and f.encoding == "image")
    absent = [f"steps/{camera.key}" for camera in entry.cameras if camera not in there and not camera.optional]
    if absent or not there:
        raise UserError(
            f"{folder / 'features.json'}",
            got=f"no pictures {', '.join(absent)}",
            expected=f"the cameras of {entry.name}",
            do="name the data set that the files hold",
        )
    return there


def _notes(entry: Entry, cameras: Sequence[Camera], features: Mapping[str, Feature]) -> list[str]:
    """What a person should know of the table's entry and of what it leaves out."""
    used = {f"steps/{camera.key}" for camera in cameras}
    left_out = sorted(name for name, f in features.items() if f.encoding == "image" and name not in used)
    checked = "was checked on real files" if entry.checked else "comes from public sources, not from real files"
    renamed = ", ".join(f"{camera.key} is {camera.ours}" for camera in cameras)
    notes = [f"The key map of {entry.name} {checked} ({', '.join(entry.sources)}).", f"Cameras: {renamed}."]
    notes += [f"Gripper as stored: {entry.gripper}; commands become 0 = open, 1 = closed where that is known."]
    notes += [f"{entry.name}: {entry.note}."] if entry.note else []
    notes += [f"Pictures left out: {', '.join(left_out)}."] if left_out else []
    exchanged = [c.key for c in cameras if c.blue_first and c.blue_first == features[f"steps/{c.key}"].shape[:2]]
    notes += [f"Red and blue were exchanged in {', '.join(exchanged)}."] if exchanged else []
    return notes


def _version_folder(path: Path) -> Path:
    if (path / "features.json").is_file():
        return path
    versions = sorted(found.parent for found in path.glob("*/features.json"))
    if len(versions) == 1:
        return versions[0]
    got = f"the versions {[version.name for version in versions]}" if versions else "no features.json"
    raise UserError(f"{path}", got=got, expected="a folder that TFDS prepared", do="name the folder of one version")


def _licence(folder: Path) -> str:
    """The first line of the folder's LICENSE file, or ""."""
    path = folder / "LICENSE"
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return next((line.strip() for line in lines if line.strip()), "")
