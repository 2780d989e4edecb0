"""One sample of a source with everything that is known about it, found by its row or its key."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pi05_train.data.sources.index import Index, read_keys
from pi05_train.errors import UserError
from pi05_train.processing.normalisation import NormStats, parse_norm_stats
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import check_sample, parse_sample, split_members


@dataclass(frozen=True)
class Inspected:
    """A sample, where it stands, and what it is to be compared with."""

    sample: Sample
    card: SourceCard
    row: int
    rows: int
    """Of the whole source."""
    shard: str
    """Its path or address."""
    offset: int
    length: int
    statistics: dict[str, NormStats]
    """Of the source, under "state" and "actions"; empty when there is no `norm_stats.json`."""
    complaint: str
    """What the card does not allow, or ""."""


def inspect(where: Path | str, card: SourceCard, *, key: str | None = None, row: int = 0) -> Inspected:
    """The sample with this key, or else the one at this row of the index (negative: from the end).

    `where`: the source's folder or address. Refuses (UserError) what `Index.open` refuses, a row or key that does not
    exist, and a damaged sample.
    """
    index = Index.open(where)
    if key is not None:
        row = _row_of(index.folder, key)
    if not -len(index) <= row < len(index):
        raise UserError(f"row of {where}", got=row, expected=f"0 to {len(index) - 1}", do="choose one of them")
    row %= len(index)
    record = index.records[row]
    shard = index.shards[int(record["shard"])].name
    offset, length = int(record["offset"]), int(record["length"])
    content = index.store.read(shard, offset, length)
    if len(content) != length or zlib.crc32(content) != int(record["crc32"]):
        raise UserError(
            f"row {row} of {where}",
            got=f"changed bytes at byte {offset} of {shard}",
            expected="the bytes that were indexed",
            do="see what else is damaged with `pi05 data verify`",
        )
    sample, complaint = parse_sample(split_members(content)), ""
    try:
        check_sample(sample, card)
    except UserError as error:
        complaint = str(error)
    found = index.store.read_whole("norm_stats.json")
    statistics = {} if found is None else parse_norm_stats(found, f"{where}/norm_stats.json")
    return Inspected(
        sample, card, row, len(index), f"{index.store.where}/{shard}", offset, length, statistics, complaint
    )


def _row_of(folder: Path, key: str) -> int:
    row = 0
    with pq.ParquetFile(folder / "index.parquet") as file:
        for group in range(file.num_row_groups):
            column = file.read_row_group(group, columns=["key"], use_threads=False)["key"]
            if (place := int(pc.index(column, key).as_py())) >= 0:
                return row + place
            row += len(column)
    example = read_keys(folder, [0])[0]
    raise UserError(
        f"key in {folder}", got=repr(key), expected=f"a key such as {example}", do="correct it, or give a row"
    )
