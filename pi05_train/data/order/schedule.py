"""The mixture schedule: which samples form the global batch of a step, in closed form.

Nothing here remembers anything: the batch is computed from (seed, step), the sources' names, sizes, weights and phases,
so step 10**7 costs what step 0 costs, and ranks, workers and resumed runs agree without talking to each other.

A unit is `read_group` consecutive draws of a source; whole units are apportioned, ordered and put into slots, so that
the rows of one, neighbours in their shard, can be read at once. With a read group of 1 a unit is a draw.

Shapes: S sources (all, or those of a phase), N draws, P runs of draws that share source and epoch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi05_train.data.order.apportionment import Apportionment
from pi05_train.data.permutation import ROUNDS, permute, permute_each, round_keys
from pi05_train.errors import UserError

SCHEDULE_VERSION = 1
"""Part of a mixture's fingerprint; to be raised whenever the same inputs would give another order."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One slot of a global batch."""

    source: str
    row: int
    """Position among the source's rows that passed the filters."""
    draw: int
    """How many draws of this source came before, in the whole run: keys augmentation and flow noise."""


@dataclass(frozen=True)
class Phase:
    """The weights from a step on, until the next phase."""

    name: str
    from_step: int
    weights: Mapping[str, float]
    """Relative, any positive unit; a source that is not named takes no part."""

    def share(self, source: str) -> float:
        """Fraction of the phase's examples."""
        return self.weights.get(source, 0.0) / math.fsum(self.weights.values())


