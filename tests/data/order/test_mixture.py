from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.data.order.mixture import Mixture
from pi05_train.data.sources.index import FAILED, HELDOUT
from pi05_train.data.sources.rows import environments
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import (
    FilterConfig,
    GroupEntry,
    MixtureConfig,
    PhaseEntry,
    PowerWeight,
    SourceEntry,
)

World = tuple[Path, dict[str, SourceCard]]


def config(world: World, **filters: object) -> MixtureConfig:
    entries = {name: SourceEntry(card, weight=i + 1.0) for i, (name, card) in enumerate(world[1].items())}
    return MixtureConfig("toy", entries, FilterConfig(**filters))  # type: ignore[arg-type]


def test_shares_are_the_weights_over_the_enabled_sources(synthetic_world: World) -> None:
    whole = config(synthetic_world)
    assert Mixture.open(whole, synthetic_world[0]).shares == pytest.approx([i / 21 for i in range(1, 7)])
    fewer = replace(whole, sources=whole.sources | {"toy_arm": replace(whole.sources["toy_arm"], enabled=False)})
    opened = Mixture.open(fewer, synthetic_world[0])
    assert "toy_arm" not in opened.names
    assert opened.shares == pytest.approx([i / 19 for i in (1, 3, 4, 5, 6)])


def test_train_and_heldout_rows_share_nothing_and_leave_nothing_out(synthetic_world: World) -> None:
    train = Mixture.open(config(synthetic_world), synthetic_world[0])
    heldout = Mixture.open(config(synthetic_world), synthetic_world[0], split="heldout")
    for name in train.names:
        flags = train.indexes[name].records["flags"]
        assert not (flags[train.rows[name]] & HELDOUT).any()
        assert (flags[heldout.rows[name]] & HELDOUT).all()
        assert sorted([*train.rows[name], *heldout.rows[name]]) == list(range(len(flags)))


def test_training_filters_do_not_change_what_is_measured_on(synthetic_world: World) -> None:
    strict = config(synthetic_world, success_only=True, environments=1)
    opened = [Mixture.open(c, synthetic_world[0], split="heldout") for c in (config(synthetic_world), strict)]
    for name in opened[0].names:
        np.testing.assert_array_equal(opened[0].rows[name], opened[1].rows[name])


def test_filters_keep_exactly_the_rows_they_describe(synthetic_world: World) -> None:
    every = Mixture.open(config(synthetic_world), synthetic_world[0])
    successful = Mixture.open(config(synthetic_world, success_only=True), synthetic_world[0])
    for name in every.names:
        failed = every.indexes[name].records["flags"][every.rows[name]] & FAILED > 0
        assert failed.any()
        np.testing.assert_array_equal(successful.rows[name], np.asarray(every.rows[name])[~failed])
    assert Mixture.open(config(synthetic_world, max_episode_steps=5), synthetic_world[0]).sizes == every.sizes


def test_more_environments_keep_the_former_ones(synthetic_world: World) -> None:
    kept: list[set[str]] = []
    for count in (1, 2, 4):
        mixture = Mixture.open(config(synthetic_world, environments=count), synthetic_world[0])
        kept.append(environments(mixture.indexes["toy_arm"], mixture.rows["toy_arm"]))
        assert len(kept[-1]) == count
    assert kept[0] < kept[1] < kept[2]


def test_a_filter_that_empties_a_source_is_named_with_it(synthetic_world: World) -> None:
    with pytest.raises(UserError, match=r"source toy_mobile, filter max_episode_steps=4"):
        Mixture.open(config(synthetic_world, max_episode_steps=4), synthetic_world[0])


def test_the_fingerprint_follows_what_decides_the_order_and_nothing_else(
    synthetic_world: World, tmp_path: Path
) -> None:
    root, _ = synthetic_world
    plain = config(synthetic_world)
    reference = Mixture.open(plain, root).fingerprint
    same = [
        replace(plain, name="renamed"),
        replace(plain, sources=dict(reversed(plain.sources.items()))),
        replace(plain, sources={k: replace(e, weight=e.weight * 4) for k, e in plain.sources.items()}),
    ]
    assert {Mixture.open(config, root).fingerprint for config in same} == {reference}
    moved = shutil.copytree(root, tmp_path / "moved")
    assert Mixture.open(plain, moved).fingerprint == reference
    arm = plain.sources["toy_arm"]
    without = {name: entry for name, entry in plain.sources.items() if name != "toy_arm"}
    others = [
        replace(plain, filters=FilterConfig(success_only=True)),
        replace(plain, sources=plain.sources | {"toy_arm": replace(arm, weight=9.0)}),
        replace(plain, sources=plain.sources | {"toy_arm": replace(arm, enabled=False)}),
        replace(plain, sources=without | {"arm": replace(arm, card=replace(arm.card, name="arm"))}),
    ]
    assert len({reference, *(Mixture.open(config, root).fingerprint for config in others)}) == 5


