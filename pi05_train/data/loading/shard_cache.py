"""Bytes of remote shards on a local disk: a sparse file per shard, filled where samples have been read.

There is nothing to keep in step. A file is named by the sha256 of its shard, so that no two shards can be taken for
each other, and a sample is in it when the bytes at its place have its checksum: those that nobody has written yet, that
a killed process wrote in part, or that the disk has spoiled do not, and are fetched again. Any number of processes may
therefore write one file; they write the same bytes.
"""

from __future__ import annotations

import os
import shutil
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

from pi05_train.config.schema import DataConfig
from pi05_train.data.cache import Cache
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.sources.index import Shard
from pi05_train.errors import UserError


def shard_cache(mixture: Mixture, data: DataConfig) -> ShardCache | None:
    """The cache that `data.cache_gigabytes` asks for, made ready; None: nothing is kept, or all shards are local."""
    if not (mixture.remote and data.cache_gigabytes):
        return None
    shards = [shard for index in mixture.indexes.values() if index.store.remote for shard in index.shards]
    cache = ShardCache(Cache(data.cache).folder / "shards", shards, int(data.cache_gigabytes * 1e9))
    cache.prepare()
    return cache


class ShardCache:
    """Samples of some shards, in `folder`."""

    def __init__(self, folder: Path, shards: Iterable[Shard], limit_bytes: int) -> None:
        """Keep as many of `shards` as fit below `limit_bytes`: always the same ones, so that none pushes another out.

        They are taken in the order of their hashes: of every source about the same part.
        """
        self._folder = folder
        self._kept: set[str] = set()
        self.bytes = 0
        """What the kept shards come to in all."""
        self._full = False
        for shard in sorted({shard.sha256: shard for shard in shards}.values(), key=lambda shard: shard.sha256):
            if self.bytes + shard.size_bytes <= limit_bytes:
                self._kept.add(shard.sha256)
                self.bytes += shard.size_bytes
        self._limit_bytes = limit_bytes

    def prepare(self) -> None:
        """Make the folder, and room below the limit by removing the files of other runs, those unused longest first.

        Refuses (UserError) a disk on which the kept shards will not fit.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        files = {path: path.stat() for path in self._folder.iterdir()}
        others = sorted((path for path in files if path.name not in self._kept), key=lambda path: files[path].st_mtime)
        taken = {path: stat.st_blocks * 512 for path, stat in files.items()}
        surplus = self.bytes + sum(taken[path] for path in others) - self._limit_bytes
        for path in others:
            if surplus <= 0:
                break
            path.unlink(missing_ok=True)
            surplus -= taken.pop(path)
        present = sum(size for path, size in taken.items() if path.name in self._kept)
        free = shutil.disk_usage(self._folder).free
        if self.bytes - present > free:
            raise UserError(
                f"cache of shards in {self._folder}",
                got=f"{free / 1e9:.1f} GB free",
                expected=f"{(self.bytes - present) / 1e9:.1f} GB for the rest of the shards to keep",
                do="lower data.cache_gigabytes, or choose a larger disk for data.cache",
            )

    def read(self, shard: Shard, start: int, length: int, crc32: int) -> bytes | None:
        """The sample's bytes, or None where they are not there yet."""
        if shard.sha256 not in self._kept:
            return None
        try:
            with (self._folder / shard.sha256).open("rb", buffering=0) as file:
                content = os.pread(file.fileno(), length, start)
        except FileNotFoundError:
            return None
        return content if len(content) == length and zlib.crc32(content) == crc32 else None

    def write(self, shard: Shard, start: int, content: bytes) -> None:
        """Keep a sample's bytes; a full disk is said once and costs speed, not data."""
        if shard.sha256 not in self._kept or self._full:
            return
        try:
            descriptor = os.open(self._folder / shard.sha256, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(descriptor, content, start)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._full = True
            print(f"{self._folder}: {error.strerror}; shards are read without a cache from now on", file=sys.stderr)
