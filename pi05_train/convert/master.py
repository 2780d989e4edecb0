"""Master folders (`--tier master`) as a source: samples of another horizon, picture size, stride or kind out of them.

With the name that the folder was made under, what comes out is what the original data would have given.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pi05_train.convert.episodes import anchor_samples
from pi05_train.convert.records import recorded_episode
from pi05_train.convert.source import Dropped, Options, Unit
from pi05_train.convert.video import VideoError
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard, load_card
from pi05_train.samples.schema import ACTION_KINDS, Sample

_END = bytes(2 * tarfile.BLOCKSIZE)
_AGAIN = "restore it, or make the master folder again"


@dataclass(frozen=True)
class _Place:
    """Where an episode's members stand."""

    shard: Path
    members: Mapping[str, tuple[int, int]]
    """Extension to offset and size in bytes."""


@dataclass(frozen=True)
class MasterSource:
    """An opened master folder: one unit per episode."""

    options: Options
    card: SourceCard
    places: Mapping[int, _Place]
    units: Sequence[Unit]
    notes: Sequence[str]

    def samples(self, unit: Unit) -> Iterator[Sample | Dropped]:
        """The episode's samples; a record that is not as it was stored ends the conversion."""
        place = self.places[unit.number]
        with place.shard.open("rb") as file:
            members = {name: _read(file, *where) for name, where in place.members.items()}
        episode = recorded_episode(members, f"{place.shard}, {unit.name}")
        try:
            yield from anchor_samples(episode, self.card, self.options)
        except VideoError as error:
            yield Dropped(f"{unit.number:08d}", str(error), self.options.samples_of(len(episode.state)))


def open_source(path: Path, options: Options) -> MasterSource:
    """The master folder at `path`.

    Refuses (UserError) other folders, damaged or missing shards, another number of episodes than `conversion.json` has
    (unless missing ones are allowed), kinds that its card does not serve, and a `dataset`.
    """
    if options.dataset:
        got, expected = repr(options.dataset), "nothing: it was chosen when the folder was made"
        raise UserError("conversion, dataset", got=got, expected=expected, do="leave it out")
    made = _conversion(path)
    base = load_card(path / f"{made['options']['name']}.yaml")
    if options.kind == "WD" or (options.kind in ACTION_KINDS and not base.has_actions):
        expected = "HL or VI" + f", or {', '.join(ACTION_KINDS)}" * base.has_actions
        raise UserError(f"master folder of kind {base.kind}, kind", got=options.kind, expected=expected, do="choose")
    places = {number: place for shard in sorted(path.glob("shard-*.tar")) for number, place in _places(shard)}
    if len(places) != made["samples"] and not (options.allow_missing and places):
        raise UserError(
            f"master folder {path}, episodes",
            got=len(places),
            expected=f"{made['samples']} as conversion.json has it",
            do="restore its shards, or take what is there with --allow-missing",
        )
    changes: dict[str, Any] = {"tier": "train", "samples": None, "download_gb": None, "convert": []}
    if options.kind not in ACTION_KINDS:
        changes |= {"action_dim": 0, "control_mode": "", "rate_hz": 0.0, "delta_mask": []}
    absent = made["samples"] - len(places)
    return MasterSource(
        options=options,
        card=replace(base, name=options.name, kind=options.kind, shards="", **changes),
        places=places,
        units=[Unit(number, f"episode {number}") for number in sorted(places)],
        notes=[
            *made["notes"],
            *(f"Left out when the master folder was made: {n} episodes, {why}." for why, n in made["dropped"].items()),
            *([f"{absent} episodes of the master folder are absent."] if absent else []),
        ],
    )


def _conversion(path: Path) -> dict[str, Any]:
    """The folder's `conversion.json`, as far as it is needed."""
    record = path / "conversion.json"
    expected, do = "a folder made with --tier master", "name such a folder"
    if not record.is_file():
        raise UserError(f"master folder {path}", got="no conversion.json", expected=expected, do=do)
    try:
        made: dict[str, Any] = json.loads(record.read_bytes())
        tier, _ = made["options"].get("tier", "train"), made["options"]["name"]
        shapes = {"samples": int, "notes": list, "dropped": dict}
        bad = [name for name, kind in shapes.items() if not isinstance(made[name], kind)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(str(record), got=repr(error), expected="what a conversion writes", do=_AGAIN) from error
    if bad:
        raise UserError(f"{record}, {bad[0]}", got=made[bad[0]], expected="what a conversion writes", do=_AGAIN)
    if tier != "master":
        raise UserError(f"master folder {path}, tier", got=repr(tier), expected=expected, do=do)
    return made


def _places(shard: Path) -> Iterator[tuple[int, _Place]]:
    """The shard's episodes by their numbers; only headers are read."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                found.setdefault(key, {})[extension] = (member.offset_data, member.size)
        with shard.open("rb") as file:
            end = _read(file, max(0, shard.stat().st_size - len(_END)), len(_END))
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(f"shard {shard}", got=error, expected="a whole tar", do=_AGAIN) from error
    strange = [key for key in found if not key.isdecimal()]
    if end != _END or strange:  # cut between two members, or of something else
        got = f"the key {strange[0]}" if strange else "a cut file"
        raise UserError(f"shard {shard}", got=got, expected="a whole tar of episodes", do=_AGAIN)
    for key, members in found.items():
        yield int(key), _Place(shard, members)


def _read(file: Any, offset: int, size: int) -> bytes:
    file.seek(offset)
    return bytes(file.read(size))
