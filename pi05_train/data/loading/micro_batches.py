"""Which micro-batches a rank makes of a step's global batch: of so many samples each, or within budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pi05_train.config.build import Statistics
from pi05_train.config.schema import Config
from pi05_train.data.loading.budget import Budget, Costs, divide
from pi05_train.data.loading.token_counts import COUNT, Counts, open_counts
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.schedule import Draw, rank_slice
from pi05_train.errors import UserError

Division = Callable[[Sequence[Draw]], list[list[Draw]]]
"""From the global batch of a step to a rank's micro-batches; no function but this decides what a rank computes."""
_ROWS_TOGETHER = 2**20


def make_division(config: Config, mixture: Mixture, statistics: Statistics, *, rank: int, world_size: int) -> Division:
    """The division that `data.micro_batch_*` asks for.

    Refuses (UserError), from the counts alone, a sample that is over a budget by itself.
    """
    budget = Budget(config.data.micro_batch_tokens, config.data.micro_batch_images)
    if budget == Budget(None, None):
        return of_equal_number(config.data.micro_batch_samples, rank=rank, world_size=world_size)
    sizes = Sizes.open(config, mixture, statistics)
    sizes.check(budget)
    return within_budget(sizes, budget, rank=rank, world_size=world_size)


def of_equal_number(samples: int, *, rank: int = 0, world_size: int = 1) -> Division:
    """Micro-batches of `samples` draws in slot order, the last of what is left."""

    def division(draws: Sequence[Draw]) -> list[list[Draw]]:
        own = rank_slice(draws, rank, world_size)
        return [list(own[start : start + samples]) for start in range(0, len(own), samples)]

    return division


def within_budget(sizes: Sizes, budget: Budget, *, rank: int = 0, world_size: int = 1) -> Division:
    """Micro-batches of alike cost within the budget, as many on every rank; see `divide`."""

    def division(draws: Sequence[Draw]) -> list[list[Draw]]:
        return [[draws[slot] for slot in part] for part in divide(sizes.costs(draws), budget, world_size)[rank]]

    return division


class Sizes:
    """What every sample of a mixture costs."""

    def __init__(self, mixture: Mixture, counts: Mapping[str, Counts], tokens_per_image: int, *, expert: bool) -> None:
        """`expert`: whether samples with actions train one."""
        self._mixture = mixture
        self._counts = counts
        self._tokens_per_image = tokens_per_image
        self._acting = {name: expert and card.has_actions for name, card in mixture.cards.items()}

    @classmethod
    def open(cls, config: Config, mixture: Mixture, statistics: Statistics) -> Sizes:
        """From the counts that `pi05 data count` made; UserError where a source has none."""
        counts = {name: open_counts(name, mixture.indexes[name], config, statistics) for name in mixture.names}
        tokens_per_image = config.model.vision.tokens_per_image
        return cls(mixture, counts, tokens_per_image, expert=config.stage.objective.expert)

    def costs(self, draws: Sequence[Draw]) -> Costs:
        """What the draws cost, in their order."""
        counts_B = np.zeros(len(draws), COUNT)
        places: dict[str, list[int]] = {}
        for place, draw in enumerate(draws):
            places.setdefault(draw.source, []).append(place)
        acting_B = np.zeros(len(draws), np.bool_)
        for source, own in places.items():
            rows = self._mixture.rows[source]
            counts_B[own] = self._counts[source][[int(rows[draws[place].row]) for place in own]]
            acting_B[own] = self._acting[source]
        return Costs(self._tokens(counts_B), counts_B["images"].astype(np.int64), acting_B)

    def of_source(self, source: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(tokens, images) of every row of the source's index."""
        counts = self._counts[source]
        return self._size(counts, "tokens"), self._size(counts, "images")

    def check(self, budget: Budget) -> None:
        """Refuse (UserError) a budget that a sample of the mixture exceeds by itself, naming the largest one."""
        for name in self._mixture.names:
            for what, limit in (("tokens", budget.tokens), ("images", budget.images)):
                if limit is not None:
                    self._check(name, what, limit)

    def _check(self, source: str, what: str, limit: int) -> None:
        over: list[NDArray[np.int64]] = []
        for start in range(0, len(self._counts[source]), _ROWS_TOGETHER):
            counts = self._counts[source][start : start + _ROWS_TOGETHER]
            over.append(start + np.flatnonzero(self._size(counts, what) > limit))
        rows = np.concatenate(over)
        if not len(rows):
            return
        drawn = np.flatnonzero(np.isin(np.asarray(self._mixture.rows[source]), rows))
        if len(drawn):
            sizes = self._size(self._counts[source][np.asarray(self._mixture.rows[source])[drawn]], what)
            largest = int(sizes.argmax())
            raise UserError(
                f"data.micro_batch_{what}",
                got=limit,
                expected=f"at least {sizes[largest]}, which sample {self._mixture.key(source, int(drawn[largest]))} of "
                f"source {source} has alone",
                do=f"raise it, or leave out the {len(drawn)} samples of {source} that are over it",
            )

    def _size(self, counts: Counts, what: str) -> NDArray[np.int64]:
        return self._tokens(counts) if what == "tokens" else counts["images"].astype(np.int64)

    def _tokens(self, counts: Counts) -> NDArray[np.int64]:
        """Image, prompt and target tokens."""
        return counts["tokens"] + counts["images"].astype(np.int64) * self._tokens_per_image
