"""`lowdim.parquet`: a converted source's states and actions without its pictures, for statistics, filters and fitting.

One row per sample, in the order of the units. `actions` holds the valid steps up to the next anchor, flattened, so that
an episode's rows one after the other are its actions from the first to the last, each once (where the stored horizon
is no shorter than the stride and no sample was dropped: `frame` tells).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pi05_train.convert.source import Options
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Sample

NAME = "lowdim.parquet"


def has_rows(card: SourceCard, options: Options) -> bool:
    """Whether the conversion makes this file: tier master keeps an episode's numbers beside its pictures only."""
    return bool(card.state_dim) and options.tier == "train"


class LowdimRows:
    """Gathers the rows of one unit."""

    def __init__(self, card: SourceCard, stride: int) -> None:
        self._stride = stride
        self._columns: dict[str, list[Any]] = {name: [] for name in _schema(card).names}
        self._schema = _schema(card)

    def add(self, sample: Sample) -> None:
        """Take the sample's numbers, if it has any."""
        if sample.state is None:
            return
        row: dict[str, Any] = {name: getattr(sample, name) for name in ("key", "episode", "frame", "success", "state")}
        row |= {"heldout": sample.split == "heldout", "actions": ()}
        if sample.actions is not None and sample.action_valid is not None:
            row["actions"] = sample.actions[: self._stride][sample.action_valid[: self._stride]].ravel()
        for name, value in row.items():
            self._columns[name].append(value)

    def write(self, file: BinaryIO) -> None:
        arrays = [pa.array(self._columns[field.name], field.type) for field in self._schema]
        pq.write_table(pa.table(arrays, self._schema), file)


def _schema(card: SourceCard) -> pa.Schema:
    return pa.schema(
        [
            ("key", pa.string()),
            ("episode", pa.int64()),
            ("frame", pa.int64()),
            ("heldout", pa.bool_()),
            ("success", pa.bool_()),
            ("state", pa.list_(pa.float32(), card.state_dim)),
            ("actions", pa.list_(pa.float32())),
        ]
    )


def join_rows(units: Iterable[Path], card: SourceCard, file: BinaryIO) -> None:
    """Write the units' rows one after the other; a row group per unit that has any."""
    with pq.ParquetWriter(file, _schema(card)) as writer:
        for path in units:
            table = pq.read_table(path, use_threads=False)
            if table.num_rows:
                writer.write_table(table)
