from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.data.order.schedule import Draw, Schedule, rank_slice
from pi05_train.data.permutation import permute
from pi05_train.errors import UserError

NAMES, SIZES, WEIGHTS = ["robots", "web", "words"], [50, 7, 23], [0.7, 0.2, 0.1]


def sequence(schedule: Schedule, source: str, steps: int) -> list[int]:
    """The source's rows in draw order over the first steps."""
    drawn = [draw for step in range(steps) for draw in schedule.draws(step) if draw.source == source]
    return [draw.row for draw in sorted(drawn, key=lambda draw: draw.draw)]


def test_the_order_of_the_first_hundred_steps_is_frozen() -> None:
    schedule = Schedule(17, NAMES, SIZES, WEIGHTS, 32)
    text = "".join(f"{d.source} {d.row} {d.draw}\n" for step in range(100) for d in schedule.draws(step))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "a09d4c1b8b870fa53d6d0183987e7a58d703cda3e6bb5f4d9f6f754bfbf945ca"
    )


@settings(max_examples=50, deadline=None)
@given(
    weights=st.lists(st.floats(1e-5, 1.0), min_size=1, max_size=40),
    batch=st.integers(1, 2304),
    step=st.integers(0, 10**7),
)
def test_counts_never_stray_more_than_three_from_the_shares(weights: list[float], batch: int, step: int) -> None:
    names = [f"s{i}" for i in range(len(weights))]
    schedule = Schedule(0, names, [10] * len(names), weights, batch)
    counts, next_counts = schedule.counts(step), schedule.counts(step + 1)
    assert sum(counts.values()) == step * batch
    assert all(counts[name] <= next_counts[name] for name in names)
    for name, weight in zip(names, weights, strict=True):
        assert abs(counts[name] - step * batch * weight / sum(weights)) <= 3


def test_a_million_draws_of_forty_sources_stay_within_three() -> None:
    weights = [1e-5, *np.geomspace(1e-3, 1, 39)]
    names = [f"s{i}" for i in range(40)]
    schedule = Schedule(0, names, [10] * 40, weights, 1)
    shares = np.array(weights) / np.sum(weights)
    for k in range(0, 10**6, 997):
        counts = schedule.counts(k)
        assert np.abs([counts[name] for name in names] - k * shares).max() <= 3


def test_a_million_drawn_samples_of_forty_sources_are_what_was_asked_and_each_comes_once_per_epoch() -> None:
    weights = [1e-5, *np.geomspace(1e-3, 1, 39)]
    names, sizes = [f"s{i}" for i in range(40)], [int(size) for size in np.geomspace(3, 10**6, 40)]
    schedule = Schedule(0, names, sizes, weights, 10**5)
    rows: dict[str, list[int]] = {name: [] for name in names}
    for step in range(10):
        for draw in schedule.draws(step):
            rows[draw.source].append(draw.row)
    shares = dict(zip(names, np.array(weights) / np.sum(weights), strict=True))
    assert all(abs(len(rows[name]) - 10**6 * shares[name]) <= 3 for name in names)
    for name, size in zip(names, sizes, strict=True):
        visits = np.bincount(rows[name], minlength=size)
        assert len(visits) == size
        assert visits.max() - visits.min() <= 1


@settings(max_examples=5, deadline=None)
@given(step=st.integers(0, 10**7), seed=st.integers(0, 9))
def test_any_number_of_ranks_shares_the_same_global_batch(step: int, seed: int) -> None:
    schedule = Schedule(seed, NAMES, SIZES, WEIGHTS, 288)
    whole = schedule.draws(step)
    for world_size in (size for size in range(1, 289) if 288 % size == 0):
        parts = [rank_slice(whole, rank, world_size) for rank in range(world_size)]
        assert {len(part) for part in parts} == {288 // world_size}
        assert [draw for part in parts for draw in part] == whole
        # A rank computes the batch for itself, whatever it computed before.
        alone = Schedule(seed, NAMES, SIZES, WEIGHTS, 288)
        alone.draws(step % world_size)
        assert rank_slice(alone.draws(step), world_size - 1, world_size) == parts[-1]


@pytest.mark.parametrize(("rank", "world_size"), [(0, 5), (4, 4), (-1, 4), (0, 64)])
def test_ranks_that_cannot_share_the_batch_are_refused(rank: int, world_size: int) -> None:
    with pytest.raises(UserError, match=f"32 over {world_size} ranks"):
        rank_slice(Schedule(0, NAMES, SIZES, WEIGHTS, 32).draws(0), rank, world_size)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 2 * 10**9), min_size=1, max_size=30),
    step=st.integers(0, 10**6),
    seed=st.integers(0, 9),
)
def test_many_sources_at_once_take_the_rows_they_take_alone(sizes: list[int], step: int, seed: int) -> None:
    names = [f"s{i}" for i in range(len(sizes))]
    for draw in Schedule(seed, names, sizes, [1.0] * len(sizes), 64).draws(step):
        size = sizes[names.index(draw.source)]
        epoch, position = divmod(draw.draw, size)
        assert draw.row == permute(np.array([position]), size, "rows", seed, draw.source, epoch)[0]


