"""Peak memory and time of importing a full-size openpi checkpoint, and of a network taking the imported weights.

The checkpoint is made here: pi0.5's real tree in float32 (13.4 GB of random numbers, which do not compress), every array
one chunk, as orbax saves on a single host: the worst case for memory. Needs 30 GB of disk and 16 GB of memory to make.

Run: uv run python -m benchmarks.full_size_import FOLDER
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from pi05_train.checkpoint.foreign import orbax_write
from pi05_train.checkpoint.foreign.formats import our_shapes
from pi05_train.checkpoint.foreign.openpi_jax import openpi_layout
from pi05_train.checkpoint.foreign.source import TensorSpec, total_bytes
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
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert peak > before, "an earlier child was larger, so this one's peak is unknown"
    return time.perf_counter() - start, peak * 1024 / GB


def main() -> None:
    """Make the checkpoint if it is not there, import it, load it; print sizes, peaks and their bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    wanted = specs()
    model, largest = total_bytes(wanted) / GB, max(spec.bytes for spec in wanted.values()) / GB
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; model {model:.2f} GB, largest array {largest:.2f} GB"
    )
    theirs, ours = folder / "theirs", folder / "ours"
    if not theirs.exists():
        orbax_write.CHUNK_BYTES = 1 << 60  # every array one chunk
        theirs.mkdir(parents=True)
        orbax_write.write_orbax(theirs, wanted, random_arrays(wanted))
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
