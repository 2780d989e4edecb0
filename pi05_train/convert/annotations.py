"""Annotations joined to a source that is in shards already: high-level, verbal or subtask-annotated robot samples.

Kind HL gives the task with the subtask and its boxes, VI what a person said with the relabelled subtask, MM, ME and CE
the robot's samples again with `subtask` filled in. Pictures are taken over byte for byte, the split as it was.
For VI `--dataset phrases` makes instructions from the subtasks that the samples have (`phrases.py`).
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from pi05_train.convert.annotation_file import Annotations, Segment, read_annotations
from pi05_train.convert.phrases import asked_for
from pi05_train.convert.pictures import PictureError, picture_size, placement
from pi05_train.convert.source import Dropped, Options, Unit
from pi05_train.errors import UserError
from pi05_train.resources import resource
from pi05_train.samples.card import SourceCard, check_card, load_card
from pi05_train.samples.schema import ACTION_KINDS, Box, Kind, Sample
from pi05_train.samples.shards import parse_sample

PHRASED = "phrases"
"""`options.dataset` for instructions in fixed words."""
_AGAIN = "restore the shard or convert the source again"
_INDEX_AGAIN = "index the source with `pi05 data index`"


@dataclass(frozen=True)
class AnnotatedSource:
    """Shards of ours with annotations; one unit per shard."""

    folder: Path
    options: Options
    annotations: Annotations | None
    """None: instructions in fixed words."""
    card: SourceCard
    units: Sequence[Unit]
    notes: Sequence[str]

    def samples(self, unit: Unit) -> Iterator[Sample | Dropped]:
        """In the shard's order; keys are those of the source."""
        for sample in _shard_samples(self.folder / unit.name):
            if sample.frame % self.options.stride == 0:
                yield self._joined(sample)

    def _joined(self, sample: Sample) -> Sample | Dropped:
        segment = asked_for(sample) if self.annotations is None else self.annotations.at(sample.episode, sample.frame)
        if self.card.has_actions:
            return self._robot(sample, segment)
        if segment is None:
            return Dropped(sample.key, "no annotation at this frame")
        if self.card.kind == "VI" and not segment.instruction:
            return Dropped(sample.key, "no verbal instruction")
        if not sample.task.strip() and self.card.kind == "HL":
            return Dropped(sample.key, "no task")
        try:
            boxes = tuple(
                self._stored(box, sample) for box in segment.boxes_at(sample.frame) if box.camera in sample.images
            )
        except PictureError:
            return Dropped(sample.key, "picture unreadable")
        return replace(
            sample,
            source=self.card.name,
            kind=cast(Kind, self.card.kind),
            subtask=segment.subtask,
            boxes=boxes if self.card.kind == "HL" else (),
            verbal_instruction=segment.instruction if self.card.kind == "VI" else "",
            actions=None,
            action_valid=None,
        )

    def _robot(self, sample: Sample, segment: Segment | None) -> Sample | Dropped:
        if sample.actions is None or sample.action_valid is None:
            return Dropped(sample.key, "no actions")
        steps = min(self.options.horizon, len(sample.actions))
        return replace(
            sample,
            source=self.card.name,
            kind=cast(Kind, self.card.kind),
            subtask=sample.subtask if segment is None else segment.subtask,
            actions=np.ascontiguousarray(sample.actions[:steps]),
            action_valid=sample.action_valid[:steps].copy(),
        )

    def _stored(self, box: Box, sample: Sample) -> Box:
        """The box in fractions of the stored picture."""
        size = None if self.annotations is None else self.annotations.picture_sizes.get(box.camera)
        if size is None:
            return box
        side = picture_size(sample.images[box.camera])[0]
        return placement(*size, replace(self.options, image_size=side)).box(box)


