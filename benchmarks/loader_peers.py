"""Other loaders on the samples of `benchmarks/loader.py`, which runs this file in their environments.

    PYTHON -P benchmarks/loader_peers.py streaming|lerobot FOLDER --samples N --seed S

FOLDER holds our shards in `robot/`; the peer's own copy is written beside them once. The last line printed is the
processor time per sample in milliseconds. Nothing of this repository is imported.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import PIL
import torch
from PIL import Image

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
RATE, HORIZON = 50, 50


def samples(folder: Path) -> Iterator[dict[str, bytes]]:
    """Members by extension of every sample, in the order of the shards."""
    for path in sorted((folder / "robot").glob("*.tar")):
        members: dict[str, bytes] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if extension == "json" and members:
                    yield members
                    members = {}
                file = tar.extractfile(member)
                assert file, member.name
                members |= {"key": key.encode(), extension: file.read()}
        yield members


def picture(jpeg: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def streaming(folder: Path, seed: int) -> Iterator[Any]:
    """MDS shards with the same JPEG files; samples shuffled across all shards."""
    import streaming
    from streaming import MDSWriter, StreamingDataset

    place = folder / "mds"
    if not place.exists():
        columns = {"json": "bytes", "lowdim": "bytes"} | dict.fromkeys(CAMERAS, "bytes")
        with MDSWriter(out=str(place), columns=columns, compression=None, hashes=[]) as writer:
            for members in samples(folder):
                jpegs = {camera: members[f"{camera}.jpg"] for camera in CAMERAS}
                writer.write({"json": members["json"], "lowdim": members["lowdim.npz"], **jpegs})
    print(f"mosaicml-streaming {streaming.__version__}, torch {torch.__version__}, pillow {PIL.__version__}")
    dataset = StreamingDataset(local=str(place), shuffle=True, shuffle_algo="py1e", shuffle_seed=seed, batch_size=32)
    while True:
        for sample in dataset:
            numbers = np.load(io.BytesIO(sample["lowdim"]))
            yield json.loads(sample["json"]), numbers, [picture(sample[camera]) for camera in CAMERAS]


def lerobot(folder: Path, seed: int) -> Iterator[Any]:
    """LeRobot's video dataset of the same episodes; frames in random order, each with its chunk of actions."""
    import lerobot
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    place = folder / "lerobot"
    if not place.exists():
        write_lerobot(folder, place)
    ahead = {"action": [step / RATE for step in range(HORIZON)]}
    dataset = LeRobotDataset("local/robot", root=place, delta_timestamps=ahead)
    print(f"lerobot {lerobot.__version__}, torch {torch.__version__}, video by {dataset.video_backend}")
    rng = random.Random(seed)
    while True:
        for row in rng.sample(range(len(dataset)), len(dataset)):
            yield dataset[row]


def write_lerobot(folder: Path, place: Path) -> None:
    """Every episode, frame after frame, through LeRobot's own writer."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    ordered = sorted(samples(folder), key=lambda members: members["key"])
    vector = {"dtype": "float32", "shape": (14,), "names": [f"joint_{joint}" for joint in range(14)]}
    video = {"dtype": "video", "shape": (224, 224, 3), "names": ["height", "width", "channels"]}
    features: dict[str, dict[str, Any]] = {"observation.state": vector, "action": vector}
    features |= {f"observation.images.{camera}": video for camera in CAMERAS}
    dataset = LeRobotDataset.create("local/robot", fps=RATE, root=place, features=features, use_videos=True)
    for number, members in enumerate(ordered):
        if number and members["key"][:8] != ordered[number - 1]["key"][:8]:
            dataset.save_episode()
        numbers = np.load(io.BytesIO(members["lowdim.npz"]))
        frame = {f"observation.images.{camera}": picture(members[f"{camera}.jpg"]) for camera in CAMERAS}
        frame |= {"observation.state": numbers["state"], "action": numbers["actions"][0]}
        dataset.add_frame(frame | {"task": json.loads(members["json"])["task"]})
    dataset.save_episode()
    dataset.finalize()


def main() -> None:
    """Write what is missing, warm up on 16 samples, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=("streaming", "lerobot"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    taken = {"streaming": streaming, "lerobot": lerobot}[options.peer](options.folder, options.seed)
    for _ in range(16):
        next(taken)
    start = time.process_time()
    for _ in range(options.samples):
        next(taken)
    print((time.process_time() - start) / options.samples * 1e3)


if __name__ == "__main__":
    main()
