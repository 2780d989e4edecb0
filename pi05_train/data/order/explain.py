"""Which samples form the batch of a step: from the schedule and the indexes, without opening a shard."""

from __future__ import annotations

from dataclasses import dataclass

from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.schedule import Schedule
from pi05_train.data.sources.index import read_keys
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
        rows = [passed[draws[slot].row] for slot in own]
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
