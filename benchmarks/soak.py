"""Memory, files and threads of a loader that reads from a flaky object store for an hour.

A server on this machine hands out six synthetic sources and answers one request in a hundred with 503, a reset or half
an answer; the loader has a worker process, a cache of half of the shards and an epoch every few seconds. Flat means:
after the first twelfth of the time nothing grows.

Run: uv run python -m benchmarks.soak [--minutes 60]
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import obstore
import torch

from pi05_train.data.cache import Cache
from pi05_train.data.loading.loader import make_loader
from pi05_train.data.loading.micro_batches import of_equal_number
from pi05_train.data.loading.quarantine import Quarantine
from pi05_train.data.loading.reader import Reader
from pi05_train.data.loading.shard_cache import ShardCache
from pi05_train.data.order.mixture import Mixture
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from tests.samples.object_store import serve
from tests.synthetic import write_synthetic_world
from tests.synthetic_processor import synthetic_processor

GLOBAL_BATCH, MICRO_BATCH, FOREVER = 32, 16, 10**9
ROWS = 12


@dataclass(frozen=True)
class Usage:
    """What one process holds."""

    memory_mb: float
    """Anonymous and shared memory, pages of several processes counted in parts; files it maps are left out."""
    files: int
    threads: int


def usage(process: int) -> Usage:
    """Of a process of this machine."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    pss = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    files, threads = (len(os.listdir(f"/proc/{process}/{what}")) for what in ("fd", "task"))
    return Usage(pss / 1024, files, threads)


def reading_processes(store_process: int) -> list[int]:
    """This process and the loader's workers: everything below it but the server."""
    tree, found = [os.getpid()], []
    while tree:
        process = tree.pop()
        found.append(process)
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        tree += [int(child) for child in children if int(child) != store_process]
    return found


def serve_forked(folder: Path) -> tuple[int, str]:
    """(process, address) of a server in a process of its own, so that its memory is not counted."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        weather = random.Random(0)
        with serve(folder) as store:
            store.fault = lambda *_: weather.choice(["503", "reset", "short"]) if weather.random() < 0.01 else ""
            os.write(writing, store.http.encode())
            while True:
                time.sleep(60)
                store.asked.clear()
    return process, os.read(reading, 100).decode()


def soak(minutes: float) -> list[tuple[float, int, list[Usage]]]:
    """(minutes, samples so far, usage of this process, of the fork server's and of the worker), a dozen times."""
    rows: list[tuple[float, int, list[Usage]]] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        cards = write_synthetic_world(root, image_size=224)
        processor = synthetic_processor(root, cards, image_size=224)
        server, address = serve_forked(Path(name))
        try:
            entries = {card: SourceEntry(cards[card], weight=1.0) for card in cards}
            cache = Cache(Path(name) / "cache")
            mixture = Mixture.open(MixtureConfig("soak", entries), f"{address}/data", cache=cache)
            shards = [shard for index in mixture.indexes.values() for shard in index.shards]
            kept = ShardCache(cache.folder / "shards", shards, sum(shard.size_bytes for shard in shards) // 2)
            kept.prepare()
            loader = make_loader(
                mixture, mixture.schedule(0, GLOBAL_BATCH, FOREVER), Reader(mixture, kept), processor,
                division=of_equal_number(MICRO_BATCH), flow_draws=1, start_step=0, stop_step=FOREVER, num_workers=1,
                quarantine=Quarantine(Path(name), mixture),
            )  # fmt: skip
            began = time.monotonic()
            for step, _ in loader:
                passed = (time.monotonic() - began) / 60
                if passed >= minutes * (len(rows) + 1) / ROWS:
                    rows.append((passed, (step + 1) * GLOBAL_BATCH, [usage(one) for one in reading_processes(server)]))
                    print_row(*rows[-1])
                    if len(rows) == ROWS:
                        loader.close()  # type: ignore[attr-defined]
                        break
        finally:
            os.kill(server, 9)
            os.waitpid(server, 0)
    return rows


def print_row(minutes: float, samples: int, used: list[Usage]) -> None:
    """A line of the table."""
    memory, files, threads = (sum(getattr(one, name) for one in used) for name in ("memory_mb", "files", "threads"))
    print(f"| {minutes:.1f} | {samples} | {len(used)} | {memory:.0f} | {files} | {threads} |", flush=True)


def main() -> None:
    """Print the settings, a dozen rows, and what grew after the first of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, torch {torch.__version__}, "
        f"obstore {obstore.__version__}; 6 sources of 30 or 40 training samples, pictures of 224 px, batches of "
        f"{GLOBAL_BATCH}, 1 worker process, half of the shards cached, 1 % of the requests fail\n"
    )
    print(
        "| minutes | samples | processes | memory, MB | open files | threads |\n|---|---|---|---|---|---|", flush=True
    )
    rows = soak(options.minutes)
    memory = np.array([sum(one.memory_mb for one in used) for _, _, used in rows])
    slope = np.polyfit([minutes for minutes, _, _ in rows][1:], memory[1:], 1)[0]
    print(
        f"\nmemory after the first row: {memory[1:].min():.0f} to {memory[1:].max():.0f} MB, {slope * 60:+.1f} MB/hour"
    )


if __name__ == "__main__":
    main()
