"""What it costs to know the batch of a step: with 6, 60 and 600 sources, far into a run, and with hundreds of phases.

Processor time, since only this process computes; every ratio is to the first line of the same run.

Run: uv run python -m benchmarks.schedule [--batch 256] [--steps 100] [--read-group 1]
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import numpy as np

from pi05_train.data.order.phases import plan_phases
from pi05_train.data.order.schedule import Schedule
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry

SIZES = (10_000, 70_000, 500_000, 3_000_000, 20_000_000, 300_000_000)
"""Rows of the sources, over and over, so that every number of sources has the same work per draw."""
FAR = 10**7


def milliseconds(call: Callable[[], object], repeats: int = 7) -> float:
    """The least processor time of `call`."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append((time.process_time() - start) * 1e3)
    return min(times)


def sources(count: int) -> tuple[list[str], list[int], list[float]]:
    """Names, rows and weights that differ by a factor of 100."""
    names = [f"source_{i}" for i in range(count)]
    return names, [SIZES[i % len(SIZES)] for i in range(count)], np.geomspace(1, 100, count).tolist()


def one_after_the_other(schedule: Schedule, step: int) -> None:
    """The rows of a step, each source by itself."""
    before, after = schedule.counts(step), schedule.counts(step + 1)
    for name in schedule.names:
        if after[name] > before[name]:
            schedule.rows(name, np.arange(before[name], after[name]))


def planned(count: int, batch: int) -> tuple[int, float]:
    """(phases, milliseconds to plan them) where every other source is dropped after one epoch."""
    names, rows, weights = sources(count)
    entries = {
        name: SourceEntry(SourceCard(name, "ME", name), weight, on_exhaust="repeat" if i % 2 else "drop")
        for i, (name, weight) in enumerate(zip(names, weights, strict=True))
    }
    config, sizes = MixtureConfig("all", entries), dict(zip(names, rows, strict=True))
    plan = plan_phases(config, sizes, global_batch=batch, steps=FAR)
    spent = milliseconds(lambda: plan_phases(config, sizes, global_batch=batch, steps=FAR), repeats=1)
    return len(plan.phases), spent


def main() -> None:
    """Print the settings and one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--read-group", type=int, default=1)
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, numpy {np.__version__}, "
        f"load average {os.getloadavg()[0]:.1f}; batch {options.batch}, read group {options.read_group}, "
        f"{options.steps} steps in a row, best of 7"
    )

    def build(count: int) -> Schedule:
        return Schedule(0, *sources(count), options.batch, read_group=options.read_group)

    schedules = {count: build(count) for count in (6, 60, 600)}
    first = 0.0
    for count, schedule in schedules.items():

        def in_a_row(schedule: Schedule = schedule) -> None:
            for step in range(FAR, FAR + options.steps):
                schedule.draws(step)

        def apart(schedule: Schedule = schedule) -> None:
            for step in range(FAR, FAR + 5):
                one_after_the_other(schedule, step)

        start = time.process_time()
        build(count).draws(FAR)
        cold = (time.process_time() - start) * 1e3
        each = milliseconds(in_a_row) / options.steps
        first = first or each
        print(
            f"{count} sources: {each:.2f} ms per step ({each / first:.2f} of 6 sources), step 10**7 cold {cold:.1f} ms "
            f"with building the schedule; rows source by source would take {milliseconds(apart) / 5:.1f} ms"
        )
    for count in (6, 60, 600):
        phases, spent = planned(count, options.batch)
        print(f"{count} sources, half of them exhausted within 10**7 steps: {phases} phases planned in {spent:.0f} ms")


if __name__ == "__main__":
    main()
