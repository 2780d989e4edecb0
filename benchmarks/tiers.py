"""Bytes of the tiers master and train of two real data sets, and seconds to make either and one out of the other.

Run: uv run python -m benchmarks.tiers [--shared ../shared]
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pi05_train.convert.formats import opener
from pi05_train.convert.run import convert
from pi05_train.convert.source import Options

SETS = {
    "unitree_g1_lerobot_v21": ("lerobot", Options("g1", "CE", allow_missing=True)),
    "octo_bridge_rlds": ("rlds", Options("bridge", "CE", dataset="bridge")),
}


def converted(format_name: str, path: Path, folder: Path, options: Options) -> tuple[int, int, float]:
    """(Samples or episodes, bytes of the shards, seconds) of a conversion in this process."""
    start = time.perf_counter()
    conversion = convert(opener(format_name, options.tier), path, folder, options)
    seconds = time.perf_counter() - start
    return conversion.samples, sum(shard.stat().st_size for shard in folder.glob("*.tar")), seconds


def main() -> None:
    """Print a line per data set and tier; stop where a re-conversion gives other bytes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    shared = parser.parse_args().shared
    print(f"{platform.machine()}, {os.cpu_count()} cores, one process, load average {os.getloadavg()[0]:.1f}")
    for name, (format_name, options) in SETS.items():
        print(f"{name}: {options}")
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            whole = replace(options, tier="master")
            episodes, master_bytes, master_s = converted(format_name, shared / "data" / name, folder / "master", whole)
            frames, train_bytes, train_s = converted(format_name, shared / "data" / name, folder / "train", options)
            _, _, again_s = converted("master", folder / "master", folder / "again", replace(options, dataset=""))
            for shard in (folder / "train").glob("*.tar"):
                assert shard.read_bytes() == (folder / "again" / shard.name).read_bytes(), shard.name
        for tier, size, seconds in (("master", master_bytes, master_s), ("train", train_bytes, train_s)):
            each = f"{size / episodes / 1e3:.0f} kB an episode, {size / frames / 1e3:.1f} kB a frame"
            print(f"  {tier}: {episodes} episodes, {frames} frames, {size} bytes, {each}, {seconds:.1f} s")
        print(f"  master to train: the same shards, {again_s:.1f} s")


if __name__ == "__main__":
    main()
