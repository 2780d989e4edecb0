"""Processor time of a sample out of the loader, against reading and decoding alone and against other loaders.

A robot's samples (`benchmarks/robot_world.py`: three cameras of 224 pixels, a state and 50 actions of 14 joints) come

- raw: one read of the sample's bytes and its JPEG pictures decoded, by simplejpeg as the loader does it, or by Pillow
  as the peers do;
- out of our loader in a fully shuffled order, checksums verified: as decoded samples, which is what the others give;
  as packed batches of a stage that trains the flow alone; and as packed batches with FAST tokens of the 50 actions
  (padded to 32 dims) as well;
- with `--peers`, from webdataset (the same tars one after another, its own decoding to RGB arrays), from
  mosaicml-streaming (the same JPEG files in its MDS shards, shuffled by `py1e`, decoded by Pillow) and from LeRobot's
  dataset (its own AV1 video of the same pictures, frames in random order, with the 50 actions).

Every contestant takes its turn in every round, in one process with one thread (DataLoader workers: 0); the number is
the median of its rounds. It is processor time, which a busy machine falsifies least: 1 / it is samples/s per core.

Run: uv run python -m benchmarks.loader [--rounds 5] [--samples 512]
         [--peers --streaming-python STREAMING/bin/python --lerobot-python LEROBOT/bin/python]

The two interpreters come from environments of their own, since these packages pin what we do not:

    uv venv --python 3.11 STREAMING && uv pip install --python STREAMING/bin/python mosaicml-streaming==0.13.0
    uv venv --python 3.11 LEROBOT && uv pip install --python LEROBOT/bin/python lerobot==0.4.4

LeRobot decodes with torchcodec, which looks for FFmpeg's shared libraries (4 to 8) in LD_LIBRARY_PATH.
"""

from __future__ import annotations

import argparse
import copy
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import PIL
import simplejpeg
import torch
from PIL import Image

from benchmarks.robot_world import CARD, write_robot_world
from pi05_train.data.loading.loader import make_loader
from pi05_train.data.loading.micro_batches import of_equal_number
from pi05_train.data.loading.quarantine import Quarantine
from pi05_train.data.loading.reader import Reader
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.schedule import Schedule
from pi05_train.processing.images import decode_jpeg
from pi05_train.processing.processor import Processor
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from tests.synthetic import shard_path

GLOBAL_BATCH, MICRO_BATCH = 64, 32


def milliseconds_each(parts: Iterator[int], samples: int) -> float:
    """Processor time per sample of taking at least `samples` of them in parts, each of the yielded size."""
    next(parts)
    start, taken = time.process_time(), 0
    while taken < samples:
        taken += next(parts)
    return (time.process_time() - start) / taken * 1e3


def by_pillow(jpeg: bytes) -> None:
    np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def raw(reader: Reader, schedule: Schedule, seed: int, decode: Callable[[bytes], object]) -> Iterator[int]:
    """Each drawn sample is read, and its pictures decoded."""
    index = reader.mixture.indexes[CARD.name]
    for step in count(seed):
        for draw in schedule.draws(step):
            row = int(reader.mixture.rows[CARD.name][draw.row])
            with shard_path(index, row).open("rb", buffering=0) as file:
                file.seek(int(index.records["offset"][row]))
                content = file.read(int(index.records["length"][row]))
            for part in content.split(b"\xff\xd8\xff")[1:]:
                decode(b"\xff\xd8\xff" + part)
            yield 1


def decoded(reader: Reader, schedule: Schedule, seed: int) -> Iterator[int]:
    """Each drawn sample as `Reader` gives it, checked and parsed, and its pictures decoded."""
    for step in count(seed):
        for draw in schedule.draws(step):
            for jpeg in reader.read(draw.source, draw.row).images.values():
                decode_jpeg(jpeg)
            yield 1