class Schedule:
    """Weights as shares of examples, each source in its own keyed order, every sample once per source epoch.

    `names`, `sizes` (rows) and `weights` (relative, any positive unit) are parallel; their order does not matter.
    After k draws of a phase the count of a source with share w is within 3 units of k * w. Draw d of a source depends
    only on (seed, name, size, read group, d): taking another source out leaves it as it was, and a phase goes on where
    the last ended.
    """

    def __init__(
        self,
        seed: int,
        names: Sequence[str],
        sizes: Sequence[int],
        weights: Sequence[float],
        global_batch: int,
        *,
        read_group: int = 1,
        phases: Sequence[Phase] | None = None,
        end_step: int | None = None,
        end_reason: str = "",
    ) -> None:
        """`weights` hold from step 0 until the first of `phases`, which ascend; where they are given a weight may be 0.

        From `end_step` on there is nothing to draw.
        """
        if not names or len(set(names)) != len(names):
            raise UserError("mixture, sources", got=list(names), expected="unique names, at least one", do="rename")
        for name, size, weight in zip(names, sizes, weights, strict=True):
            if size < 1:
                raise UserError(f"source {name}, rows", got=size, expected="at least 1", do="disable the source")
            if not (math.isfinite(weight) and (weight > 0 or (weight == 0 and phases is not None))):
                raise UserError(
                    f"source {name}, weight", got=weight, expected="a positive number", do="or disable the source"
                )
        if global_batch < 1:
            raise UserError("global batch", got=global_batch, expected="at least 1 sample", do="correct it")
        if read_group < 1 or global_batch % read_group:
            raise UserError(
                "read group", got=read_group, expected=f"a divisor of the global batch, {global_batch}", do="correct it"
            )
        self.seed = seed
        self.global_batch = global_batch
        self.read_group = read_group
        self.end_step = end_step
        self.end_reason = end_reason
        first = {name: weight for name, weight in zip(names, weights, strict=True) if weight > 0}
        self.phases = (Phase("", 0, first), *(phases or ()))
        self._sizes = dict(zip(names, sizes, strict=True))
        self._names_S = tuple(names)
        self._spans = _spans(self.phases, names, global_batch, read_group)
        self.names = (*self._spans[0].shares.names, *(name for name in names if name not in first))
        self._sizes_S = np.array(list(self._sizes.values()), np.int64)
        self._keys_S8 = np.zeros((len(names), ROUNDS), np.uint64)
        self._key_epochs_S = np.full(len(names), -1)

    def counts(self, step: int) -> dict[str, int]:
        """Draws of each source before `step`; they sum to step * global_batch."""
        span = self._span(step)
        return {name: span.base[name] for name in self.names} | dict(
            zip(span.shares.names, span.counts(step).tolist(), strict=True)
        )

    def epochs(self, step: int) -> dict[str, float]:
        """How often each source's rows have been seen before `step`."""
        return {name: count / self._sizes[name] for name, count in self.counts(step).items()}

    def requested(self, steps: int) -> dict[str, float]:
        """Share of the examples of the first `steps` that the weights ask for, averaged over the phases."""
        starts = [*(min(phase.from_step, steps) for phase in self.phases), steps]
        return {
            name: math.fsum(
                phase.share(name) * (after - before)
                for phase, before, after in zip(self.phases, starts, starts[1:], strict=False)
            )
            / steps
            for name in self.names
        }

    def draws(self, step: int) -> list[Draw]:
        """The global batch of `step`, in slot order."""
        if self.end_step is not None and step >= self.end_step:
            raise UserError(
                f"step {step}",
                got=self.end_reason or "nothing to draw",
                expected=f"a step before {self.end_step}",
                do="shorten run.steps, or set on_exhaust to repeat",
            )
        span = self._span(step)
        before_S, after_S = span.counts(step), span.counts(step + 1)
        drawn_S = after_S - before_S
        starts_S = np.cumsum(drawn_S) - drawn_S
        sources = np.repeat(span.sources_S, drawn_S)
        indices = np.arange(self.global_batch) + np.repeat(before_S - starts_S, drawn_S)
        rows = self._rows(sources, indices)
        # Without this a source would always stand in the same slots, hence on the same rank.
        units = self.global_batch // self.read_group
        order = permute(np.arange(units), units, "slots", self.seed, step)
        slots = np.add.outer(order * self.read_group, np.arange(self.read_group)).ravel()
        names = self._names_S
        return [
            Draw(names[source], row, draw)
            for source, row, draw in zip(
                sources[slots].tolist(), rows[slots].tolist(), indices[slots].tolist(), strict=True
            )
        ]

    def rows(self, name: str, draws: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows that these draws of one source take: epoch after epoch, each in an order of its own."""
        return self._rows(np.full(len(draws), self._names_S.index(name)), draws)

    def _rows(self, sources_N: NDArray[np.int64], draws_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of draws of several sources (numbers in the order of declaration).

        An epoch's whole units take the source's groups of `read_group` rows in a keyed order. What an epoch begins
        inside a unit (`heads`), and what is left at its end, takes the rows after the last group.
        """
        sizes_N = self._sizes_S[sources_N]
        epochs_N, positions_N = np.divmod(draws_N, sizes_N)
        heads_N = np.minimum((positions_N - draws_N) % self.read_group, sizes_N)
        groups_N = (sizes_N - heads_N) // self.read_group
        units_N, offsets_N = np.divmod(positions_N - heads_N, self.read_group)
        whole_N = (units_N >= 0) & (units_N < groups_N)
        rows_N = np.where(units_N < 0, groups_N * self.read_group + positions_N, positions_N)
        rows_N[whole_N] = self._permuted(sources_N[whole_N], epochs_N[whole_N], units_N[whole_N], groups_N[whole_N])
        rows_N[whole_N] = rows_N[whole_N] * self.read_group + offsets_N[whole_N]
        return rows_N

    def _permuted(
        self,
        sources_N: NDArray[np.int64],
        epochs_N: NDArray[np.int64],
        units_N: NDArray[np.int64],
        groups_N: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Which of the source's `groups` each of an epoch's whole units takes."""
        new_N = np.ones(len(sources_N), np.bool_)
        new_N[1:] = (sources_N[1:] != sources_N[:-1]) | (epochs_N[1:] != epochs_N[:-1])
        keys_P8 = self._epoch_keys(sources_N[new_N], epochs_N[new_N])
        return permute_each(units_N, groups_N, keys_P8[np.cumsum(new_N) - 1])

    def _epoch_keys(self, sources_P: NDArray[np.int64], epochs_P: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Keys of the sources' orders in those epochs; the last of each source are kept, since epochs are long."""
        keys_P8, names = self._keys_S8[sources_P], self._names_S
        for i in np.flatnonzero(self._key_epochs_S[sources_P] != epochs_P).tolist():
            source, epoch = int(sources_P[i]), int(epochs_P[i])
            keys_P8[i] = round_keys("rows", self.seed, names[source], epoch)
            self._keys_S8[source], self._key_epochs_S[source] = keys_P8[i], epoch
        return keys_P8

    def _span(self, step: int) -> _Span:
        return self._spans[bisect_right(self._spans, step, key=lambda span: span.from_step) - 1]


def rank_slice(draws: Sequence[Draw], rank: int, world_size: int) -> Sequence[Draw]:
    """A rank's part of a global batch; the parts of all ranks, one after the other, are the batch.

    Refuses (UserError) a number of ranks that does not divide the batch.
    """
    if not 0 <= rank < world_size or len(draws) % world_size:
        raise UserError(
            "data.global_batch_samples",
            got=f"{len(draws)} over {world_size} ranks, for rank {rank}",
            expected="a multiple of the number of ranks",
            do="change one of them",
        )
    size = len(draws) // world_size
    return draws[rank * size : (rank + 1) * size]


class _Span:
    """A phase with the draws that came before it."""

    def __init__(
        self,
        from_step: int,
        shares: Apportionment,
        base: dict[str, int],
        names: Sequence[str],
        global_batch: int,
        read_group: int,
    ) -> None:
        self.from_step = from_step
        self.shares = shares
        self.base = base
        """Draws of every source before the phase."""
        numbers = {name: number for number, name in enumerate(names)}
        self.sources_S = np.array([numbers[name] for name in shares.names])
        self._base_S = np.array([base[name] for name in shares.names])
        self._units, self._read_group = global_batch // read_group, read_group
        self._last = from_step, self._base_S

    def counts(self, step: int) -> NDArray[np.int64]:
        """Draws before `step`, parallel to `shares.names`. The last answer is kept: a batch begins where one ended."""
        if step != self._last[0]:
            counts = self.shares.counts((step - self.from_step) * self._units)
            self._last = step, self._base_S + np.array(counts) * self._read_group
        return self._last[1]


def _spans(phases: Sequence[Phase], names: Sequence[str], global_batch: int, read_group: int) -> list[_Span]:
    spans: list[_Span] = []
    base = dict.fromkeys(names, 0)
    for phase in phases:
        if spans:
            assert phase.from_step > spans[-1].from_step, "phases ascend"
            base = base | dict(zip(spans[-1].shares.names, spans[-1].counts(phase.from_step).tolist(), strict=True))
        spans.append(_Span(phase.from_step, Apportionment(phase.weights), base, names, global_batch, read_group))
    return spans
