"""Samples per second out of the loader, against reading and decoding the same JPEGs and nothing else, in one run.

Elapsed time tells what a quiet machine delivers; processor time per sample also holds on a busy one.

Run: uv run python -m benchmarks.loader [--image-pixels 224] [--steps 10]
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

from pi05_train.data.loader import make_loader
from pi05_train.data.micro_batches import of_equal_number
from pi05_train.data.mixture import Mixture
from pi05_train.data.reader import Reader
from pi05_train.data.schedule import Schedule
from pi05_train.processing.augmentation_config import AugmentationConfig
from pi05_train.processing.processor import Processor
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from pi05_train.samples.shards import parse_sample
from tests.synthetic import shard_path, write_synthetic_world
from tests.synthetic_processor import synthetic_processor

GLOBAL_BATCH, MICRO_BATCH, WARM_STEPS = 32, 16, 2


def seconds_each(call: Callable[[int], object], count: int) -> float:
    """Mean processor time of `call(i)` for i below `count`."""
    start = time.process_time()
    for i in range(count):
        call(i)
    return (time.process_time() - start) / count


def cpu_seconds() -> float:
    """Processor time of this process and of the workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def raw(reader: Reader, schedule: Schedule, steps: int) -> tuple[float, float, float]:
    """(samples/s, CPU ms per sample, images per sample) of reading each drawn sample and decoding its JPEGs."""
    images, mixture = 0, reader.mixture
    start, cpu = time.perf_counter(), cpu_seconds()
    for draw in (draw for step in range(steps) for draw in schedule.draws(step)):
        index, row = mixture.indexes[draw.source], int(mixture.rows[draw.source][draw.row])
        with shard_path(index, row).open("rb") as file:
            file.seek(int(index.records["offset"][row]))
            content = file.read(int(index.records["length"][row]))
        for part in content.split(b"\xff\xd8\xff")[1:]:
            np.asarray(Image.open(io.BytesIO(b"\xff\xd8\xff" + part)).convert("RGB"))
            images += 1
    samples = steps * schedule.global_batch
    return samples / (time.perf_counter() - start), (cpu_seconds() - cpu) / samples * 1e3, images / samples


def loaded(
    reader: Reader, schedule: Schedule, processor: Processor, steps: int, workers: int, run_folder: Path
) -> tuple[float, float]:
    """(samples/s after the workers have started, CPU ms per sample with everything)."""
    cpu = cpu_seconds()
    loader = make_loader(
        reader.mixture, schedule, reader, processor,
        division=of_equal_number(MICRO_BATCH), flow_draws=1, start_step=0, stop_step=steps + WARM_STEPS,
        num_workers=workers, run_folder=run_folder,
    )  # fmt: skip
    for _ in range(WARM_STEPS):
        next(loader)
    start = time.perf_counter()
    assert sum(len(batches) for _, batches in loader) == steps * GLOBAL_BATCH // MICRO_BATCH
    rate = steps * GLOBAL_BATCH / (time.perf_counter() - start)
    return rate, (cpu_seconds() - cpu) / ((steps + WARM_STEPS) * GLOBAL_BATCH) * 1e3


def main() -> None:
    """Print the settings, the cost of each part, and the rates with their ratio to the raw one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image-pixels", type=int, default=224)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, torch {torch.__version__}, "
        f"pillow {PIL.__version__}, numpy {np.__version__}, warm page cache, load average {os.getloadavg()[0]:.1f}"
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cards = write_synthetic_world(root, image_size=options.image_pixels)
        pixels = options.image_pixels // 14 * 14
        processor = synthetic_processor(root, cards, image_size=pixels)
        plain = synthetic_processor(root, cards, image_size=pixels)
        plain.augmentation = replace(AugmentationConfig(), enabled=False)
        entries = {name: SourceEntry(card, weight=1.0) for name, card in cards.items()}
        mixture = Mixture.open(MixtureConfig("synthetic", entries), root)
        reader = Reader(mixture)
        schedule = Schedule(0, mixture.names, mixture.sizes, mixture.shares, GLOBAL_BATCH)
        raw_rate, raw_cpu, images = raw(reader, schedule, options.steps)
        print(
            f"{options.steps} steps of {GLOBAL_BATCH} samples, {images:.2f} images of {options.image_pixels} px each, "
            f"6 sources, micro-batch {MICRO_BATCH}, 1 compute thread per process"
        )
        members = reader.members("toy_mobile", 0)
        print(f"processor time: schedule {seconds_each(schedule.draws, 50) * 1e3:.2f} ms per step", end=", ")
        print(
            f"read {seconds_each(lambda i: reader.read('toy_mobile', i % 30), 500) * 1e6:.0f} us per sample", end=", "
        )
        print(f"of which parse {seconds_each(lambda _: parse_sample(members), 500) * 1e6:.0f} us")
        print(f"raw read + decode, one process: {raw_rate:.0f} samples/s, {raw_cpu:.2f} CPU ms per sample")
        for name, chosen in (("augmented", processor), ("not augmented", plain)):
            for workers in (0, 1, 2):
                rate, cpu = loaded(reader, schedule, chosen, options.steps, workers, root)
                print(
                    f"loader, {name}, {workers} workers: {rate:.0f} samples/s ({rate / raw_rate:.2f} of raw), "
                    f"{cpu:.2f} CPU ms per sample ({cpu / raw_cpu:.1f} times raw)"
                )


if __name__ == "__main__":
    main()
