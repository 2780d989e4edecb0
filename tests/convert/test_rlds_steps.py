"""What the table does to grippers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi05_train.convert.rlds_steps import changed


def test_grippers_become_zero_open_and_one_closed() -> None:
    stored = np.array([[0, 0, 0.05, 1, 0, 0, -1, 0]], np.float32).T
    np.testing.assert_array_equal(changed(stored, "hold").ravel(), [0, 0, 0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(changed(-stored, "hold").ravel(), [1, 1, 1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(changed(stored * 0, "hold").ravel(), np.zeros(8))
    np.testing.assert_array_equal(changed(np.float32([[-1], [0.25], [2]]), "clip").ravel(), [0, 0.25, 1])
    np.testing.assert_array_equal(changed(np.float32([[-1], [0.25], [2]]), "clip and invert").ravel(), [1, 0.75, 0])
    np.testing.assert_array_equal(changed(np.float32([[0], [0.25]]), "invert").ravel(), [1, 0.75])


@given(st.lists(st.sampled_from([-1.0, -0.05, 0.0, 0.05, 1.0]), max_size=12))
def test_a_gripper_holds_its_last_command(commands: list[float]) -> None:
    first = next((command for command in commands if abs(command) > 0.1), 1.0)
    closed, expected = first < 0, []  # before its first command the gripper is the other way round
    for command in commands:
        closed = command > 0 if abs(command) > 0.1 else closed
        expected.append(float(closed))
    assert changed(np.array(commands, np.float32)[:, None], "hold").ravel().tolist() == expected


@pytest.mark.parametrize("change", ["hold", "clip", "clip and invert", "invert"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_no_change_hides_a_number_that_is_none(change: Any, bad: float) -> None:
    assert np.isnan(changed(np.float32([[0], [bad], [1]]), change)).ravel().tolist() == [False, True, False]
