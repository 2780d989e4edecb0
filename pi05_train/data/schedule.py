"""The mixture schedule: which samples form the global batch of a step, in closed form.

Nothing here remembers anything: the batch is computed from (seed, step), the sources' names, sizes and weights, so
step 10**7 costs what step 0 costs, and ranks, workers and resumed runs agree without talking to each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi05_train.data.permutation import permute
from pi05_train.errors import UserError

SCHEDULE_VERSION = 1
"""Part of a mixture's fingerprint; to be raised whenever the same inputs would give another order."""
_WHOLE = 2**48


@dataclass(frozen=True, slots=True)
class Draw:
    """One slot of a global batch."""

    source: str
    row: int
    """Position among the source's rows that passed the filters."""
    draw: int
    """How many draws of this source came before, in the whole run: keys augmentation and flow noise."""


class Schedule:
    """Weights as shares of examples, each source in its own keyed order, every sample once per source epoch.

    `names`, `sizes` (rows) and `weights` (relative, any positive unit) are parallel; their order does not matter.
    After k draws the count of a source with share w is within 3 of k * w. Draw d of a source depends only on (seed,
    name, size, d): taking another source out leaves it as it was.
    """

    def __init__(
        self, seed: int, names: Sequence[str], sizes: Sequence[int], weights: Sequence[float], global_batch: int
    ) -> None:
        if not names or len(set(names)) != len(names):
            raise UserError("mixture, sources", got=list(names), expected="unique names, at least one", do="rename")
        for name, size, weight in zip(names, sizes, weights, strict=True):
            if size < 1:
                raise UserError(f"source {name}, rows", got=size, expected="at least 1", do="disable the source")
            if not (math.isfinite(weight) and weight > 0):
                raise UserError(
                    f"source {name}, weight", got=weight, expected="a positive number", do="or disable the source"
                )
        if global_batch < 1:
            raise UserError("global batch", got=global_batch, expected="at least 1 sample", do="correct it")
        self.seed = seed
        self.global_batch = global_batch
        total = math.fsum(weights)
        parts = {name: int(weight / total * _WHOLE) for name, weight in zip(names, weights, strict=True)}
        if vanished := [name for name, part in parts.items() if part < 1]:
            raise UserError(
                f"source {vanished[0]}, share", got="less than 2**-48", expected="a weight that counts", do="raise it"
            )
        # Nested floors keep every count near its share only when the large shares come first.
        self.names = tuple(sorted(names, key=lambda name: (-parts[name], name)))
        parts[self.names[0]] += _WHOLE - sum(parts.values())
        self._parts = tuple(parts[name] for name in self.names)
        self._sizes = dict(zip(names, sizes, strict=True))

    def counts(self, step: int) -> dict[str, int]:
        """Draws of each source before `step`; they sum to step * global_batch."""
        left, whole, counts = step * self.global_batch, _WHOLE, {}
        for name, part in zip(self.names, self._parts, strict=True):
            counts[name] = left * part // whole  # Python integers: the product outgrows 64 bits
            left, whole = left - counts[name], whole - part
        return counts

    def draws(self, step: int) -> list[Draw]:
        """The global batch of `step`, in slot order."""
        before, after = self.counts(step), self.counts(step + 1)
        drawn: list[Draw] = []
        for name in self.names:
            indices = np.arange(before[name], after[name])
            rows = self.rows(name, indices)
            drawn += [Draw(name, row, draw) for row, draw in zip(rows.tolist(), indices.tolist(), strict=True)]
        # Without this a source would always stand in the same slots, hence on the same rank.
        slots = permute(np.arange(self.global_batch), self.global_batch, "slots", self.seed, step)
        return [drawn[slot] for slot in slots.tolist()]

    def rows(self, name: str, draws: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows that these draws of one source take: epoch after epoch, each in an order of its own."""
        size = self._sizes[name]
        epochs, positions = np.divmod(draws, size)
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            rows[chosen] = permute(positions[chosen], size, "rows", self.seed, name, epoch)
        return rows
