"""How long training stands still for a checkpoint: written before the next step, and beside the next steps.

Both ways take turns in one process, on one network, its moments and its average, and the same batches. Standing still
is the time of the call that saves. The asynchronous one is followed by steps until the checkpoint is complete; what
these take more than others is lost as well. At last a thread asks for Python's interpreter lock every half millisecond,
beside a write and beside a main thread that sleeps as long: how late it gets it says whether writing holds the lock.

Run: uv run python -m benchmarks.checkpoint_save [--width 512] [--rounds 4]
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from pi05_train.checkpoint.config import CheckpointConfig
from pi05_train.checkpoint.ranks import ONE_RANK
from pi05_train.checkpoint.saver import Saver
from pi05_train.checkpoint.tensors import flat, total_bytes
from pi05_train.engine.pytorch import PyTorchEngine
from pi05_train.engine.world import ALONE
from pi05_train.model.config import TowerConfig
from pi05_train.model.pi05 import Pi05
from tests.engine.tiny import CPU_FP32, OPTIMIZER, POSTTRAIN, TINY, tiny_batch

BEAT_SECONDS = 0.0005
STEPS_BEFORE = 3


def make_engine(width: int) -> PyTorchEngine:
    """The tiny network of the tests with wide layers: many bytes, and steps that take little."""
    backbone, expert = TowerConfig(width, 4 * width), TowerConfig(width // 2, 2 * width)
    config = replace(TINY, depth=8, heads=4, head_dim=64, vocab_size=1024, backbone=backbone, expert=expert)
    model = Pi05(config, expert=True)
    model.init_weights(0)
    return PyTorchEngine(model, POSTTRAIN, OPTIMIZER, CPU_FP32, ALONE)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@contextmanager
def heartbeat(late: list[float]) -> Iterator[None]:
    """Fill in by how many seconds a thread that does nothing woke up late, each time."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.is_set():
            late.append(seconds(lambda: time.sleep(BEAT_SECONDS)) - BEAT_SECONDS)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--width", type=int, default=512)
    arguments.add_argument("--rounds", type=int, default=4)
    chosen = arguments.parse_args()
    engine = make_engine(chosen.width)
    batch = [tiny_batch([0, 1, 2, 3])]
    numbers = itertools.count(1)

    def step() -> float:
        return seconds(lambda: engine.train_step(batch, learning_rate=1e-4))

    def save(saver: Saver) -> None:
        saver.save(next(numbers), engine.state(), {})

    step()
    state = engine.state()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, torch {torch.__version__}, "
        f"load average {os.getloadavg()[0]:.1f}; {total_bytes(state) / 1e9:.2f} GB in {len(flat(state))} tensors"
    )
    stands: dict[bool, list[float]] = {True: [], False: []}
    quiet, beside, behind = [], [], []
    late: list[float] = []
    late_alone: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        # The first copy takes memory that the next ones use again, so it is not counted.
        savers = [
            Saver(Path(folder), CheckpointConfig(1, 1, asynchronous=way), ONE_RANK, state, pinned=False)
            for way in (True, False)
        ]
        for saver in savers:
            save(saver)
            saver.wait()
        for _ in range(chosen.rounds):
            for saver, way in zip(savers, (True, False), strict=True):
                quiet += [step() for _ in range(STEPS_BEFORE)]
                stands[way].append(seconds(partial(save, saver)))
                begin = time.perf_counter()
                while saver.writing:
                    beside.append(step())
                if way:
                    behind.append(time.perf_counter() - begin)
        with savers[0] as saver:
            saver.save(next(numbers), engine.state(), {})
            with heartbeat(late):
                length = seconds(saver.wait)
        with heartbeat(late_alone):
            time.sleep(length)
    usual, slowed = statistics.median(quiet), statistics.median(beside)
    before, asynchronous = (statistics.median(stands[way]) for way in (False, True))
    print(f"written before the next step: training stands still for {before:.2f} s")
    print(f"written beside the next steps: {asynchronous:.3f} s, {asynchronous / before:.3f} of it")
    print(
        f"then {len(beside) / len(behind):.0f} steps in the {statistics.median(behind):.2f} s until it is complete; "
        f"a step takes {slowed / usual:.2f} of what it takes without ({usual:.2f} s)"
    )
    lost = asynchronous + statistics.mean(behind) - len(beside) / len(behind) * usual
    print(f"with what these steps are slower, {lost:.2f} s are lost, {lost / before:.2f} of standing still")
    for what, found in (("a write", late), ("nothing", late_alone)):
        *_, most = statistics.quantiles(found, n=100)
        print(f"a thread beside {what} is late by {most * 1e3:.1f} ms (99 of 100), {max(found) * 1e3:.0f} at most")


if __name__ == "__main__":
    main()
