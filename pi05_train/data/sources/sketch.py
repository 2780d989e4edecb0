"""Statistics of many vectors in one pass and little memory, in parts that can be put together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError

BINS = 2**16
"""Per dimension; openpi's histogram has 5,000."""
EXACT = 2**18
"""Vectors that are kept as they are; more of them go into bins."""
_FINEST, _WORD_BITS = -40, 50
"""Bins are never narrower than 2**-40, nor than 2**-50 of the largest number (float32 resolves 2**-24 of it)."""


class Sketch:
    """Count, mean, deviation, extremes and quantiles of vectors [dims] of finite float32.

    Quantiles are exact up to `EXACT` vectors. Beyond, they are right to one `BINS`-th of the dimension's whole range:
    every dimension has the narrowest bins of width 2**k, with edges at multiples of it, of which `BINS` reach from its
    smallest to its largest number. Such bins are unions of any finer ones, so parts hold exactly what the whole would,
    in whatever order they come; mean and deviation agree to rounding.
    """

    def __init__(self, dims: int) -> None:
        self.dims = dims
        self.count = 0
        self.mean = np.zeros(dims)
        self._squares = np.zeros(dims)
        """Sum of the squared distances from the mean."""
        self.low = np.full(dims, np.inf)
        self.high = np.full(dims, -np.inf)
        self._kept: list[NDArray[np.float32]] | None = []
        self._levels = np.zeros(dims, np.int64)
        self._starts = np.zeros(dims, np.int64)
        self._counts = np.zeros((0, BINS), np.int64)

    @property
    def std(self) -> NDArray[np.float64]:
        """[dims], over all vectors (not one fewer)."""
        return np.asarray(np.sqrt(self._squares / self.count), np.float64)

    def add(self, x_ND: NDArray[np.float32]) -> None:
        """Take in N vectors; refuses (UserError) those of another length."""
        assert x_ND.dtype == np.float32
        self._check(x_ND.shape[1])
        if not len(x_ND):
            return
        x_DN = np.ascontiguousarray(x_ND.T, np.float64)
        mean = x_DN.mean(axis=1)
        squares = ((x_DN - mean[:, None]) ** 2).sum(axis=1)
        self._moments(len(x_ND), mean, squares, x_DN.min(axis=1), x_DN.max(axis=1))
        if self._kept is not None and self.count <= EXACT:
            self._kept.append(x_ND.copy())
            return
        self._fit_bins()
        self._fill(x_DN)

    def merge(self, other: Sketch) -> None:
        """Take in the vectors of another sketch; refuses (UserError) vectors of another length."""
        self._check(other.dims)
        if not other.count:
            return
        self._moments(other.count, other.mean, other._squares, other.low, other.high)
        if self._kept is not None and other._kept is not None and self.count <= EXACT:
            self._kept += other._kept
            return
        self._fit_bins()
        if other._kept is None:
            for dim in range(self.dims):
                level, start = int(self._levels[dim]), int(self._starts[dim])
                self._counts[dim] += _regrouped(*other._view(dim), level, start)
        else:
            for kept in other._kept:
                self._fill(np.ascontiguousarray(kept.T, np.float64))

    def quantiles(self, shares: list[float]) -> NDArray[np.float64]:
        """[len(shares), dims]: the smallest number that the share of the vectors reaches, in each dimension."""
        assert self.count
        if self._kept is not None:
            x_ND = np.concatenate(self._kept).astype(np.float64)
            return np.asarray(np.quantile(x_ND, shares, axis=0, method="inverted_cdf"), np.float64)
        result = np.empty((len(shares), self.dims))
        for dim in range(self.dims):
            reached = np.cumsum(self._counts[dim])
            bins = np.searchsorted(reached, np.asarray(shares) * self.count)
            middles = (bins + self._starts[dim] + 0.5) * 2.0 ** self._levels[dim]
            result[:, dim] = np.clip(middles, self.low[dim], self.high[dim])
        return result

    def outside(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.int64]:
        """[dims]: how many numbers lie below `low` or above `high`, to within the numbers of one bin each."""
        if self._kept is not None:
            x_ND = np.concatenate(self._kept)
            return np.asarray(((x_ND < low) | (x_ND > high)).sum(axis=0), np.int64)
        widths = 2.0**self._levels
        first = np.clip(np.floor(low / widths) - self._starts, 0, BINS).astype(np.int64)
        last = np.clip(np.floor(high / widths) - self._starts, -1, BINS - 1).astype(np.int64)
        pairs = zip(self._counts, first, last, strict=True)
        return np.array([counts[:a].sum() + counts[b + 1 :].sum() for counts, a, b in pairs], np.int64)

    def _check(self, dims: int) -> None:
        if dims != self.dims:
            raise UserError(
                "vectors of one source",
                got=f"{self.dims} and {dims} dimensions",
                expected="as many in every sample",
                do="convert the source again",
            )

    def _moments(self, count: int, mean: Any, squares: Any, low: Any, high: Any) -> None:
        total = self.count + count
        apart = mean - self.mean
        self.mean = self.mean + apart * (count / total)
        self._squares = self._squares + squares + apart**2 * (self.count * count / total)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.count = total

    def _fit_bins(self) -> None:
        """Make the bins reach from `low` to `high`, and move what was kept into them."""
        levels, starts = _bins(self.low, self.high)
        if self._kept is None:
            for dim in np.flatnonzero((levels != self._levels) | (starts != self._starts)).tolist():
                self._counts[dim] = _regrouped(*self._view(dim), int(levels[dim]), int(starts[dim]))
            self._levels, self._starts = levels, starts
            return
        kept, self._kept = self._kept, None
        self._levels, self._starts = levels, starts
        self._counts = np.zeros((self.dims, BINS), np.int64)
        for x_ND in kept:
            self._fill(np.ascontiguousarray(x_ND.T, np.float64))

    def _view(self, dim: int) -> tuple[NDArray[np.int64], int, int]:
        return self._counts[dim], int(self._levels[dim]), int(self._starts[dim])

    def _fill(self, x_DN: NDArray[np.float64]) -> None:
        for dim, x_N in enumerate(x_DN):
            places = np.floor(x_N * 2.0 ** -float(self._levels[dim])).astype(np.int64) - self._starts[dim]
            if len(places) < BINS // 8:  # touching every bin would cost more than the numbers do
                np.add.at(self._counts[dim], places, 1)
            else:
                self._counts[dim] += np.bincount(places, minlength=BINS)


def _bins(low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(k, number of the first bin) of each dimension: the narrowest bins of which `BINS` hold its range."""
    largest = np.maximum(np.abs(low), np.abs(high))
    levels = np.maximum(_FINEST, np.frexp(largest)[1].astype(np.int64) - _WORD_BITS)
    with np.errstate(divide="ignore"):
        spans = np.frexp((high - low) / (BINS - 1))[1].astype(np.int64) - 2
    levels = np.where(high > low, np.maximum(levels, spans), levels)
    while True:
        starts, ends = np.floor(low * 2.0**-levels), np.floor(high * 2.0**-levels)
        wide = ends - starts >= BINS
        if not wide.any():
            return levels, starts.astype(np.int64)
        levels = levels + wide


def _regrouped(counts: NDArray[np.int64], level: int, start: int, new_level: int, new_start: int) -> NDArray[np.int64]:
    """The same counts in bins that are as wide or wider."""
    occupied = np.flatnonzero(counts)
    places = ((occupied + start) >> (new_level - level)) - new_start
    return np.bincount(places, weights=counts[occupied], minlength=BINS).astype(np.int64)
