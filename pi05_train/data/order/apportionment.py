"""Shares into whole numbers of draws, in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pi05_train.errors import UserError

_WHOLE = 2**48


class Apportionment:
    """How many of the first k draws each source gets: within 3 of k times its share, never less for a larger k.

    Nested floors: the first source takes its share of k, the next its share of what is left, and so on.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        """`weights` are positive, in any unit; refuses (UserError) a share too small to be counted."""
        total = math.fsum(weights.values())
        parts = {name: int(weight / total * _WHOLE) for name, weight in weights.items()}
        if vanished := [name for name, part in parts.items() if part < 1]:
            raise UserError(
                f"source {vanished[0]}, share", got="less than 2**-48", expected="a weight that counts", do="raise it"
            )
        # Nested floors keep every count near its share only when the large shares come first.
        self.names = tuple(sorted(parts, key=lambda name: (-parts[name], name)))
        parts[self.names[0]] += _WHOLE - sum(parts.values())
        self._fractions: list[tuple[int, int]] = []
        whole = _WHOLE
        for name in self.names:
            self._fractions.append((parts[name], whole))
            whole -= parts[name]

    def counts(self, draws: int) -> list[int]:
        """Parallel to `names`; they sum to `draws`."""
        left, counts = draws, []
        for part, whole in self._fractions:
            count = left * part // whole  # Python integers: the product outgrows 64 bits
            left -= count
            counts.append(count)
        return counts
