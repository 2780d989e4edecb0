"""How long every sample of a source is as an example; kept in the cache, under a name made of all that decides it.

Lengths depend on tokenizers, templates, statistics and horizon, so they do not belong into the index. They are counted
once per choice of these, from the samples' text and numbers alone: a picture is neither read nor decoded.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from pi05_train.config.build import Statistics, build_processor, fingerprints, shard_statistics
from pi05_train.config.compose import to_yaml
from pi05_train.config.convert import build
from pi05_train.config.schema import Config
from pi05_train.data.cache import Cache
from pi05_train.data.parallel import in_order
from pi05_train.data.sources.index import Index, Shard
from pi05_train.data.sources.lowdim import read_heads
from pi05_train.errors import UserError
from pi05_train.processing.processor import Processor
from pi05_train.samples.shards import check_sample, parse_head
from pi05_train.samples.store import Store

COUNT_VERSION = 1
"""Part of the name; to be raised whenever the same inputs would give other counts."""
COUNT = np.dtype([("tokens", "<u4"), ("images", "u1")])
"""Prompt and target tokens together, and pictures (whose tokens depend on the network's picture size)."""
ROWS_PER_PART = 4096
"""Rows that are counted together and kept when the rest is interrupted: some seconds of work."""

Counts = NDArray[np.void]
"""`COUNT` of every row of an index, memory-mapped. A row that cannot be read counts as the longest and as the one with
most pictures: whatever is drawn in its place is no longer."""
Report = Callable[[int, int, str], None]
"""(rows done, of how many, source)."""


def count_source(
    source: str,
    index: Index,
    config: Config,
    statistics: Statistics,
    *,
    workers: int = 1,
    report: Report | None = None,
) -> int:
    """Count the rows of a source into `data.cache`, unless they are there; returns how many of them cannot be read.

    In `workers` processes; the counts do not depend on how many. What an interrupted count had finished is kept.
    Refuses (UserError) what the processor refuses, and a source without a readable sample.
    """
    cache, name = Cache(config.data.cache), counts_name(source, index, config, statistics)
    facts = cache.read_facts(f"{name}.json")
    if facts is not None and cache.read(f"{name}.npy", facts["sha256"]) is not None:
        return int(facts["unreadable"])
    starts = range(0, len(index), ROWS_PER_PART)
    parts = {start: _read_part(cache.folder / name / f"{start}.npy") for start in starts}
    missing = [start for start, part in parts.items() if part is None]
    setup = to_yaml(_alone(config, source))
    jobs = (_job(setup, index, start) for start in missing)
    for start, part in zip(missing, in_order(_count, jobs, min(workers, len(missing))), strict=True):
        cache.write(f"{name}/{start}.npy", _npy(part))
        parts[start] = part
        if report:
            report(min(start + ROWS_PER_PART, len(index)), len(index), source)
    counts = np.concatenate([part for part in parts.values() if part is not None])
    unreadable = counts["tokens"] == 0
    if unreadable.all():
        raise UserError(f"source {source}", got="no readable sample", expected="some", do="convert it again")
    for column in ("tokens", "images"):
        counts[column][unreadable] = counts[column].max()
    content = _npy(counts)
    cache.write(f"{name}.npy", content)
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "unreadable": int(unreadable.sum())}
    cache.write_facts(f"{name}.json", facts)
    shutil.rmtree(cache.folder / name)
    return int(facts["unreadable"])


def open_counts(source: str, index: Index, config: Config, statistics: Statistics) -> Counts:
    """The counts of a source; UserError where they have not been made for this configuration."""
    cache, name = Cache(config.data.cache), counts_name(source, index, config, statistics)
    facts = cache.read_facts(f"{name}.json")
    path = None if facts is None else cache.read(f"{name}.npy", facts["sha256"])
    if path is None:
        raise UserError(
            f"token counts of source {source}",
            got=f"none in {cache.folder} for these tokenizers, templates and statistics",
            expected="a count for every sample, as data.micro_batch_tokens and data.micro_batch_images need",
            do="run `pi05 data count` with the same arguments",
        )
    counts: Counts = np.load(path, mmap_mode="r")
    assert counts.dtype == COUNT
    assert len(counts) == len(index)
    return counts


def counts_name(source: str, index: Index, config: Config, statistics: Statistics) -> str:
    """What the counts of a source are called in the cache."""
    model, card = config.model, asdict(config.mixture.sources[source].card)
    decisive = ("kind", "cameras", "control_mode", "rate_hz", "state_dim", "action_dim", "delta_mask")
    key = {
        "version": COUNT_VERSION,
        "index": index.fingerprint,
        "card": {name: card[name] for name in decisive},
        "fingerprints": fingerprints(config, {name: of for name, of in statistics.items() if name == source}),
        "fast_native_dims": config.tokenizer.fast_native_dims,
        "templates": asdict(config.templates),
        "normalisation": config.data.normalisation,
        "model": [model.family, model.action_horizon, model.action_dim, model.max_prompt_tokens, model.pi0_fast_quirks],
        "text": config.stage.objective.text,
    }
    return f"token_counts/{source}-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}"


@dataclass(frozen=True)
class _Job:
    setup: str
    """The configuration with the source alone, as YAML."""
    store: Store
    shards: tuple[Shard, ...]
    records: NDArray[np.void]
    """Some rows of the index, with shards numbered as in `shards`."""


def _alone(config: Config, source: str) -> Config:
    return replace(config, mixture=replace(config.mixture, sources={source: config.mixture.sources[source]}))


def _job(setup: str, index: Index, start: int) -> _Job:
    records = np.array(index.records[start : start + ROWS_PER_PART])
    lowest, highest = int(records["shard"].min()), int(records["shard"].max())
    records["shard"] -= lowest
    return _Job(setup, index.store, index.shards[lowest : highest + 1], records)


def _count(job: _Job) -> NDArray[np.void]:
    """`COUNT` of each row; 0 tokens where it cannot be read, and a run would replace it."""
    processor = _processor(job.setup)
    (card,) = processor.cards.values()
    counts = np.zeros(len(job.records), COUNT)
    for row, head in enumerate(read_heads(job.store, job.shards, job.records)):
        if isinstance(head, UserError):
            continue
        try:
            sample = parse_head(*head)
            check_sample(sample, card)
        except UserError:
            continue
        counts[row] = processor.count(sample)
    return counts


@lru_cache(maxsize=1)
def _processor(setup: str) -> Processor:
    """One for all jobs of a process: loading the tokenizers takes as long as counting hundreds of samples."""
    config = build(Config, yaml.safe_load(setup))
    return build_processor(config, shard_statistics(config))


def _read_part(path: Path) -> NDArray[np.void] | None:
    """What an earlier count left there; None if that is nothing, or damaged."""
    try:
        return np.asarray(np.load(path))
    except (FileNotFoundError, ValueError, EOFError):
        return None


def _npy(array: NDArray[np.void]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
