"""What a format gives the engine: a card, independent units of work, and the samples of each unit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pi05_train.errors import UserError
from pi05_train.samples.card import TIERS, SourceCard
from pi05_train.samples.schema import KINDS, Sample, Split


@dataclass(frozen=True)
class Options:
    """What a person chooses, the same for every format. Two conversions with equal options give the same bytes."""

    name: str
    """The source's name: the card's, and `Sample.source`."""
    kind: str
    """MM, ME, CE, HL, WD or VI."""
    horizon: int = 64
    """Steps stored per action chunk (H_max); a model may be trained on any smaller number."""
    image_size: int = 224
    """Side of the square pictures in pixels; pictures keep their aspect, the rest is black."""
    jpeg_quality: int = 95
    stride: int = 1
    """Every how many frames one becomes an anchor."""
    heldout: float = 0.05
    """Share of the episodes (or pictures) that are held out, by a hash of the source's name and theirs."""
    allow_missing: bool = False
    """Take what is there instead of refusing a source whose files are not all there."""
    dataset: str = ""
    """Which entry of the format's table (RLDS: bridge, droid ...); "" where the format needs none."""
    tier: str = "train"
    """"train": a sample per anchor. "master": whole episodes as they are; horizon, pictures and stride play no part."""

    def anchors(self, frames: int) -> range:
        """The frames of an episode that may become samples; what people say (VI) may stand at any."""
        return range(0, frames, 1 if self.kind == "VI" else self.stride)

    def samples_of(self, frames: int) -> int:
        """How many samples an episode of that many frames would give."""
        return min(frames, 1) if self.tier == "master" else len(self.anchors(frames))


def check_options(options: Options) -> None:
    """Refuse options with which nothing could be converted."""

    def require(good: bool, what: str, got: object, expected: str) -> None:
        if not good:
            raise UserError(f"conversion, {what}", got=got, expected=expected, do="correct it")

    require(options.kind in KINDS, "kind", repr(options.kind), "one of " + ", ".join(KINDS))
    plain = options.name.replace("_", "").replace("-", "")
    require(plain.isalnum() and plain.isascii(), "name", repr(options.name), "letters, digits, - and _")
    require(options.tier in TIERS, "tier", repr(options.tier), " or ".join(TIERS))
    require(options.horizon >= 1, "horizon", options.horizon, "at least 1 step")
    require(16 <= options.image_size <= 4096, "image_size", options.image_size, "16 to 4096 pixels")
    require(50 <= options.jpeg_quality <= 100, "jpeg_quality", options.jpeg_quality, "50 to 100")
    require(options.stride >= 1, "stride", options.stride, "at least 1 frame")
    require(0 <= options.heldout < 1, "heldout", options.heldout, "a share from 0 to below 1")


@dataclass(frozen=True)
class Unit:
    """One independent piece of work: an episode, a file, a block of pictures."""

    number: int
    """Stable, whatever else is there; of a unit that is one episode it is `Sample.episode`."""
    name: str
    """What a person calls it: shown as progress and in messages."""


@dataclass(frozen=True)
class Dropped:
    """What the source holds and the conversion leaves out."""

    key: str
    reason: str
    """A short fixed phrase to count by: "NaN in actions", "no instruction", "picture unreadable"."""
    samples: int = 1
    """How many samples it would have given, where that is known."""


@dataclass(frozen=True)
class EpisodeRecord:
    """A whole episode as tier master stores it (`records.py`)."""

    key: str
    """The episode's number, "{episode:08d}"."""
    members: Mapping[str, bytes]
    """Extension ("json", "lowdim.npz", "base_0_rgb.mp4") to content, in the order of the shard."""


class ForeignSource(Protocol):
    """An opened data set of some format.

    Opening reads metadata only and refuses (UserError) what is no such data set. It happens once in the main process
    and once in every worker process, and must give the same units each time.
    """

    @property
    def card(self) -> SourceCard:
        """All facts the files tell. `shards` is "": the engine fills it in."""

    @property
    def units(self) -> Sequence[Unit]:
        """In a stable order."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences for the conversion's report: absent episodes, renamed cameras, an unknown licence."""

    def samples(self, unit: Unit) -> Iterator[Sample | EpisodeRecord | Dropped]:
        """The unit's samples (tier master: its episodes), the same each time; keys are unique in the whole source.

        A UserError ends the conversion; data that is bad in itself is `Dropped`.
        """


OpenSource = Callable[[Path, Options], ForeignSource]
"""A format's `open_source`: a module's function, so that worker processes find it by name."""


def split_of(options: Options, episode: int | str) -> Split:
    """Whether the episode (or picture) is held out: a hash decides, so more data changes no earlier choice."""
    digest = hashlib.sha256(f"heldout/{options.name}/{episode}".encode()).digest()
    return "heldout" if int.from_bytes(digest[:8], "big") < options.heldout * 2**64 else "train"