GROUPED = {"sizes": st.lists(st.integers(1, 300), min_size=1, max_size=5), "group": st.integers(1, 16)}
"""Sources smaller and larger than a read group."""


def grouped(sizes: list[int], group: int, units: int, *, left_out: int | None = None) -> Schedule:
    numbers = [number for number in range(len(sizes)) if number != left_out]
    names, weights = [f"s{number}" for number in numbers], [number + 1.0 for number in numbers]
    return Schedule(4, names, [sizes[number] for number in numbers], weights, units * group, read_group=group)


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 300), group=st.integers(1, 16), epochs=st.integers(1, 5))
def test_groups_show_each_row_once_per_epoch_and_units_inside_an_epoch_are_runs(
    size: int, group: int, epochs: int
) -> None:
    draws = np.arange(epochs * size)
    rows = grouped([size], group, 1).rows("s0", draws)
    for epoch in rows.reshape(epochs, size):
        assert sorted(epoch.tolist()) == list(range(size))
    for start in range(0, len(draws) - group + 1, group):
        if start // size == (start + group - 1) // size:
            run = rows[start : start + group]
            assert run.tolist() == list(range(run[0], run[0] + group))


@settings(max_examples=50, deadline=None)
@given(**GROUPED, units=st.integers(1, 40), step=st.integers(0, 10**6))
def test_a_unit_stands_together_in_the_batch_and_comes_from_the_counts(
    sizes: list[int], group: int, units: int, step: int
) -> None:
    schedule = grouped(sizes, group, units)
    draws, counts = schedule.draws(step), schedule.counts(step)
    for unit in (draws[start : start + group] for start in range(0, len(draws), group)):
        assert {draw.source for draw in unit} == {unit[0].source}
        assert [draw.draw for draw in unit] == list(range(unit[0].draw, unit[0].draw + group))
        assert unit[0].draw % group == 0
    for name, count in schedule.counts(step + 1).items():
        drawn = sorted(draw.draw for draw in draws if draw.source == name)
        assert drawn == list(range(counts[name], count))
        share = schedule.phases[0].share(name)
        assert abs(count - (step + 1) * units * group * share) <= 3 * group


@settings(max_examples=25, deadline=None)
@given(**GROUPED, step=st.integers(0, 10**6))
def test_any_number_of_ranks_that_divides_the_units_gets_whole_units(sizes: list[int], group: int, step: int) -> None:
    whole = grouped(sizes, group, 24).draws(step)
    for world_size in (1, 2, 3, 4, 6, 8, 12, 24):
        parts = [rank_slice(whole, rank, world_size) for rank in range(world_size)]
        assert [draw for part in parts for draw in part] == whole
        assert all(part[0].draw % group == 0 and part[-1].draw % group == group - 1 for part in parts)


@settings(max_examples=50, deadline=None)
@given(**GROUPED, step=st.integers(0, 10**6), left_out=st.integers(0, 4))
def test_with_groups_too_a_batch_needs_no_history_and_no_other_source(
    sizes: list[int], group: int, step: int, left_out: int
) -> None:
    warm = grouped(sizes, group, 6)
    warm.draws(step + 3)
    draws = warm.draws(step)
    assert grouped(sizes, group, 6).draws(step) == draws
    if 0 < left_out < len(sizes):
        without = grouped(sizes, group, 6, left_out=left_out)
        for draw in draws:
            if draw.source != f"s{left_out}":
                assert without.rows(draw.source, np.array([draw.draw])) == [draw.row]


def test_groups_come_in_another_order_each_epoch_and_mix_as_well_as_single_rows() -> None:
    epochs = grouped([4000], 8, 1).rows("s0", np.arange(8000)).reshape(2, 500, 8)
    for order in epochs[:, :, 0] // 8:
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.2
    assert np.mean(epochs[0] == epochs[1]) < 0.02


