from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.outlook import Outlook
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
POWER = PowerWeight(0.43)


def mixture(cards: dict[str, SourceCard], samples: int | None = 1000, **changes: Any) -> MixtureConfig:
    """Two sources that are there and one, `far`, that is not; `changes` are of its entry."""
    far = SourceEntry(replace(cards["toy_arm"], name="far", shards="far", samples=samples), POWER)
    sources = {name: SourceEntry(cards[name], POWER) for name in ("toy_mobile", "toy_arm")}
    return MixtureConfig("toy", sources | {"far": replace(far, **changes)}, groups={"MM": GroupEntry(share=0.25)})


def test_declared_rows_stand_in_for_absent_ones_and_counted_rows_for_the_others(synthetic_world: World) -> None:
    root, cards = synthetic_world
    outlook = Outlook.open(mixture(cards), root)
    assert list(outlook.absent) == ["far"]
    assert outlook.rows == {"toy_mobile": 30, "toy_arm": 30, "far": 950}  # a twentieth is held out
    schedule = outlook.schedule(0, 100, 40)
    assert schedule.requested(40)["toy_mobile"] == pytest.approx(0.25)
    arm, far = schedule.requested(40)["toy_arm"], schedule.requested(40)["far"]
    assert far / arm == pytest.approx((950 / 30) ** 0.43)
    assert schedule.epochs(40)["far"] == pytest.approx(far * 4000 / 950, rel=0.01)
    held = Outlook.open(replace(mixture(cards), filters=FilterConfig(split="heldout")), root)
    assert held.rows == {"toy_mobile": 10, "toy_arm": 10, "far": 50}


def test_with_everything_there_it_is_the_mixture(synthetic_world: World) -> None:
    root, cards = synthetic_world
    config = mixture(cards)
    config = replace(config, sources={name: entry for name, entry in config.sources.items() if name != "far"})
    outlook, opened = Outlook.open(config, root), Mixture.open(config, root)
    assert outlook.opened is not None
    assert outlook.opened.fingerprint == opened.fingerprint
    assert outlook.schedule(3, 8, 20).draws(7) == opened.schedule(3, 8, 20).draws(7)


def test_nothing_needs_to_be_there(tmp_path: Path, synthetic_world: World) -> None:
    _, cards = synthetic_world
    outlook = Outlook.open(mixture({name: replace(card, samples=10) for name, card in cards.items()}), tmp_path)
    assert (outlook.opened, len(outlook.absent)) == (None, 3)
    assert sum(outlook.schedule(0, 10, 10).counts(10).values()) == 100


def test_an_unknown_number_of_rows_may_stay_unknown_where_nothing_depends_on_it(synthetic_world: World) -> None:
    root, cards = synthetic_world
    outlook = Outlook.open(mixture(cards, None, weight=PowerWeight(0.43, rows=950)), root)
    assert outlook.rows["far"] is None
    known = Outlook.open(mixture(cards, 1000), root).schedule(0, 100, 40)
    assert outlook.schedule(0, 100, 40).counts(40) == known.counts(40)


def test_a_source_that_has_the_share_of_its_group_alone_may_stay_unknown(synthetic_world: World) -> None:
    root, cards = synthetic_world
    lone = replace(mixture(cards, None, group="far"), groups={"far": GroupEntry(share=0.5)})
    assert Outlook.open(lone, root).schedule(0, 100, 40).requested(40)["far"] == pytest.approx(0.5)
    later = replace(lone, phases={"later": PhaseEntry(5, groups={"far": GroupEntry()})})
    with pytest.raises(UserError, match="source far, rows: got unknown"):
        Outlook.open(later, root).schedule(0, 100, 40)


@pytest.mark.parametrize("where", ["weight", "end", "phase", "group"])
def test_an_unknown_number_of_rows_that_decides_something_is_refused(synthetic_world: World, where: str) -> None:
    root, cards = synthetic_world
    fixed = PowerWeight(0.43, rows=950)
    config = {
        "weight": mixture(cards, None),
        "end": mixture(cards, None, weight=fixed, on_exhaust="drop"),
        "phase": replace(
            mixture(cards, None, weight=fixed),
            phases={"later": PhaseEntry(5, weights={"far": POWER, "toy_arm": POWER})},
        ),
        "group": replace(mixture(cards, None, weight=fixed), groups={"ME": GroupEntry(weight=POWER)}),
    }[where]
    with pytest.raises(UserError, match="mixture toy, source far, rows: got unknown until it is converted"):
        Outlook.open(config, root).schedule(0, 100, 40)
