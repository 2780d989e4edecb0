"""Peak memory and time of importing a full-size openpi checkpoint, and of a network taking the imported weights.

The checkpoint is made here: pi0.5's real tree in float32 (13.4 GB of random numbers, which hardly compress), every
array one chunk, as orbax saves on a single host: the worst case for memory. Making it takes 30 GB of disk and 17 GB of
memory, so it happens in a run of its own.

Run: uv run python -m benchmarks.full_size_import FOLDER, twice: the second run measures
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from pi05_train.checkpoint.foreign.formats import our_shapes
from pi05_train.checkpoint.foreign.openpi_jax import openpi_layout
from pi05_train.checkpoint.storage import orbax_write
from pi05_train.checkpoint.storage.source import TensorSpec, total_bytes
from pi05_train.config.compose import compose_model

LOAD = """
import sys
from pathlib import Path
from pi05_train.checkpoint.weights import load_weights
from pi05_train.config.compose import compose_model
from pi05_train.model.pi05 import Pi05
import torch
with torch.device("meta"):
    model = Pi05(compose_model(["model=pi05"])[0], expert=True)
model.to_empty(device="cpu")
load_weights(Path(sys.argv[1]), model, ema=False)
"""
GB = 1e9


def specs() -> dict[str, TensorSpec]:
    """openpi's arrays of pi0.5."""
    config, _ = compose_model(["model=pi05"])
    leaves = openpi_layout(config, our_shapes(config, expert=True)).leaves
    return {name: TensorSpec(leaf.shape, "float32") for name, leaf in leaves.items()}


def random_arrays(wanted: dict[str, TensorSpec]) -> Iterator[tuple[str, Tensor]]:
    """An array at a time."""
    for name, spec in wanted.items():
        print(f"  {name} {list(spec.shape)}", flush=True)
        yield name, torch.rand(spec.shape)


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident gigabytes of a process of its own."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, status
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / GB


def main() -> None:
    """Make the checkpoint if it is not there; else import it, load it, and print sizes, peaks and their bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    wanted = specs()
    model, largest = total_bytes(wanted) / GB, max(spec.bytes for spec in wanted.values()) / GB
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, torch {torch.__version__}"
    )
    print(f"model {model:.2f} GB, largest array {largest:.2f} GB")
    theirs, ours = folder / "theirs", folder / "ours"
    if not theirs.exists():
        orbax_write.CHUNK_BYTES = 1 << 60  # every array one chunk
        theirs.mkdir(parents=True)
        orbax_write.write_orbax(theirs, wanted, random_arrays(wanted))
        print("made; run again to measure: a process inherits the peak of the one that starts it")
        return
    shutil.rmtree(ours, ignore_errors=True)
    verb = ["-m", "pi05_train.commands.main", "checkpoint"]
    seconds, peak = measured([*verb, "import", str(theirs), str(ours)])
    bound = model + 1.3 * largest
    print(
        f"import: {seconds:.0f} s, peak {peak:.2f} GB ({peak / largest:.2f} of the largest array; bound {bound:.2f} GB)"
    )
    seconds, peak = measured(["-c", LOAD, str(ours)])
    print(f"load into the network: {seconds:.0f} s, peak {peak:.2f} GB ({peak / model:.2f} of the model)")


if __name__ == "__main__":
    main()
