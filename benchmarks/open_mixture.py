"""What it costs to open a mixture of 10**8 samples in 10**5 shards, for the first time and again, and to know a step.

Every measurement is a process of its own. The shards are sparse files of the right size, never read; the indexes are
written as `build_index` writes them, in blocks. Takes about 6 GB of disk and removes it.

Run: uv run python -m benchmarks.open_mixture FOLDER [--samples 100000000] [--shards 100000] [--sources 40]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

START = time.perf_counter()

import numpy as np  # noqa: E402  the imports are measured too
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from pi05_train.data.cache import Cache  # noqa: E402
from pi05_train.data.order.explain import explain  # noqa: E402
from pi05_train.data.order.mixture import Mixture  # noqa: E402
from pi05_train.data.order.schedule import Draw  # noqa: E402
from pi05_train.data.sources.index import HELDOUT, RECORD, ROWS_READ_TOGETHER  # noqa: E402
from pi05_train.samples.card import SourceCard  # noqa: E402
from pi05_train.samples.mixture_config import FilterConfig, MixtureConfig, SourceEntry  # noqa: E402

IMPORT_SECONDS = time.perf_counter() - START
FAR, BATCH = 10**7, 256
SAMPLE_BYTES, FRAMES, ENVIRONMENTS = 50 * 1024, 200, 50
ROWS_TOGETHER = 2**16
FILTERS = FilterConfig(success_only=True, environments=40)


def write_source(folder: Path, samples: int, shards: int) -> None:
    """A source of `samples` rows, pre-shuffled as converters leave it, with every twentieth episode held out."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(int(folder.name.rpartition("_")[2]))
    shuffled = random.permutation(samples).astype(np.uint32)
    per_shard = samples // shards
    header = np.lib.format.header_data_from_array_1_0(np.zeros(0, RECORD)) | {"shape": (samples,)}
    schema = pa.schema([(name, pa.string()) for name in ("key", "environment_id", "task")])
    digest = hashlib.sha256()
    with (folder / "index.npy").open("wb") as file, pq.ParquetWriter(folder / "index.parquet", schema) as strings:
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, samples, ROWS_TOGETHER):
            rows = np.arange(first, min(first + ROWS_TOGETHER, samples))
            records = np.zeros(len(rows), RECORD)
            records["shard"], in_shard = np.divmod(rows, per_shard)
            records["offset"], records["length"] = in_shard * SAMPLE_BYTES, SAMPLE_BYTES
            records["crc32"] = random.integers(0, 2**32, len(rows))
            records["episode"], records["frame"] = np.divmod(shuffled[rows], FRAMES)
            records["flags"] = np.where(records["episode"] % 20 == 0, HELDOUT, 0)
            file.write(records.tobytes())
            digest.update(records.tobytes())
            episodes, frames = records["episode"].tolist(), records["frame"].tolist()
            keys = [f"{episode:08d}_{frame:06d}" for episode, frame in zip(episodes, frames, strict=True)]
            rooms = [f"{folder.name}_room_{episode % ENVIRONMENTS}" for episode in episodes]
            tasks = [f"put thing {episode % 97} away" for episode in episodes]
            strings.write_table(pa.table([keys, rooms, tasks], schema=schema), row_group_size=ROWS_READ_TOGETHER)
    size = per_shard * SAMPLE_BYTES + 1024
    names = [f"shard-{number:06d}.tar" for number in range(shards)]
    for name in names:
        with (folder / name).open("wb") as file:
            file.truncate(size)
    content = {
        "schema_version": 1,
        "samples": samples,
        "shards": [{"name": n, "size_bytes": size, "sha256": hashlib.sha256(n.encode()).hexdigest()} for n in names],
        "records_sha256": digest.hexdigest(),
        "strings_sha256": hashlib.sha256(folder.name.encode()).hexdigest(),
        "files": {name: sha256(folder / name) for name in ("index.npy", "index.parquet")},
    }
    (folder / "index.json").write_text(json.dumps(content, indent=1) + "\n")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def private_memory() -> str:
    """Memory of this process that it shares with nobody, and how much of it are unchanged pages of mapped files, which
    the kernel takes back when it needs them."""
    fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    clean, dirty = (int(fields[name].split()[0]) / 1024 for name in ("Private_Clean", "Private_Dirty"))
    return f"{clean + dirty:.0f} MB ({clean:.0f} MB clean)"


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def place(mixture: Mixture, draw: Draw) -> tuple[str, str, int, int]:
    """Where the bytes of a draw stand: source, shard, offset and length."""
    index = mixture.indexes[draw.source]
    record = index.records[mixture.rows[draw.source][draw.row]]
    return draw.source, index.shards[int(record["shard"])].name, int(record["offset"]), int(record["length"])