def loaded(reader: Reader, schedule: Schedule, processor: Processor, run_folder: Path, seed: int) -> Iterator[int]:
    """Packed batches out of the loader, from step `seed` on."""
    steps = make_loader(
        reader.mixture, schedule, reader, processor,
        division=of_equal_number(MICRO_BATCH), flow_draws=1, start_step=seed, stop_step=seed + 10_000, num_workers=0,
        quarantine=Quarantine(run_folder, reader.mixture),
    )  # fmt: skip
    return (batch.num_segments for _, batches in steps for batch in batches)


def sequential_webdataset(folder: Path) -> Iterator[int]:
    """The same tars from front to back, members decoded by webdataset (pictures by Pillow)."""
    import webdataset

    tars = sorted(str(path) for path in folder.glob("*.tar"))
    while True:
        for _ in webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"):
            yield 1


def elsewhere(python: Path, peer: str, folder: Path, samples: int, seed: int) -> float:
    """Milliseconds per sample that `benchmarks/loader_peers.py` measures in another environment."""
    script = Path(__file__).with_name("loader_peers.py")
    command = [str(python), "-P", str(script), peer, str(folder), "--samples", str(samples), "--seed", str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{peer}: {done.stderr}")
    *notes, last = done.stdout.splitlines()
    if seed == 0:
        print("\n".join(notes))
    return float(last)


def contestants(root: Path, processor: Processor, options: argparse.Namespace) -> dict[str, Callable[[int], float]]:
    """By name, what measures a round's milliseconds per sample."""
    mixture = Mixture.open(MixtureConfig("robot", {CARD.name: SourceEntry(CARD, weight=1.0)}), root)
    reader = Reader(mixture)
    schedule = Schedule(0, mixture.names, mixture.sizes, mixture.shares, GLOBAL_BATCH)
    flow_only = copy.copy(processor)
    flow_only.stage_has_text = False
    samples, shards = options.samples, root / CARD.shards
    measured = {
        "raw": lambda i: milliseconds_each(raw(reader, schedule, i, decode_jpeg), samples),
        "raw, by Pillow": lambda i: milliseconds_each(raw(reader, schedule, i, by_pillow), samples),
        "ours, decoded samples": lambda i: milliseconds_each(decoded(reader, schedule, i), samples),
        "ours, flow batches": lambda i: milliseconds_each(loaded(reader, schedule, flow_only, root, i), samples),
        "ours, FAST batches": lambda i: milliseconds_each(loaded(reader, schedule, processor, root, i), samples),
    }
    if options.peers:
        measured |= {
            "webdataset": lambda _: milliseconds_each(sequential_webdataset(shards), samples),
            "mosaicml-streaming": lambda i: elsewhere(options.streaming_python, "streaming", root, samples, i),
            "lerobot": lambda i: elsewhere(options.lerobot_python, "lerobot", root, samples // 4, i),
        }
    return measured


def main() -> None:
    """Print the settings, and of every contestant the rounds, their median, samples/s and the ratios to ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--streaming-python", type=Path)
    parser.add_argument("--lerobot-python", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions = {"torch": torch, "pillow": PIL, "simplejpeg": simplejpeg, "numpy": np}
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, "
        + ", ".join(f"{name} {module.__version__}" for name, module in versions.items())
        + f", warm page cache, load average {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        processor = write_robot_world(root)
        measured = contestants(root, processor, options)
        rounds = [{name: measure(i) for name, measure in measured.items()} for i in range(options.rounds)]
    ours = [name for name in measured if name.startswith("ours")]
    print("processor time per sample: median and range, samples/s per core; rate over it of", "; ".join(ours))
    for name in measured:
        times = [one[name] for one in rounds]
        ratios = [statistics.median(one[name] / one[mine] for one in rounds) for mine in ours]
        middle = statistics.median(times)
        print(
            f"{name:22s}{middle:7.3f} ms ({min(times):.3f} to {max(times):.3f}){1e3 / middle:10.0f}   "
            + " ".join(f"{ratio:6.2f}" for ratio in ratios)
        )


if __name__ == "__main__":
    main()
