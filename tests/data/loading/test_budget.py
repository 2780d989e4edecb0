"""The division of a step's batch: what holds for every batch, budget and number of ranks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.data.loading.budget import Budget, Costs, divide
from pi05_train.errors import UserError


@st.composite
def batches(draw: st.DrawFn) -> tuple[Costs, Budget, int]:
    """A batch of robot and web samples, budgets that hold its largest, and ranks that divide it."""
    world = draw(st.sampled_from([1, 2, 3, 8]))
    size = world * draw(st.integers(1, 40))
    images = np.array(draw(st.lists(st.integers(1, 4), min_size=size, max_size=size)))
    text = np.array(draw(st.lists(st.integers(1, 300), min_size=size, max_size=size)))
    acting = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    costs = Costs(256 * images + text, images, acting)
    more_tokens, more_images = draw(st.integers(0, 20_000)), draw(st.integers(0, 60))
    return costs, Budget(int(costs.tokens_B.max()) + more_tokens, int(images.max()) + more_images), world


def held(costs: Costs, ranks: list[list[list[int]]]) -> tuple[list[int], list[int]]:
    """(tokens, pictures) of every micro-batch."""
    parts = [part for rank in ranks for part in rank]
    return [int(costs.tokens_B[part].sum()) for part in parts], [int(costs.images_B[part].sum()) for part in parts]


@settings(deadline=None)
@given(batches())
def test_every_draw_is_computed_once_within_the_budgets_and_in_as_many_turns_on_every_rank(
    batch: tuple[Costs, Budget, int],
) -> None:
    costs, budget, world = batch
    assert budget.tokens is not None
    assert budget.images is not None
    ranks = divide(costs, budget, world)
    assert len(ranks) == world
    assert len({len(rank) for rank in ranks}) == 1
    parts = [part for rank in ranks for part in rank]
    assert all(parts)
    assert sorted(slot for part in parts for slot in part) == list(range(len(costs.tokens_B)))
    assert all(part == sorted(part) for part in parts)
    tokens, images = held(costs, ranks)
    assert max(tokens) <= budget.tokens
    assert max(images) <= budget.images
    assert ranks == divide(costs, budget, world)


@settings(deadline=None)
@given(batches())
def test_every_micro_batch_has_actions_if_there_are_enough(batch: tuple[Costs, Budget, int]) -> None:
    costs, budget, world = batch
    parts = [part for rank in divide(costs, budget, world) for part in rank]
    with_actions = sum(bool(costs.acting_B[part].any()) for part in parts)
    assert with_actions == min(len(parts), int(costs.acting_B.sum()))


@settings(deadline=None)
@given(batches())
def test_without_a_picture_budget_no_two_micro_batches_differ_by_more_than_the_largest_sample(
    batch: tuple[Costs, Budget, int],
) -> None:
    costs, budget, world = batch
    ranks = divide(costs, Budget(budget.tokens, None), world)
    tokens, _ = held(costs, ranks)
    largest = int(costs.tokens_B.max())
    assert max(tokens) - min(tokens) <= largest
    of_rank = [sum(int(costs.tokens_B[part].sum()) for part in rank) for rank in ranks]
    assert max(of_rank) - min(of_rank) <= largest


@settings(deadline=None)
@given(batches())
def test_without_actions_there_are_no_more_micro_batches_than_half_filled_ones_would_need(
    batch: tuple[Costs, Budget, int],
) -> None:
    """Where the largest samples come first, micro-batches that do not fit are each more than half full."""
    costs, budget, world = batch
    assert budget.tokens is not None
    costs = replace(costs, acting_B=np.zeros_like(costs.acting_B))
    number = sum(map(len, divide(costs, Budget(budget.tokens, None), world)))
    least = -(-int(costs.tokens_B.sum()) // budget.tokens)
    assert number <= -(-2 * least // world) * world


def test_a_budget_that_holds_only_the_largest_sample_keeps_actions_in_every_other_micro_batch() -> None:
    """A web sample that fills a micro-batch must stand alone: the only way is one for each action sample, and it."""
    costs = Costs(np.array([100, 30, 30, 30]), np.ones(4, np.int64), np.array([False, True, True, True]))
    assert divide(costs, Budget(100, None), 1) == [[[0], [1], [2], [3]]]
    assert divide(costs, Budget(130, None), 1) == [[[0, 1], [2, 3]]]


def test_turns_that_wait_for_each_other_are_alike() -> None:
    """Sizes that cannot be balanced: the two heavy micro-batches meet in one turn, the light ones in the other."""
    costs = Costs(np.array([100, 10, 90, 11]), np.ones(4, np.int64), np.zeros(4, np.bool_))
    assert divide(costs, Budget(None, 1), 2) == [[[0], [1]], [[2], [3]]]


def test_a_budget_of_pictures_alone_spreads_the_pictures() -> None:
    images = np.array([4, 4, 1, 1, 1, 1, 4, 4])
    costs = Costs(256 * images, images, images > 1)
    assert [int(images[part].sum()) for part in divide(costs, Budget(None, 5), 1)[0]] == [5, 5, 5, 5]


def test_ranks_that_do_not_divide_the_batch_are_refused() -> None:
    costs = Costs(np.full(6, 10), np.ones(6, np.int64), np.ones(6, np.bool_))
    with pytest.raises(UserError, match=r"data\.global_batch_samples: got 6 over 4 ranks"):
        divide(costs, Budget(100, None), 4)
