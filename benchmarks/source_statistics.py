"""Frames per second of `pi05 data stats`, and what ten million frames would take.

The source is made up: 14 joints, chunks of 64 steps of which 50 count, three pictures of random bytes per frame.

Run: uv run python -m benchmarks.source_statistics [--frames 120000] [--picture-bytes 500]
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pi05_train.data.sources import sketch
from pi05_train.data.sources.index import Index, build_index
from pi05_train.data.sources.lowdim import read_blocks
from pi05_train.data.sources.statistics import tally_source
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import CAMERAS, Sample
from pi05_train.samples.shards import write_shards

DIMS, STORED_STEPS, HORIZON, EPISODE_FRAMES, MANY = 14, 64, 50, 200, 10_000_000
CARD = SourceCard(
    name="made_up", kind="CE", shards=".", cameras=[CAMERAS[0], *CAMERAS[2:]], embodiment="two arms",
    control_mode="joint", rate_hz=50.0, state_dim=DIMS, action_dim=DIMS, delta_mask=[True] * DIMS,
)  # fmt: skip


def samples(frames: int, picture_bytes: int) -> Iterator[Sample]:
    """Random walks with pictures that cannot be told from real ones unless they are decoded."""
    rng = np.random.default_rng(0)
    valid = np.ones(STORED_STEPS, bool)
    for number in range(frames):
        episode, frame = divmod(number, EPISODE_FRAMES)
        walk = np.cumsum(rng.normal(scale=0.01, size=(STORED_STEPS, DIMS)), axis=0).astype(np.float32)
        yield Sample(
            key=f"{episode:08d}_{frame:06d}", source=CARD.name, kind="CE", task="fold the towel",
            images={camera: b"\xff\xd8" + rng.bytes(picture_bytes) + b"\xff\xd9" for camera in CARD.cameras},
            state=walk[0], actions=walk, action_valid=valid, embodiment=CARD.embodiment,
            control_mode=CARD.control_mode, rate_hz=CARD.rate_hz, episode=episode, frame=frame,
        )  # fmt: skip


def main() -> None:
    """Print the settings and the rates, of everything and of the reading alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=120_000)
    parser.add_argument("--picture-bytes", type=int, default=500)
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, numpy {np.__version__}, "
        f"warm page cache, load average {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder, samples(options.frames, options.picture_bytes))
        build_index(folder)
        gigabytes = sum(path.stat().st_size for path in folder.glob("*.tar")) / 1e9
        print(
            f"{options.frames} frames of {DIMS} joints, {HORIZON} of {STORED_STEPS} steps, 3 pictures of "
            f"{options.picture_bytes} bytes, {gigabytes:.2f} GB in shards"
        )
        index = Index.open(folder)
        start = time.perf_counter()
        read = sum(len(block.rows) for block in read_blocks(index, np.arange(len(index))))
        print(f"reading the numbers alone: {read / (time.perf_counter() - start):.0f} frames/s")
        for workers in (1, 2):
            measure(folder, f"{workers} process{'es' if workers > 1 else ''}", workers)
        sketch.EXACT = 0
        measure(folder, "1 process, every number in a bin as in a large source", 1)


def measure(folder: Path, what: str, workers: int) -> None:
    """Print the rate of the whole pass."""
    start = time.perf_counter()
    tally = tally_source(folder, CARD, HORIZON, workers=workers)
    seconds = time.perf_counter() - start
    rate = tally.samples / seconds
    minutes = MANY / rate / 60
    print(f"statistics, {what}: {rate:.0f} frames/s in {seconds:.1f} s; {MANY / 1e6:.0f} M frames: {minutes:.1f} min")


if __name__ == "__main__":
    main()
