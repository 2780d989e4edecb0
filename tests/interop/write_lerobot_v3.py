"""LeRobot itself writes small v3.0 datasets, and what was put into them stands beside each: the other side of a test.

    python tests/interop/write_lerobot_v3.py FOLDER

runs in an environment of LeRobot's own, where nothing of this repository is installed (pytest does not collect it):

    uv venv --python 3.11 LEROBOT_ENV
    uv pip install --python LEROBOT_ENV/bin/python lerobot==0.4.4
    LEROBOT_ENV/bin/python tests/interop/write_lerobot_v3.py FOLDER
    PI05_LEROBOT_WRITTEN=FOLDER uv run pytest tests/convert/test_lerobot.py -k lerobot_itself

FOLDER then holds the datasets `h264`, `libsvtav1` (LeRobot's default codec) and `image` (pictures in the table), each
with `<name>.npz`: for every row its episode, frame, state, action, task and the numbers painted in the two cameras'
pictures (sixteen black or white blocks, the bits of the number). Files are kept to some kilobytes, so that episodes are
spread over several of them.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

LENGTHS, FPS, SIDE, WIDTH = (23, 40, 11, 17, 31), 15, 64, 5
TASKS = ("pick up the cup", "open the drawer")


def paint(number: int) -> Any:
    """A picture [64, 64, 3] that shows a number."""
    bits = np.array([(number >> place) & 1 for place in range(16)], np.uint8).reshape(4, 4)
    return np.repeat(np.kron(bits * 255, np.ones((16, 16), np.uint8))[:, :, None], 3, axis=2)


def write(folder: Path, codec: str) -> None:
    """One dataset and its truth; `codec` "image" keeps the pictures in the table."""
    picture = {
        "dtype": "image" if codec == "image" else "video",
        "shape": (SIDE, SIDE, 3),
        "names": ["height", "width", "channels"],
    }
    numbers = {"dtype": "float32", "shape": (WIDTH,), "names": [f"joint_{index}" for index in range(WIDTH)]}
    dataset = LeRobotDataset.create(
        repo_id=f"local/{codec}",
        root=folder / codec,
        fps=FPS,
        robot_type="toy_arm",
        use_videos=codec != "image",
        vcodec="h264" if codec == "image" else codec,
        features={
            "observation.state": numbers,
            "action": numbers,
            "observation.images.top": picture,
            "observation.images.wrist": picture,
        },
    )
    dataset.meta.update_chunk_settings(data_files_size_in_mb=0.01, video_files_size_in_mb=0.005)
    rng = np.random.default_rng(0)
    truth: dict[str, list[Any]] = {name: [] for name in ("episode", "frame", "state", "action", "task", "top", "wrist")}
    for episode, length in enumerate(LENGTHS):
        task = TASKS[episode % len(TASKS)]
        for frame in range(length):
            row = {
                "episode": episode,
                "frame": frame,
                "state": rng.normal(size=WIDTH).astype(np.float32),
                "action": rng.normal(size=WIDTH).astype(np.float32),
                "task": task,
                "top": 100 * episode + frame,
                "wrist": 1000 + 100 * episode + frame,
            }
            for name, value in row.items():
                truth[name].append(value)
            dataset.add_frame(
                {
                    "observation.state": row["state"],
                    "action": row["action"],
                    "observation.images.top": paint(row["top"]),
                    "observation.images.wrist": paint(row["wrist"]),
                    "task": task,
                }
            )
        dataset.save_episode()
    dataset.finalize()
    np.savez(folder / f"{codec}.npz", **{name: np.asarray(values) for name, values in truth.items()})
    print(f"{codec}: {len(LENGTHS)} episodes, {sum(LENGTHS)} frames")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for codec in ("h264", "libsvtav1", "image"):
        write(folder, codec)


if __name__ == "__main__":
    main()
