"""Which samples form the batch of a step: from the schedule and the indexes, without opening a shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pi05_train.data.mixture import Mixture
from pi05_train.data.schedule import Schedule
from pi05_train.errors import UserError


@dataclass(frozen=True)
class Slot:
    """One sample of a global batch and where its bytes stand."""

    slot: int
    source: str
    draw: int
    """How many draws of this source came before, in the whole run."""
    epoch: int
    """How many times the source had been gone through before."""
    row: int
    """Row of the source's index."""
    key: str
    episode: int
    frame: int
    shard: str
    offset: int
    """Bytes before the sample in its shard; it is `length` bytes long."""
    length: int


def explain(mixture: Mixture, schedule: Schedule, step: int) -> list[Slot]:
    """The global batch of `step` in slot order, as it is drawn; a damaged sample's substitute is known to
    `quarantine.jsonl` alone. UserError for a step before the first.
    """
    if step < 0:
        raise UserError("step", got=step, expected="0 or more", do="correct it")
    draws = schedule.draws(step)
    slots: list[Slot | None] = [None] * len(draws)
    for source in dict.fromkeys(draw.source for draw in draws):
        own = [slot for slot, draw in enumerate(draws) if draw.source == source]
        index, passed = mixture.indexes[source], mixture.rows[source]
        rows = [int(passed[draws[slot].row]) for slot in own]
        for slot, row, key in zip(own, rows, read_keys(index.folder, rows), strict=True):
            draw, record = draws[slot], index.records[row]
            slots[slot] = Slot(
                slot=slot,
                source=source,
                draw=draw.draw,
                epoch=draw.draw // len(passed),
                row=row,
                key=key,
                episode=int(record["episode"]),
                frame=int(record["frame"]),
                shard=index.shards[int(record["shard"])].name,
                offset=int(record["offset"]),
                length=int(record["length"]),
            )
    return [slot for slot in slots if slot is not None]


def read_keys(folder: Path, rows: Sequence[int]) -> list[str]:
    """The keys of these index rows, from the parts of `index.parquet` that hold them and no others."""
    with pq.ParquetFile(folder / "index.parquet") as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, rows, side="right")
        keys = [""] * len(rows)
        for group in np.unique(groups).tolist():
            column = file.read_row_group(group, columns=["key"], use_threads=False)["key"].combine_chunks()
            for place in np.flatnonzero(groups == group).tolist():
                keys[place] = str(column[rows[place] - int(ends[group] - sizes[group])])
    return keys
