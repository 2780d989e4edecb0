"""A step's global batch divided into micro-batches of alike cost, by budgets of tokens and pictures.

A pure function of the draws' costs, the budgets and the number of ranks: nothing is remembered between steps. What is
divided is always the same batch, and losses are divided by counts over all of it, so the division changes no number
beyond rounding.

Shapes: B draws of the step, N micro-batches of all ranks.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError


@dataclass(frozen=True)
class Budget:
    """The most that a micro-batch may hold; None: any number."""

    tokens: int | None
    """Rows of the backbone's stream: image, prompt and target tokens."""
    images: int | None


@dataclass(frozen=True)
class Costs:
    """What each draw of a step costs, in slot order."""

    tokens_B: NDArray[np.int64]
    """Image, prompt and target tokens, at least 1. The expert's rows are left out: at full size the 50 of a chunk take
    as many operations as ten of these, a hundredth of a robot sample."""
    images_B: NDArray[np.int64]
    acting_B: NDArray[np.bool_]
    """Whether it trains the action expert."""


def divide(costs: Costs, budget: Budget, world_size: int) -> list[list[list[int]]]:
    """For each rank the same number of micro-batches, each with its slots, ascending; every slot is in one of them.

    None is empty, each has an action sample if there are that many, and there are no more than it takes to fill them
    that way (a budget that hardly holds the largest sample takes many). Those of one turn, which wait for each other,
    are neighbours in tokens; without a picture budget no two at all differ by more than the largest sample. No draw
    alone may be over budget. Refuses (UserError) a `world_size` that does not divide B.
    """
    size = len(costs.tokens_B)
    if size % world_size:
        raise UserError(
            "data.global_batch_samples",
            got=f"{size} over {world_size} ranks",
            expected="a multiple of the number of ranks",
            do="change one of them",
        )
    for costs_B, limit in ((costs.tokens_B, budget.tokens), (costs.images_B, budget.images)):
        assert limit is None or costs_B.max() <= limit, "a draw alone is over budget"
    number = _fewest(costs, budget, world_size)
    while (parts := _fill(costs, budget, number)) is None:
        number += world_size
    return _deal(parts, costs, world_size)


def _fewest(costs: Costs, budget: Budget, world_size: int) -> int:
    """A number of micro-batches, a multiple of `world_size`, that no division can do without."""
    needed = 1
    for total, limit in ((costs.tokens_B.sum(), budget.tokens), (costs.images_B.sum(), budget.images)):
        if limit is not None:
            needed = max(needed, -(-int(total) // limit))
    return -(-needed // world_size) * world_size


def _fill(costs: Costs, budget: Budget, number: int) -> list[list[int]] | None:
    """`number` micro-batches within the budgets, or None where this way of filling them finds none.

    First one action sample each, the largest first; then every other sample, the largest first, where there are fewest
    tokens among those with room for its pictures.
    """
    tokens, images = costs.tokens_B.tolist(), costs.images_B.tolist()
    largest_first = np.argsort(-costs.tokens_B, kind="stable")
    acting = costs.acting_B[largest_first]
    first = largest_first[acting][:number].tolist()
    rest = largest_first[~acting | (np.cumsum(acting) > number)].tolist()
    most_tokens = np.inf if budget.tokens is None else budget.tokens
    most_images = np.inf if budget.images is None else budget.images
    parts = [[slot] for slot in first] + [[] for _ in range(number - len(first))]
    held = [images[part[0]] if part else 0 for part in parts]
    lightest = [(tokens[part[0]] if part else 0, place) for place, part in enumerate(parts)]
    heapq.heapify(lightest)
    for slot in rest:
        full = []
        while lightest and held[lightest[0][1]] + images[slot] > most_images:
            full.append(heapq.heappop(lightest))
        if not lightest or lightest[0][0] + tokens[slot] > most_tokens:
            return None
        load, place = lightest[0]
        heapq.heapreplace(lightest, (load + tokens[slot], place))
        parts[place].append(slot)
        held[place] += images[slot]
        for entry in full:
            heapq.heappush(lightest, entry)
    return parts


def _deal(parts: list[list[int]], costs: Costs, world_size: int) -> list[list[list[int]]]:
    """The micro-batches by descending tokens, a turn of all ranks at a time, in alternating direction."""
    loads = [int(costs.tokens_B[part].sum()) for part in parts]
    order = sorted(range(len(parts)), key=lambda place: (-loads[place], place))
    ranks: list[list[list[int]]] = [[] for _ in range(world_size)]
    for turn, start in enumerate(range(0, len(order), world_size)):
        places = order[start : start + world_size]
        for rank, place in enumerate(reversed(places) if turn % 2 else places):
            ranks[rank].append(sorted(parts[place]))
    return ranks