def test_the_order_with_groups_of_eight_is_frozen() -> None:
    schedule = Schedule(17, NAMES, SIZES, WEIGHTS, 32, read_group=8)
    text = "".join(f"{d.source} {d.row} {d.draw}\n" for step in range(100) for d in schedule.draws(step))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "2d7ead69ee69198a17318dd8326953d98bc2d13af2878abf9b604dc88469a566"
    )


@pytest.mark.parametrize("group", [0, -8, 5, 64])
def test_a_group_that_does_not_divide_the_batch_is_refused(group: int) -> None:
    with pytest.raises(UserError, match=f"read group: got {group}, expected a divisor of the global batch, 32"):
        Schedule(0, NAMES, SIZES, WEIGHTS, 32, read_group=group)


def test_every_batch_holds_what_the_counts_say() -> None:
    schedule = Schedule(3, NAMES, SIZES, WEIGHTS, 32)
    for step in (0, 1, 999):
        before, after = schedule.counts(step), schedule.counts(step + 1)
        drawn = Counter(draw.source for draw in schedule.draws(step))
        assert drawn == Counter({name: after[name] - before[name] for name in NAMES})


def test_each_sample_comes_once_per_epoch_and_in_another_order_next_time() -> None:
    rows = sequence(Schedule(0, NAMES, SIZES, WEIGHTS, 32), "web", 40)
    epochs = [rows[i : i + 7] for i in range(0, len(rows) - 7, 7)]
    assert len(epochs) > 20
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 15


def test_the_batch_of_a_late_step_needs_no_history() -> None:
    warm = Schedule(5, NAMES, SIZES, WEIGHTS, 256)
    for step in range(3):
        warm.draws(step)
    cold = Schedule(5, NAMES, SIZES, WEIGHTS, 256)
    assert warm.draws(10**7) == cold.draws(10**7)
    assert cold.draws(10**7) != cold.draws(10**7 + 1)
    assert Schedule(6, NAMES, SIZES, WEIGHTS, 256).draws(10**7) != cold.draws(10**7)


def test_taking_a_source_out_leaves_the_others_in_their_order() -> None:
    full = Schedule(0, NAMES, SIZES, WEIGHTS, 32)
    without = Schedule(0, ["robots", "words"], [50, 23], [0.7, 0.1], 32)
    for name in ("robots", "words"):
        before, after = sequence(full, name, 20), sequence(without, name, 20)
        assert len(after) > len(before)
        assert after[: len(before)] == before


def test_equal_sources_of_different_names_have_different_orders() -> None:
    schedule = Schedule(0, ["a", "b"], [40, 40], [1, 1], 40)
    assert sequence(schedule, "a", 2) != sequence(schedule, "b", 2)


def test_neither_the_order_of_declaration_nor_the_unit_of_the_weights_matters() -> None:
    plain = Schedule(0, NAMES, SIZES, [7.0, 2.0, 1.0], 32)
    turned = Schedule(0, NAMES[::-1], SIZES[::-1], [1.0 * 8, 2.0 * 8, 7.0 * 8], 32)
    assert [plain.draws(step) for step in range(5)] == [turned.draws(step) for step in range(5)]


def test_a_source_visits_every_slot() -> None:
    schedule = Schedule(0, ["big", "rare"], [100, 3], [31, 1], 32)
    slots = {slot for step in range(400) for slot, draw in enumerate(schedule.draws(step)) if draw.source == "rare"}
    assert slots == set(range(32))


def test_a_source_smaller_than_a_batch_is_counted_in_epochs() -> None:
    draws = Schedule(0, ["tiny"], [3], [1.0], 288).draws(0)
    assert Counter(draw.row for draw in draws) == {0: 96, 1: 96, 2: 96}
    assert sorted(draw.draw for draw in draws) == list(range(288))
    assert all(isinstance(draw, Draw) for draw in draws)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_are_no_shares_are_refused(weight: float) -> None:
    with pytest.raises(UserError, match="source web, weight"):
        Schedule(0, NAMES, SIZES, [0.7, weight, 0.1], 32)


def test_a_share_too_small_to_ever_be_drawn_is_refused() -> None:
    with pytest.raises(UserError, match="source web, share"):
        Schedule(0, NAMES, SIZES, [1.0, 1e-16, 1.0], 32)


def test_empty_and_repeated_sources_are_refused() -> None:
    with pytest.raises(UserError, match="source web, rows"):
        Schedule(0, NAMES, [50, 0, 23], WEIGHTS, 32)
    with pytest.raises(UserError, match="unique names"):
        Schedule(0, ["a", "a"], [1, 1], [1, 1], 32)