def open_source(path: Path, options: Options) -> AnnotatedSource:
    """The indexed shards in the folder `path` with the annotations in the file `options.dataset` (or `PHRASED`).

    Refuses (UserError) a folder without card or index, shards of another size than indexed, malformed annotations, and
    annotated episodes that the source does not have unless `options.allow_missing`.
    """
    base = _card_of(path)
    if options.kind == "WD" or (options.kind in ACTION_KINDS and not base.has_actions):
        expected = "HL or VI" + (f", or {', '.join(ACTION_KINDS)}" if base.has_actions else "")
        raise UserError(f"annotations of a {base.kind} source, kind", got=options.kind, expected=expected, do="choose")
    shards, table = _index_of(path)
    hashes = f"index {_sha256(path / 'index.json')}"
    if options.dataset == PHRASED:
        if options.kind != "VI":
            raise UserError("annotations, phrases, kind", got=options.kind, expected="VI", do="name a json file for it")
        annotations = None
        notes = ["Nobody said these instructions: they are the samples' subtasks in fixed words."]
    else:
        file = Path(options.dataset)
        annotations = read_annotations(file, base.cameras)
        notes = _notes(_episodes(path, table), base, annotations, options)
        hashes += f", annotations {_sha256(file)}"
    notes = [f"Split and pictures are those of {base.name} ({base.origin or 'origin unknown'}).", *notes]
    origin = f"{base.name} with annotations {Path(options.dataset).name} ({hashes})"
    changes: dict[str, Any] = {} if options.kind in ACTION_KINDS else {"action_dim": 0, "delta_mask": []}
    changes |= {"samples": None, "download_gb": None, "convert": []}
    card = replace(base, name=options.name, kind=options.kind, shards="", origin=origin, **changes)
    units = [Unit(number, name) for number, name in enumerate(shards)]
    return AnnotatedSource(path, options, annotations, card, units, notes)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _notes(there: set[int], base: SourceCard, annotations: Annotations, options: Options) -> list[str]:
    absent = sorted(annotations.segments.keys() - there)
    if absent and not options.allow_missing:
        raise UserError(
            f"annotations of {base.name}",
            got=f"episodes {absent[:5]}{' and more' if len(absent) > 5 else ''}, which the source has not",
            expected="episodes of the source",
            do="correct the numbers, or pass --allow-missing",
        )
    notes = [f"{len(absent)} annotated episodes are absent: {', '.join(map(str, absent[:10]))}."] if absent else []
    silent = len(there - annotations.segments.keys())
    return notes + ([f"{silent} of {len(there)} episodes have no annotation."] if silent else [])


def _episodes(folder: Path, sha256: str) -> set[int]:
    """Numbers of the episodes that the index lists."""
    path = folder / "index.npy"
    got = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
    if got != sha256:
        raise UserError(f"{path}, sha256", got=got, expected=sha256, do=_INDEX_AGAIN)
    return set(np.unique(np.load(path, mmap_mode="r")["episode"]).tolist())


def _card_of(folder: Path) -> SourceCard:
    """The card that a conversion put beside the shards, or the shipped one of the folder's name."""
    shipped = resource("data_mixtures") / "source" / f"{folder.name}.yaml"
    found = sorted(folder.glob("*.yaml")) or ([shipped] if shipped.is_file() else [])
    if len(found) != 1:
        raise UserError(
            f"annotated source {folder}",
            got=f"{len(found)} cards (*.yaml)" if found else "no card",
            expected="the source's card beside its shards",
            do="put its YAML file there",
        )
    card = load_card(found[0])
    check_card(card)
    return card


def _index_of(folder: Path) -> tuple[list[str], str]:
    """(The shards' names, all of them there in the indexed size; sha256 of the index's table)."""
    path = folder / "index.json"
    if not path.is_file():
        raise UserError(f"annotated source {folder}", got="no index.json", expected="an index", do=_INDEX_AGAIN)
    try:
        index = json.loads(path.read_bytes())
        sizes = {str(shard["name"]): shard["size_bytes"] for shard in index["shards"]}
        table = str(index["files"]["index.npy"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(str(path), got=repr(error), expected="an index", do=_INDEX_AGAIN) from error
    for name, size in sizes.items():
        got = (folder / name).stat().st_size if (folder / name).is_file() else "no such file"
        if got != size:
            raise UserError(f"shard {folder / name}, bytes", got=got, expected=f"{size} as indexed", do=_AGAIN)
    return list(sizes), table


def _shard_samples(path: Path) -> Iterator[Sample]:
    key, members = "", dict[str, bytes]()
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name, _, extension = member.name.partition(".")
                if members and name != key:
                    yield parse_sample(members)
                    members = {}
                file = archive.extractfile(member)
                key, members[extension] = name, file.read() if file else b""
    except tarfile.TarError as error:
        raise UserError(f"shard {path}", got=error, expected="a whole tar", do=_AGAIN) from error
    if members:
        yield parse_sample(members)
