"""Normalisation statistics of a source, from its states and actions alone (images are neither read nor decoded)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.data.cache import Cache
from pi05_train.data.parallel import in_order
from pi05_train.data.sources.index import Index
from pi05_train.data.sources.lowdim import Block, read_blocks
from pi05_train.data.sources.rows import filter_rows
from pi05_train.data.sources.sketch import Sketch
from pi05_train.errors import UserError
from pi05_train.processing.normalisation import RANGE_FLOOR, NormStats, to_delta, write_norm_stats
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import FilterConfig

QUANTILES = [0.01, 0.99]
PARTS, ROWS_PER_PART = 64, 2048
"""Runs of rows that are summed on their own: the same for any number of processes, so the sums are the same too. There
are at most `PARTS`, and none is smaller than `ROWS_PER_PART` where there are several."""

Report = Callable[[int, int, str], None]
"""(parts done, of how many, what)."""


@dataclass
class Tally:
    """What one pass over the numbers of a source, or of a part of it, has found."""

    samples: int = 0
    """With numbers."""
    without_numbers: int = 0
    """Samples that have neither state nor actions."""
    steps: int = 0
    """Action steps within the horizon, valid or not."""
    valid_steps: int = 0
    chunks: int = 0
    idle_chunks: int = 0
    """Chunks of several valid steps in which no action dimension moves by more than `RANGE_FLOOR`."""
    vectors: dict[str, Sketch] = field(default_factory=dict)
    """"state": of every anchor frame. "actions": every valid element, as the network will be asked for it."""
    absolute: Sketch | None = None
    """Of the chunks' first actions as they are stored."""
    not_finite: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """NaN and Inf under "state" and "actions", per dimension; samples that hold any are counted here alone."""

    def add(self, block: Block, card: SourceCard, horizon: int) -> None:
        """Take in a block of samples; refuses (UserError) vectors of other lengths than the card's."""
        _check(block, card)
        state_NS, actions_NHA = block.arrays.get("state"), block.arrays.get("actions")
        good_N = np.ones(len(block.rows), bool)
        for name, x in (("state", state_NS), ("actions", actions_NHA)):
            if x is not None:
                finite = np.isfinite(x)
                good_N &= finite.reshape(len(x), -1).all(axis=1)
                self._count(name, (~finite).reshape(-1, x.shape[-1]).sum(axis=0))
        self.samples += len(good_N)
        if state_NS is not None:
            self._sketch("state", state_NS.shape[1]).add(state_NS[good_N])
        if actions_NHA is not None:
            self._add_actions(
                actions_NHA[good_N], block.arrays["action_valid"][good_N], state_NS, good_N, card, horizon
            )

    def _add_actions(
        self,
        chunk_NHA: NDArray[np.float32],
        valid_NH: NDArray[np.bool_],
        state_NS: NDArray[np.float32] | None,
        good_N: NDArray[np.bool_],
        card: SourceCard,
        horizon: int,
    ) -> None:
        chunk_NHA, valid_NH = chunk_NHA[:, :horizon], valid_NH[:, :horizon]
        self.absolute = self.absolute or Sketch(chunk_NHA.shape[2])
        self.absolute.add(chunk_NHA[:, 0])
        self.steps += valid_NH.size
        self.valid_steps += int(valid_NH.sum())
        several_N = valid_NH.sum(axis=1) > 1
        moving = np.where(valid_NH[..., None], chunk_NHA, chunk_NHA[:, :1])
        self.chunks += int(several_N.sum())
        self.idle_chunks += int((several_N & (np.ptp(moving, axis=1) <= RANGE_FLOOR).all(axis=1)).sum())
        if card.delta_mask:
            assert state_NS is not None
            chunk_NHA = np.asarray(to_delta(chunk_NHA, state_NS[good_N], card.delta_mask), np.float32)
        self._sketch("actions", chunk_NHA.shape[2]).add(chunk_NHA[valid_NH])

    def merge(self, other: Tally) -> None:
        """Take in what another pass found."""
        for name in ("samples", "without_numbers", "steps", "valid_steps", "chunks", "idle_chunks"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, sketch in other.vectors.items():
            self._sketch(name, sketch.dims).merge(sketch)
        for name, counts in other.not_finite.items():
            self._count(name, counts)
        if other.absolute is not None:
            self.absolute = self.absolute or Sketch(other.absolute.dims)
            self.absolute.merge(other.absolute)

    def norm_stats(self) -> dict[str, NormStats]:
        """Statistics by vector; a vector without a finite number is absent."""
        statistics = {}
        for name, sketch in self.vectors.items():
            if sketch.count:
                q01, q99 = sketch.quantiles(QUANTILES)
                statistics[name] = NormStats(q01=q01, q99=q99, mean=sketch.mean, std=sketch.std)
        return statistics

    def _sketch(self, name: str, dims: int) -> Sketch:
        return self.vectors.setdefault(name, Sketch(dims))

    def _count(self, name: str, counts: NDArray[np.int64]) -> None:
        self.not_finite[name] = self.not_finite[name] + counts if name in self.not_finite else counts


def tally_source(
    folder: Path, card: SourceCard, horizon: int, *, workers: int = 1, report: Report | None = None
) -> Tally:
    """The numbers of the training rows of the indexed source in `folder`, over the first `horizon` action steps.

    One pass, in `workers` processes; the result does not depend on how many. Refuses (UserError) what `Index.open`
    and `read_blocks` refuse, and vectors of differing lengths.
    """
    cache = Cache()
    rows = np.asarray(filter_rows(card.name, Index.open(folder, cache), FilterConfig(), cache))
    parts = np.array_split(rows, max(1, min(PARTS, len(rows) // ROWS_PER_PART)))
    jobs = [_Job(folder, card, horizon, part) for part in parts]
    whole = Tally()
    for number, tally in enumerate(in_order(_tally, jobs, min(workers, len(jobs)))):
        whole.merge(tally)
        if report:
            report(number + 1, len(jobs), "")
    return whole


@dataclass(frozen=True)
class _Job:
    folder: Path
    card: SourceCard
    horizon: int
    rows: NDArray[np.int64]


def _tally(job: _Job) -> Tally:
    return _tally_rows(Index.open(job.folder), job.card, job.horizon, job.rows)


def _tally_rows(index: Index, card: SourceCard, horizon: int, rows: NDArray[np.int64]) -> Tally:
    tally = Tally()
    for block in read_blocks(index, rows):
        tally.add(block, card, horizon)
    tally.without_numbers = len(rows) - tally.samples
    return tally


def norm_stats(x_ND: NDArray[np.floating[Any]]) -> NormStats:
    """Quantiles, mean and standard deviation of each column, in double precision.

    A quantile is the smallest number that the share of the data reaches: openpi's (`shared/normalize.py`), whose
    histogram rounds it down to one five-thousandth of the range.
    """
    x = x_ND.astype(np.float64)
    q01, q99 = np.quantile(x, QUANTILES, axis=0, method="inverted_cdf")
    return NormStats(q01=q01, q99=q99, mean=x.mean(axis=0), std=x.std(axis=0))


def write_statistics(folder: Path, card: SourceCard, horizon: int, *, workers: int = 1) -> Path | None:
    """Write `norm_stats.json` beside the indexed shards in `folder`, over all training rows; None without numbers."""
    tally = _finite(tally_source(folder, card, horizon, workers=workers), f"source {card.name}")
    if not tally.norm_stats():
        return None
    path = folder / "norm_stats.json"
    write_norm_stats(path, tally.norm_stats())
    return path


def embodiments(cards: list[SourceCard]) -> dict[str, list[SourceCard]]:
    """Sources that may share statistics: of one embodiment, with the same control mode, dimensions and delta mask."""
    groups: dict[tuple[object, ...], list[SourceCard]] = {}
    for card in cards:
        if card.has_actions and card.embodiment:
            alike = (card.embodiment, card.control_mode, card.state_dim, card.action_dim, *card.delta_mask)
            groups.setdefault(alike, []).append(card)
    named: dict[str, list[SourceCard]] = {}
    for group in groups.values():
        words = f"{group[0].embodiment} {group[0].control_mode}".split()
        name = "_".join("".join(letter for letter in word if letter.isalnum()) for word in words).lower()
        named[name if name not in named else f"{name}_{len(named)}"] = group
    return named


def _check(block: Block, card: SourceCard) -> None:
    wanted = {"state": card.state_dim, "actions": card.action_dim}
    for name, dims in wanted.items():
        array = block.arrays.get(name)
        if (array is None and card.has_actions) or (array is not None and array.shape[-1] != dims):
            raise UserError(
                f"{name} of source {card.name}, index row {block.rows[0]}",
                got="none" if array is None else f"{array.shape[-1]} dimensions",
                expected=f"the card's {dims}",
                do="correct the card or convert the source again",
            )


def _finite(tally: Tally, where: str) -> Tally:
    for name, counts in tally.not_finite.items():
        if counts.any():
            raise UserError(
                f"{where}, {name}, dimensions {np.flatnonzero(counts).tolist()}",
                got=f"{counts.sum()} NaN or Inf",
                expected="finite numbers",
                do="drop those samples and convert the source again",
            )
    return tally
