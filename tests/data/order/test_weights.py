from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pi05_train.data.order.weights import number, source_weights
from pi05_train.errors import UserError
from pi05_train.samples.mixture_config import GroupEntry, PowerWeight

GROUP_OF = {"homes": "ME", "bridge": "CE", "droid": "CE", "phone": "MM", "tasks": "HL", "voice": "VI", "web": "WD"}
ROWS = {"homes": 500, "bridge": 1_000, "droid": 10_000, "phone": 70, "tasks": 300, "voice": 20, "web": 5_000}
POWER = PowerWeight(0.43)


def shares(
    weights: dict[str, float | PowerWeight], groups: dict[str, GroupEntry] | None = None, *, some_left_out: bool = False
) -> dict[str, float]:
    found = source_weights(weights, ROWS, GROUP_OF, groups or {}, some_left_out=some_left_out)
    assert list(found) == list(weights)
    total = math.fsum(found.values())
    return {name: weight / total for name, weight in found.items()}


def test_weights_without_groups_stay_the_numbers_they_are() -> None:
    weights = {"homes": 0.3, "web": 0.1}
    assert source_weights(weights, ROWS, GROUP_OF, {}) == weights


def test_a_power_counts_rows_or_the_frozen_number_of_them() -> None:
    assert number(POWER, 1_000) == pytest.approx(1_000**0.43, rel=1e-11)
    assert number(PowerWeight(0.43, rows=50), 1_000) == number(POWER, 50)
    assert number(PowerWeight(0.0), 7) == 1
    assert number(PowerWeight(1.0), 7) == 7
    found = shares({"bridge": POWER, "droid": POWER})
    assert found["droid"] / found["bridge"] == pytest.approx(10**0.43)


def test_naming_a_group_without_asking_anything_of_it_changes_nothing() -> None:
    weights = {"homes": 0.3, "bridge": 0.2, "droid": 0.4, "web": 0.1}
    assert shares(weights, {"CE": GroupEntry()}) == pytest.approx(shares(weights))


def test_a_group_has_its_share_and_divides_it_by_its_weights() -> None:
    found = shares(
        {"homes": 3.0, "web": 1.0, "bridge": POWER, "droid": POWER, "phone": 1.0},
        {"CE": GroupEntry(share=0.4), "MM": GroupEntry(share=0.024)},
    )
    assert found["phone"] == pytest.approx(0.024)
    assert found["bridge"] + found["droid"] == pytest.approx(0.4)
    assert found["droid"] / found["bridge"] == pytest.approx(10**0.43)
    assert (found["homes"], found["web"]) == pytest.approx((0.576 * 0.75, 0.576 * 0.25))


def test_powers_weigh_groups_against_each_other() -> None:
    each = GroupEntry(weight=POWER)
    found = shares({"homes": 1.0, "bridge": 1.0, "droid": 3.0}, {"CE": each, "ME": each})
    assert (found["bridge"] + found["droid"]) / found["homes"] == pytest.approx((11_000 / 500) ** 0.43)
    assert found["droid"] / found["bridge"] == pytest.approx(3)


@pytest.mark.parametrize("high", [GroupEntry(), GroupEntry(share=0.178), GroupEntry(weight=0.178)])
def test_a_share_of_groups_is_what_it_says_however_the_others_are_given(high: GroupEntry) -> None:
    groups = {"HL": high, "VI": GroupEntry(share=0.11, of=["HL", "VI"])}
    found = shares({"homes": 0.6, "tasks": 0.178, "voice": 9.0, "web": 0.2}, groups)
    assert found["voice"] / (found["voice"] + found["tasks"]) == pytest.approx(0.11)
    assert found == pytest.approx({"homes": 0.6, "tasks": 0.178, "voice": 0.022, "web": 0.2})


def test_shares_of_groups_that_are_left_go_to_the_rest() -> None:
    groups = {"MM": GroupEntry(share=0.2), "ME": GroupEntry(share=0.3), "WD": GroupEntry(share=0.5)}
    weights = {"phone": 1.0, "homes": 1.0}
    assert shares(weights, groups, some_left_out=True) == pytest.approx({"phone": 0.4, "homes": 0.6})
    with pytest.raises(UserError, match=r"mixture, shares of groups: got 0\.5 in all, expected 1"):
        shares(weights, groups)


@settings(max_examples=100, deadline=None)
@given(
    weights=st.dictionaries(st.sampled_from(sorted(GROUP_OF)), st.floats(1e-3, 1e3), min_size=1),
    fixed=st.dictionaries(st.sampled_from(["CE", "MM", "ME", "WD"]), st.floats(0.01, 0.15)),
    tied=st.none() | st.floats(0.01, 0.9),
)
def test_whatever_is_asked_the_parts_are_positive_and_every_request_holds(
    weights: dict[str, float], fixed: dict[str, float], tied: float | None
) -> None:
    groups = {name: GroupEntry(share=share) for name, share in fixed.items()}
    if tied is not None:
        assume("tasks" in weights)
        groups["VI"] = GroupEntry(share=tied, of=["HL", "VI"])
    found = shares(dict(weights), groups, some_left_out=True)
    assert all(share > 0 for share in found.values())
    of = {
        group: math.fsum(share for name, share in found.items() if GROUP_OF[name] == group)
        for group in set(GROUP_OF.values())
    }
    free = any(GROUP_OF[name] not in fixed and GROUP_OF[name] != "VI" for name in weights)
    for group, share in fixed.items():
        if of[group] and free:
            assert of[group] == pytest.approx(share)
    if tied is not None and of["VI"]:
        assert of["VI"] / (of["VI"] + of["HL"]) == pytest.approx(tied)


@pytest.mark.parametrize(
    ("weights", "groups", "sentence"),
    [
        ({"homes": 1.0, "web": 1.0}, {"ME": GroupEntry(share=0.6), "WD": GroupEntry(share=0.5)}, "got 1.1 in all"),
        ({"homes": 1.0, "web": 1.0}, {"ME": GroupEntry(share=1.0)}, "leave something for source web"),
        (
            {"homes": 1.0, "voice": 1.0},
            {"VI": GroupEntry(share=0.1, of=["HL", "VI"])},
            "group VI: .* without any other",
        ),
        ({"homes": 0.5, "bridge": POWER}, {}, "a number for homes beside a power of rows for bridge"),
        ({"homes": 0.5, "bridge": POWER}, {"CE": GroupEntry()}, "a number for homes beside .* group CE"),
        ({"bridge": 0.5, "droid": POWER}, {"CE": GroupEntry(share=1.0)}, "group CE, weights"),
    ],
)
def test_what_cannot_be_is_refused(
    weights: dict[str, float | PowerWeight], groups: dict[str, GroupEntry], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        shares(weights, groups)
