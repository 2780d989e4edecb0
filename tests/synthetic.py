"""A tiny synthetic world: one source of each kind, in shards, with everything a real source may have."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pi05_train.data.sources.index import Index, build_index
from pi05_train.samples.card import SourceCard, check_card
from pi05_train.samples.schema import CAMERAS, Box, Sample
from pi05_train.samples.shards import write_shards

IMAGE_SIZE = 56
CHUNK_STEPS = 12
EPISODES = 8
FRAMES = 5

CARDS = {
    card.name: card
    for card in (
        SourceCard(
            name="toy_mobile", kind="MM", shards="toy_mobile", cameras=["base_0_rgb", "left_wrist_0_rgb"],
            embodiment="toy mobile arm", control_mode="end effector", rate_hz=10.0, state_dim=4, action_dim=4,
            delta_mask=[True, True, True], licence="CC0-1.0", origin="tests/synthetic.py",
        ),
        SourceCard(
            name="toy_arm", kind="ME", shards="toy_arm", cameras=["base_0_rgb"],
            embodiment="toy arm", control_mode="end effector", rate_hz=20.0, state_dim=4, action_dim=4,
            delta_mask=[True, True, True, False], licence="CC0-1.0", origin="tests/synthetic.py",
        ),
        SourceCard(
            name="toy_bimanual", kind="CE", shards="toy_bimanual",
            cameras=["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"],
            embodiment="toy two arms", control_mode="joint", rate_hz=50.0, state_dim=14, action_dim=14,
            licence="CC0-1.0", origin="tests/synthetic.py",
        ),
        SourceCard(
            name="toy_subtasks", kind="HL", shards="toy_subtasks", cameras=list(CAMERAS),
            embodiment="toy mobile arm", state_dim=4, licence="CC0-1.0", origin="tests/synthetic.py",
        ),
        SourceCard(
            name="toy_web", kind="WD", shards="toy_web", cameras=["base_0_rgb"],
            licence="CC0-1.0", origin="tests/synthetic.py",
        ),
        SourceCard(
            name="toy_verbal", kind="VI", shards="toy_verbal", cameras=["base_0_rgb", "base_1_rgb"],
            embodiment="toy mobile arm", state_dim=4, licence="CC0-1.0", origin="tests/synthetic.py",
        ),
    )
}  # fmt: skip

_COLOURS = ("red", "green", "blue", "yellow")
_THINGS = ("cup", "plate", "drawer", "towel")


def write_synthetic_world(
    root: Path, *, samples_per_shard: int = 16, index: bool = True, image_size: int = IMAGE_SIZE
) -> dict[str, SourceCard]:
    """Write the shards (and, unless told otherwise, the indexes) of every card under `root`; the cards by name."""
    for card in CARDS.values():
        check_card(card)
        samples = synthetic_samples(card, image_size=image_size)
        write_shards(root / card.shards, samples, samples_per_shard=samples_per_shard)
        if index:
            build_index(root / card.shards)
    return dict(CARDS)


def synthetic_samples(
    card: SourceCard, *, episodes: int = EPISODES, frames: int = FRAMES, image_size: int = IMAGE_SIZE
) -> list[Sample]:
    """`episodes * frames` samples in a fixed shuffled order; episode 3 mod 4 is held out, episode 2 mod 4 failed."""
    rng = np.random.default_rng([ord(letter) for letter in card.name])
    samples = [
        _sample(card, rng, episode, frame, frames, image_size) for episode in range(episodes) for frame in range(frames)
    ]
    return [samples[i] for i in rng.permutation(len(samples))]


def synthetic_jpeg(rng: np.random.Generator, *, height: int = IMAGE_SIZE, width: int = IMAGE_SIZE) -> bytes:
    """A picture of a few soft blobs."""
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _sample(
    card: SourceCard, rng: np.random.Generator, episode: int, frame: int, frames: int, image_size: int
) -> Sample:
    colour, thing = _COLOURS[episode % 4], _THINGS[(episode // 2) % 4]
    sample = Sample(
        key=f"{episode:08d}_{frame:06d}",
        source=card.name,
        kind=card.kind,  # type: ignore[arg-type]
        images={camera: synthetic_jpeg(rng, height=image_size, width=image_size) for camera in card.cameras},
        embodiment=card.embodiment,
        environment_id=f"{card.name}_room_{episode % 5}",
        episode=episode,
        frame=frame,
        split="heldout" if episode % 4 == 3 else "train",
        success=episode % 4 != 2,
        provenance={"generator": "tests/synthetic.py"},
    )
    if card.state_dim:
        sample = replace(sample, state=rng.normal(size=card.state_dim).astype(np.float32))
    if card.has_actions:
        assert sample.state is not None
        valid = np.arange(CHUNK_STEPS) < (frames - frame) * 3
        return replace(
            sample,
            task=f"pick up the {colour} {thing}",
            actions=_smooth_chunk(rng, sample.state, card.action_dim, int(valid.sum())),
            action_valid=valid,
            control_mode=card.control_mode,
            rate_hz=card.rate_hz,
        )
    box = Box(thing, 0.1 + 0.02 * episode, 0.2, 0.6, 0.7 + 0.02 * frame)
    if card.kind == "HL":
        return replace(sample, task="tidy the room", subtask=f"pick up the {colour} {thing}", boxes=(box,))
    if card.kind == "VI":
        said = f"now take the {colour} one"
        return replace(sample, task="tidy the room", subtask=f"pick up the {colour} {thing}", verbal_instruction=said)
    return replace(sample, question=f"what colour is the {thing}?", answer=colour)


def _smooth_chunk(
    rng: np.random.Generator, state: NDArray[np.float32], action_dim: int, valid_steps: int
) -> NDArray[np.float32]:
    """[CHUNK_STEPS, action_dim]: a slow sine that leaves the state; the last valid step is repeated to the end."""
    steps = np.arange(CHUNK_STEPS)[:, None] / CHUNK_STEPS
    phase, amplitude = rng.uniform(0, np.pi, action_dim), rng.uniform(0.05, 0.5, action_dim)
    chunk = state[:action_dim] + amplitude * (np.sin(np.pi * steps + phase) - np.sin(phase))
    chunk[valid_steps:] = chunk[valid_steps - 1]
    return chunk.astype(np.float32)


def shard_path(index: Index, row: int) -> Path:
    """The shard of a source on this disk that holds a row."""
    return index.folder / index.shards[int(index.records["shard"][row])].name


def flip(path: Path, place: int) -> None:
    """Flip a bit of the file's byte at `place`."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
