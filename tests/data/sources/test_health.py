from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pi05_train.data.sources.health import Health, health, write_health
from pi05_train.data.sources.lowdim import Block
from pi05_train.data.sources.statistics import Tally
from tests.synthetic import CARDS

JOINT = replace(CARDS["toy_arm"], name="arm", control_mode="joint", delta_mask=[True, True, True, False])
CARTESIAN = replace(JOINT, control_mode="end effector")
SAMPLES, STEPS = 400, 10
Arrays = dict[str, NDArray[np.generic]]


def arrays() -> Arrays:
    """A healthy source: states of everyday size, chunks that leave them slowly, a gripper that opens and closes."""
    rng = np.random.default_rng(0)
    state = rng.uniform(-1, 1, (SAMPLES, 4)).astype(np.float32)
    actions = state[:, None] + rng.normal(scale=0.1, size=(SAMPLES, STEPS, 4)).astype(np.float32)
    actions[:, :, 3] = rng.integers(0, 2, (SAMPLES, STEPS))
    return {"state": state, "actions": actions, "action_valid": np.ones((SAMPLES, STEPS), bool)}


def report(change: Callable[[Arrays], None], card: object = JOINT) -> Health:
    numbers = arrays()
    change(numbers)
    tally = Tally()
    tally.add(Block(np.arange(SAMPLES), numbers), card, STEPS)  # type: ignore[arg-type]
    return health(card, tally)  # type: ignore[arg-type]


def scaled(dim: int, factor: float) -> Callable[[Arrays], None]:
    def change(numbers: Arrays) -> None:
        for name in ("state", "actions"):
            numbers[name][..., dim] *= factor  # type: ignore[operator]

    return change


def put(name: str, place: object, value: object) -> Callable[[Arrays], None]:
    def change(numbers: Arrays) -> None:
        numbers[name][place] = value  # type: ignore[index]

    return change


@pytest.mark.parametrize("card", [JOINT, CARTESIAN])
def test_a_healthy_source_has_no_findings(card: object) -> None:
    assert report(lambda _: None, card).findings == ()


@pytest.mark.parametrize(
    ("change", "card", "expected"),
    [
        (put("state", (..., 1), 0.5), JOINT, {("state", 1, "range")}),
        (put("state", (..., 3), 0.5), JOINT, {("state", 3, "constant gripper")}),
        (put("actions", (..., 3), 1.0), JOINT, {("actions", 3, "constant gripper")}),
        (put("actions", (7, 4, 2), 60.0), JOINT, {("actions", 2, "outliers")}),
        (put("state", (7, 2), -90.0), CARTESIAN, {("state", 2, "outliers"), ("actions", 2, "outliers")}),
        (scaled(0, 57.3), JOINT, {("state", 0, "units"), ("actions", 0, "units")}),
        (scaled(1, 1000.0), CARTESIAN, {("state", 1, "units"), ("actions", 1, "units")}),
        (put("actions", (7, 4, 2), np.nan), JOINT, {("actions", 2, "not finite")}),
        (put("state", (slice(0, 5), 0), np.inf), JOINT, {("state", 0, "not finite")}),
        (put("action_valid", (..., slice(3, None)), False), JOINT, {("actions", None, "padding")}),
    ],
)  # fmt: skip
def test_each_fault_is_found_where_it_is_and_nothing_else(
    change: Callable[[Arrays], None], card: object, expected: set[tuple[str, int | None, str]]
) -> None:
    found = report(change, card).findings
    assert {(finding.vector, finding.dim, finding.kind) for finding in found} == expected


def test_a_state_in_other_units_than_the_actions_is_found() -> None:
    def change(numbers: Arrays) -> None:
        numbers["state"][:, 1] = numbers["state"][:, 1] * 0.01 + 3  # type: ignore[operator]

    kinds = {(finding.vector, finding.dim, finding.kind) for finding in report(change).findings}
    assert ("actions", 1, "offset") in kinds


def test_samples_without_numbers_are_not_lost_in_silence() -> None:
    tally = Tally(without_numbers=3)
    tally.add(Block(np.arange(SAMPLES), dict(arrays())), JOINT, STEPS)
    (finding,) = health(JOINT, tally).findings
    assert str(finding).startswith("arm, samples: 3 samples have neither")


def test_chunks_that_stand_still_are_counted() -> None:
    def change(numbers: Arrays) -> None:
        numbers["actions"][: SAMPLES // 4] = numbers["actions"][: SAMPLES // 4, :1]

    assert report(change).idle_share == 0.25
    assert report(lambda _: None).idle_share == 0.0


def test_a_finding_is_one_line_with_source_vector_and_dimension(tmp_path: Path) -> None:
    found = report(put("actions", (7, 4, 2), 60.0))
    (line,) = map(str, found.findings)
    assert line.startswith("arm, actions[2]: 1 of 4000 numbers")
    write_health(tmp_path, found)
    assert f"- {line}\n" in (tmp_path / "health.md").read_text()
    content = json.loads((tmp_path / "health.json").read_text())
    assert content["findings"][0]["dim"] == 2
    write_health(tmp_path, report(lambda _: None))
    assert "nothing unusual" in (tmp_path / "health.md").read_text()