def test_the_fingerprint_of_a_run_holds_the_phases_it_has_begun_and_no_later_ones(synthetic_world: World) -> None:
    root, plain = synthetic_world[0], config(synthetic_world)

    def at(step: int, **phases: PhaseEntry) -> str:
        mixture = Mixture.open(replace(plain, phases=phases), root)
        return mixture.fingerprint_at(step, mixture.schedule(0, 8, 100))

    first, second = PhaseEntry(10, weights={"toy_arm": 9.0}), PhaseEntry(20, weights={"toy_arm": 0.0})
    none = at(30)
    assert none == Mixture.open(plain, root).fingerprint
    assert at(10, a=first) == at(10, b=second) == none
    assert at(20, a=first, b=second) == at(20, a=first) == at(30, a=first)
    assert len({none, at(11, a=first), at(21, a=first, b=second), at(21, b=second)}) == 4


def test_the_fingerprint_of_a_run_holds_its_read_group_unless_it_is_one(synthetic_world: World) -> None:
    mixture = Mixture.open(config(synthetic_world), synthetic_world[0])
    found = [mixture.fingerprint_at(5, mixture.schedule(0, 8, 10, read_group=group)) for group in (1, 2, 4)]
    assert found[0] == mixture.fingerprint
    assert len(set(found)) == 3


def test_a_source_that_waits_for_its_phase_is_not_yet_in_the_fingerprint(synthetic_world: World) -> None:
    root, plain = synthetic_world[0], config(synthetic_world)
    without = replace(plain, sources=plain.sources | {"toy_arm": replace(plain.sources["toy_arm"], enabled=False)})
    waiting = {"start": PhaseEntry(0, weights={"toy_arm": 0.0}), "late": PhaseEntry(10, weights={"toy_arm": 1.0})}
    later = Mixture.open(replace(plain, phases=waiting), root)
    assert Mixture.open(without, root).fingerprint == later.fingerprint
    assert later.fingerprint_at(11, later.schedule(0, 8, 100)) != later.fingerprint


def test_powers_count_the_rows_that_pass_the_filters(synthetic_world: World) -> None:
    root, plain = synthetic_world[0], config(synthetic_world, environments=2)
    powers = {name: replace(entry, weight=PowerWeight(0.43)) for name, entry in plain.sources.items()}
    opened = Mixture.open(replace(plain, sources=powers), root)
    expected = np.array(opened.sizes) ** 0.43
    assert opened.shares == pytest.approx(expected / expected.sum())


def test_a_run_draws_what_its_groups_and_phases_ask_for(synthetic_world: World) -> None:
    root, plain = synthetic_world[0], config(synthetic_world)
    asked = replace(
        plain,
        groups={"MM": GroupEntry(share=0.024), "VI": GroupEntry(share=0.11, of=["HL", "VI"])},
        phases={"late": PhaseEntry(50, groups={"MM": GroupEntry(share=0.5)})},
    )
    opened = Mixture.open(asked, root)
    schedule = opened.schedule(0, 100, 100)
    counts = schedule.counts(100)
    kinds = {opened.cards[name].kind: counts[name] for name in opened.names}
    assert abs(kinds["MM"] - 5_000 * 0.024 - 5_000 * 0.5) <= 6
    assert kinds["VI"] / (kinds["VI"] + kinds["HL"]) == pytest.approx(0.11, abs=0.01)
    for row in opened.describe(schedule.requested(100)):
        assert abs(counts[str(row["source"])] - 10_000 * float(row["share"])) <= 6
    assert schedule.epochs(100) == {name: counts[name] / len(opened.rows[name]) for name in opened.names}


def test_a_pickled_mixture_opens_its_files_anew_and_holds_none_of_them(synthetic_world: World) -> None:
    opened = Mixture.open(config(synthetic_world), synthetic_world[0])
    copied = pickle.loads(pickle.dumps(opened))
    assert copied.fingerprint == opened.fingerprint
    assert copied.describe() == opened.describe()
    for name in opened.names:
        assert isinstance(copied.indexes[name].records, np.memmap)
        assert list(copied.rows[name]) == list(opened.rows[name])


