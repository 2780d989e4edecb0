"""A foreign source made of painted frames: the frame number is in the picture, the state and the action."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pi05_train.convert.episodes import Episode
from pi05_train.convert.records import episode_samples
from pi05_train.convert.source import Dropped, EpisodeRecord, Options, Unit
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import parse_sample

BITS = 16
STATE_DIM, ACTION_DIM = 3, 2


def painted(number: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """[height, width, 3]: the number as a row of black and white stripes, high bit left."""
    bits = np.array([number >> bit & 1 for bit in reversed(range(BITS))], np.uint8)
    stripes = np.repeat(bits * 255, width // BITS)
    return np.broadcast_to(stripes[None, :, None], (height, width, 3)).copy()


def read_painted(jpeg: bytes) -> int:
    """The number in a stored picture, whose longer side is its width."""
    pixels = np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))
    middle, stripe = pixels[pixels.shape[0] // 2], pixels.shape[1] / BITS
    return sum(int(middle[int((place + 0.5) * stripe)] > 127) << (BITS - 1 - place) for place in range(BITS))


@dataclass(frozen=True)
class FakeSource:
    """What `open_source` gives; `lengths` are the episodes' frames."""

    path: Path
    options: Options
    card: SourceCard
    units: Sequence[Unit]
    notes: Sequence[str]
    lengths: Sequence[int]

    def samples(self, unit: Unit) -> Iterator[Sample | EpisodeRecord | Dropped]:
        content = json.loads(self.path.read_text())
        for command in content.get("commands", {}).get(str(unit.number), []):
            if command == "refuse":
                raise UserError(unit.name, got="a cut file", expected="a whole one", do="fetch it again")
            if command == "die":
                os._exit(9)
            if command == "same number":
                unit = Unit(0, unit.name)
        episode = fake_episode(unit.number, self.lengths[unit.number], content)
        yield from episode_samples(episode, self.card, self.options)


def fake_episode(number: int, frames: int, content: dict[str, dict[str, list[str]]]) -> Episode:
    """Frame f carries 256 * number + f everywhere; `content["commands"]` spoils single episodes."""
    values = 256 * number + np.arange(frames)
    state = np.repeat(values[:, None], STATE_DIM, axis=1).astype(np.float32)
    actions = np.repeat(values[:, None], ACTION_DIM, axis=1).astype(np.float32)
    commands = content.get("commands", {}).get(str(number), [])
    pictures = [painted(int(value)) for value in values]
    if "nan" in commands:
        actions[-1, 0] = np.nan
    if "dims" in commands:
        state = state[:, :-1]
    if "short video" in commands:
        pictures = pictures[:-1]
    return Episode(
        number=number,
        task="" if "silent" in commands else f"do {number}",
        state=state,
        actions=actions,
        cameras={
            "left_wrist_0_rgb": iter(pictures),
            "base_0_rgb": (b"\xff\xd8 cut" if "cut" in commands and i == 0 else p for i, p in enumerate(pictures)),
        },
        rate_hz=10.0,
        environment_id=f"room {number}",
        provenance={"file": f"episode {number}"},
    )


def card_of(options: Options) -> SourceCard:
    return SourceCard(
        name=options.name,
        kind=options.kind,
        shards="",
        cameras=["base_0_rgb", "left_wrist_0_rgb"],
        embodiment="fake arm",
        control_mode="joint",
        rate_hz=10.0,
        state_dim=STATE_DIM,
        action_dim=ACTION_DIM,
        licence="CC0-1.0",
        origin="tests",
    )


def open_source(path: Path, options: Options) -> FakeSource:
    """Reads {"lengths": [frames of each episode], "commands": {episode: [...]}, "notes": [...]}."""
    content = json.loads(path.read_text())
    card = card_of(options)
    units = [Unit(number, f"episode {number}") for number in range(len(content["lengths"]))]
    return FakeSource(path, options, card, units, content.get("notes", []), content["lengths"])


def read_shards(folder: Path) -> list[Sample]:
    """Every sample of the folder's shards in their order, through tarfile alone."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                file = archive.extractfile(member)
                assert file is not None
                found.setdefault(key, {})[extension] = file.read()
    return [parse_sample(members) for members in found.values()]