def measure(root: Path) -> None:
    """Open the mixture in this fresh process and print a line about it."""
    imported = private_memory()
    cards = [
        SourceCard(folder.name, "WD", folder.name, cameras=["base_0_rgb"]) for folder in sorted(root.glob("source_*"))
    ]
    weights = np.geomspace(1, 100, len(cards)).tolist()
    entries = {card.name: SourceEntry(card, weight) for card, weight in zip(cards, weights, strict=True)}
    config = MixtureConfig("large", entries, FILTERS)
    start, cpu = time.perf_counter(), time.process_time()
    mixture = Mixture.open(config, root, cache=Cache(root / "cache"))
    table = mixture.describe()
    opened, cpu = time.perf_counter() - start, time.process_time() - cpu
    private = private_memory()
    start = time.perf_counter()
    schedule = mixture.schedule(0, BATCH, FAR + 10)
    places = [place(mixture, draw) for draw in schedule.draws(FAR)]
    batch = (time.perf_counter() - start) * 1e3
    assert len(set(places)) == BATCH
    explained = milliseconds(lambda: explain(mixture, schedule, FAR))
    other = milliseconds(lambda: explain(mixture, schedule, FAR + 1))
    print(
        f"opened in {opened:.2f} s ({cpu:.2f} s of processor time; imports before that {IMPORT_SECONDS:.2f} s), "
        f"private memory {private}, after the imports {imported}; {sum(map(len, mixture.rows.values()))} rows pass, "
        f"{sum(int(row['episodes']) for row in table)} episodes; step 10**7 cold {batch:.1f} ms, explained in "
        f"{explained:.0f} ms, the next {other:.0f} ms; private memory at the end {private_memory()}",
        flush=True,
    )


def flush(root: Path, *, forget: bool) -> None:
    """Bring the indexes onto the disk, since pages still to be written would count as somebody's memory; `forget` drops
    them from the page cache, so that the next process reads the disk."""
    for path in [*root.rglob("index.*"), *(root / "cache").rglob("*.*")]:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if forget:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Write the sources unless they are there, then measure in fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=10**8)
    parser.add_argument("--shards", type=int, default=10**5)
    parser.add_argument("--sources", type=int, default=40)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    root: Path = options.folder
    if options.child:
        measure(root)
        return
    root.mkdir(parents=True)
    try:
        for number in range(options.sources):
            write_source(
                root / f"source_{number:03d}", options.samples // options.sources, options.shards // options.sources
            )
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, "
            f"numpy {np.__version__}, pyarrow {pa.__version__}, load average {os.getloadavg()[0]:.1f}; "
            f"{options.samples} samples in {options.shards} shards of {options.sources} sources, "
            f"{FILTERS}, batch {BATCH}"
        )
        for label in ("first time", "again", "again, disk"):
            flush(root, forget=label == "again, disk")
            print(f"{label}: ", end="", flush=True)
            subprocess.run([sys.executable, "-m", "benchmarks.open_mixture", str(root), "--child"], check=True)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