def test_the_description_has_one_row_per_source(synthetic_world: World) -> None:
    table = Mixture.open(config(synthetic_world), synthetic_world[0]).describe()
    assert [row["source"] for row in table] == list(synthetic_world[1])
    assert table[0] | {"share": 0} == {
        "source": "toy_mobile", "kind": "MM", "share": 0, "samples": 30, "of": 40, "episodes": 6, "environments": 4,
        "licence": "CC0-1.0",
    }  # fmt: skip


def test_mixtures_that_cannot_be_drawn_from_are_refused(synthetic_world: World) -> None:
    root, _ = synthetic_world
    plain = config(synthetic_world)
    arm = plain.sources["toy_arm"]
    for sources, sentence in (
        ({"toy_arm": arm, "twice": arm}, "source twice: got the card of toy_arm"),
        ({"toy_arm": replace(arm, enabled=False)}, "none enabled"),
        ({"toy_arm": replace(arm, weight=0.0)}, r"sources.toy_arm.weight: got 0.0"),
        ({"toy_arm": replace(arm, card=replace(arm.card, shards="nowhere"))}, "pi05 data index"),
        ({"toy_arm": replace(arm, card=replace(arm.card, kind="XX"))}, "kind"),
    ):
        with pytest.raises(UserError, match=sentence):
            Mixture.open(replace(plain, sources=sources), root)
    with pytest.raises(UserError, match="split"):
        Mixture.open(plain, root, split="test")


def test_a_kind_is_left_out_like_its_sources_one_by_one(synthetic_world: World) -> None:
    whole, root = config(synthetic_world), synthetic_world[0]
    by_hand = {
        name: replace(entry, enabled=entry.card.kind not in ("HL", "VI")) for name, entry in whole.sources.items()
    }
    one_by_one = Mixture.open(replace(whole, sources=by_hand), root)
    by_kind = Mixture.open(replace(whole, without=["HL", "VI"]), root)
    assert by_kind.names == one_by_one.names
    assert by_kind.fingerprint == one_by_one.fingerprint
    with pytest.raises(UserError, match=r"mixture\.without: got 'robots', expected one of \['CE', .*'WD'\]"):
        Mixture.open(replace(whole, without=["robots"]), root)
    with pytest.raises(UserError, match=r"mixture\.filters\.environments_of: got 'XX'"):
        Mixture.open(config(synthetic_world, environments_of=["XX"]), root)


def test_environments_may_be_meant_for_some_kinds_alone(synthetic_world: World) -> None:
    every = Mixture.open(config(synthetic_world), synthetic_world[0])
    all_few = Mixture.open(config(synthetic_world, environments=1), synthetic_world[0])
    some_few = Mixture.open(config(synthetic_world, environments=1, environments_of=["MM", "HL"]), synthetic_world[0])
    for name, card in some_few.cards.items():
        like = all_few if card.kind in ("MM", "HL") else every
        np.testing.assert_array_equal(some_few.rows[name], like.rows[name])


@settings(max_examples=30, deadline=None)
@given(
    seeds=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    groups=st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2])),
    filters=st.tuples(*[st.sampled_from([FilterConfig(), FilterConfig(success_only=True)])] * 2),
    batches=st.tuples(st.sampled_from([4, 8]), st.sampled_from([4, 8])),
)
def test_equal_orders_draw_the_same_samples_and_others_do_not(
    synthetic_world: World,
    seeds: tuple[int, int],
    groups: tuple[int, int],
    filters: tuple[FilterConfig, FilterConfig],
    batches: tuple[int, int],
) -> None:
    """The promise that `pi05 report` shows for ablations: one mixture lacks a source, the other's order stays."""
    whole = config(synthetic_world)
    configs = replace(whole, filters=filters[0]), replace(whole, filters=filters[1], without=["WD"])
    mixtures = [Mixture.open(c, synthetic_world[0]) for c in configs]
    schedules = [
        mixture.schedule(seed, batch, 10, read_group=group)
        for mixture, seed, batch, group in zip(mixtures, seeds, batches, groups, strict=True)
    ]
    for name in mixtures[1].names:
        orders = [m.order_of(name, s) for m, s in zip(mixtures, schedules, strict=True)]
        drawn = [
            np.asarray(m.rows[name])[s.rows(name, np.arange(20))] for m, s in zip(mixtures, schedules, strict=True)
        ]
        assert (orders[0] == orders[1]) == np.array_equal(*drawn)
