"""The index beside a source's shards: where every sample stands, and the few columns that filters need.

`index.npy` holds one 32-byte record per sample (memory-mapped: a worker pays for the rows it touches), `index.parquet`
the string columns, `index.json` the shards' names, sizes and hashes. It is written last, so it vouches for the others.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pi05_train.data.cache import Cache
from pi05_train.errors import UserError
from pi05_train.samples.address import PATIENCE_SECONDS, open_store
from pi05_train.samples.shards import declared_members, parse_header
from pi05_train.samples.store import Store

SCHEMA_VERSION = 1
RECORD = np.dtype(
    [
        ("shard", "<u4"),
        ("offset", "<u8"),
        ("length", "<u4"),
        ("crc32", "<u4"),
        ("episode", "<u4"),
        ("frame", "<u4"),
        ("n_tokens", "<u2"),  # always 0: tokens depend on the tokenizer, so they stand elsewhere (token_counts.py)
        ("flags", "<u2"),
    ]
)
HELDOUT, FAILED = 1, 2
COLUMNS = ("key", "environment_id", "task")
BLOCK = 512
"""Bytes of a tar header; members are padded to whole blocks."""
_END_OF_ARCHIVE = bytes(2 * BLOCK)
_AGAIN = "index the source with `pi05 data index`"
ROWS_READ_TOGETHER = 2**12
"""Strings of that many rows are read to look up one: few enough for half a millisecond, while the footer stays small.
"""


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file as it was when it was indexed."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """An opened index; row i of `records` and of every column is the same sample. A pickle of it opens the map anew."""

    store: Store
    """Where its shards stand."""
    folder: Path
    """Where its own files can be mapped: beside the shards, or copies in the cache."""
    shards: tuple[Shard, ...]
    records: np.memmap[Any, np.dtype[np.void]]
    fingerprint: str
    """sha256 of what the source holds, wherever it stands: two copies of a source share it."""

    @classmethod
    def open(
        cls, where: Path | str, cache: Cache | None = None, *, patience_seconds: float = PATIENCE_SECONDS
    ) -> Index:
        """The index of the source in a folder or at an address; of its shards it asks the sizes alone.

        The index files are read unless the cache knows them. Refuses (UserError) a missing, damaged or foreign index
        and a shard that is gone or has another size.
        """
        cache = cache or Cache()
        store = open_store(str(where), patience_seconds=patience_seconds)
        content = _read_content(store)
        folder = _index_files(store, content["files"], cache)
        shards = tuple(Shard(**shard) for shard in content["shards"])
        _check_sizes(store, shards)
        records = _map_records(folder)
        assert len(records) == content["samples"]
        return cls(store, folder, shards, records, _fingerprint(content))

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "records"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, records=_map_records(state["folder"]))


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


def _map_records(folder: Path) -> np.memmap[Any, np.dtype[np.void]]:
    records: Any = np.load(folder / "index.npy", mmap_mode="r")
    records.base.madvise(mmap.MADV_RANDOM)  # else a look-up reads what stands around it too and takes 30 times as long
    assert isinstance(records, np.memmap)
    assert records.dtype == RECORD
    return records


def _read_content(store: Store) -> dict[str, Any]:
    """`index.json` of this version."""
    found = store.read_whole("index.json")
    if found is None:
        raise UserError(f"index of {store.where}", got="no index.json", expected="an indexed source", do=_AGAIN)
    where = f"{store.where}/index.json"
    try:
        content: dict[str, Any] = json.loads(found)
    except ValueError as error:
        raise UserError(where, got=error, expected="valid JSON", do=_AGAIN) from error
    if content.get("schema_version") != SCHEMA_VERSION:
        version = content.get("schema_version")
        raise UserError(f"{where}, schema_version", got=version, expected=SCHEMA_VERSION, do=_AGAIN)
    if not content["samples"]:
        raise UserError(
            f"source {store.where}", got="0 samples", expected="at least one", do="convert the source again"
        )
    return content


def _index_files(store: Store, digests: dict[str, str], cache: Cache) -> Path:
    """The folder with index.npy and index.parquet, as `index.json` says they are; remote ones are copied once."""
    if store.remote:
        copies = f"indexes/{hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()}"
        for name, digest in digests.items():
            cache.copied(f"{copies}/{name}", digest, partial(store.copy, name), f"{store.where}/{name}")
        return cache.folder / copies
    folder = Path(store.where)
    for name, digest in digests.items():
        got = cache.sha256(folder / name) if (folder / name).is_file() else "no such file"
        if got != digest:
            raise UserError(f"{folder / name}, sha256", got=got, expected=digest, do=_AGAIN)
    return folder


def _check_sizes(store: Store, shards: Sequence[Shard]) -> None:
    sizes = store.sizes([shard.name for shard in shards])
    for shard in shards:
        size = sizes.get(shard.name)
        if size != shard.size_bytes:
            raise UserError(
                f"shard {store.where}/{shard.name}, bytes",
                got="no such file" if size is None else size,
                expected=f"{shard.size_bytes} as indexed",
                do=f"restore the shard, or {_AGAIN} if the source was changed on purpose",
            )


def build_index(folder: Path) -> Path:
    """Index every `*.tar` of `folder` in one pass and return the path of `index.json`.

    Refuses (UserError) an empty source, a truncated or damaged tar (also one cut between two members), a sample
    without the members it declares, and a key that comes twice or whose members are not together.
    """
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise UserError(f"source {folder}", got="no *.tar shards", expected="at least one", do="convert the source")
    keys: set[str] = set()
    records: list[tuple[int, ...]] = []
    columns: dict[str, list[str]] = {name: [] for name in COLUMNS}
    for number, path in enumerate(paths):
        for offset, length, crc32, header in _walk(path, keys):
            flags = HELDOUT * (header["split"] == "heldout") | FAILED * (not header["success"])
            records.append((number, offset, length, crc32, header["episode"], header["frame"], 0, flags))
            for name in COLUMNS:
                columns[name].append(header[name])
    if not records:
        raise UserError(f"source {folder}", got="0 samples", expected="at least one", do="convert the source again")
    return write_index(folder, paths, np.array(records, RECORD), columns)


def write_index(folder: Path, paths: list[Path], records: NDArray[np.void], columns: dict[str, list[str]]) -> Path:
    """Write the three files for these shards; `columns` holds a string per record under each of `COLUMNS`."""

    def put(name: str) -> Path:
        return folder / f"{name}.partial"

    with put("index.npy").open("wb") as file:
        np.save(file, records)
    strings_table = pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})
    pq.write_table(strings_table, put("index.parquet"), row_group_size=ROWS_READ_TOGETHER)
    strings = hashlib.sha256()
    for column in columns.values():
        for text in column:
            strings.update(f"{len(text)} {text}".encode())
    content = {
        "schema_version": SCHEMA_VERSION,
        "samples": len(records),
        "shards": [{"name": path.name, "size_bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths],
        "records_sha256": hashlib.sha256(records.tobytes()).hexdigest(),
        "strings_sha256": strings.hexdigest(),
        "files": {name: _sha256(put(name)) for name in ("index.npy", "index.parquet")},
    }
    put("index.json").write_text(json.dumps(content, indent=1) + "\n")
    for name in ("index.npy", "index.parquet", "index.json"):
        put(name).replace(folder / name)
    return folder / "index.json"


def _fingerprint(content: dict[str, Any]) -> str:
    """Of everything but `files`: parquet bytes depend on the version that wrote them, the strings do not."""
    kept = {name: value for name, value in content.items() if name != "files"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _walk(path: Path, keys: set[str]) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
    """(offset, length, crc32, header) of each sample of one shard, members' tar headers included; adds to `keys`."""
    again = "restore the shard or convert the source again"
    if not path.stat().st_size:
        raise UserError(f"shard {path}", got="an empty file", expected="a tar", do=again)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end = 0
        for key, members in _samples(path):
            where = f"sample {key} in {path}"
            if key in keys:
                raise UserError(where, got="its key a second time", expected="one run of members per key", do=again)
            keys.add(key)
            start, end = members[0].offset, _end(members[-1])
            first = data[members[0].offset_data : members[0].offset_data + members[0].size]
            header = parse_header(first, where)
            names = [member.name.partition(".")[2] for member in members]
            if header["key"] != key or names != declared_members(header):
                raise UserError(
                    f"{where}, key and members",
                    got=(header["key"], names),
                    expected=(key, declared_members(header)),
                    do=again,
                )
            if any(not member.isreg() or member.offset_data - member.offset != BLOCK for member in members):
                raise UserError(
                    f"{where}, member headers",
                    got="links or extension headers",
                    expected="plain files with names of at most 100 bytes",
                    do="write the shards with pi05_train or webdataset.TarWriter(mtime=0)",
                )
            with memoryview(data)[start:end] as view:
                yield start, end - start, zlib.crc32(view), header
        if data[end : end + len(_END_OF_ARCHIVE)] != _END_OF_ARCHIVE:
            raise UserError(
                f"shard {path} after {end} bytes", got="no end-of-archive mark", expected="a whole tar", do=again
            )


def _samples(path: Path) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
    """Consecutive members that share the part of the name before the first dot."""
    members: list[tarfile.TarInfo] = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                key = member.name.partition(".")[0]
                if members and members[0].name.partition(".")[0] != key:
                    yield members[0].name.partition(".")[0], members
                    members = []
                members.append(member)
    except tarfile.TarError as error:
        raise UserError(
            f"shard {path}", got=error, expected="a whole tar", do="restore the shard or convert the source again"
        ) from error
    if members:
        yield members[0].name.partition(".")[0], members


def _end(member: tarfile.TarInfo) -> int:
    return member.offset_data + -(-member.size // BLOCK) * BLOCK
