"""The Fetch servo: it solves its tasks, and says what it is doing."""

from __future__ import annotations

import pytest

from pi05_train.simulation.fetch import FETCH_TASKS, Fetch
from pi05_train.simulation.fetch_expert import decide
from pi05_train.simulation.rooms import ROOMS


@pytest.mark.parametrize("task", list(FETCH_TASKS))
def test_the_expert_solves_the_task_from_many_starts(task: str) -> None:
    robot = Fetch(task, 32)
    for seed in range(8):
        robot.restart(seed, ROOMS[seed])
        phases = []
        while not robot.succeeded() and robot.frame < robot.max_steps:
            decision = decide(robot)
            phases.append(decision.phase)
            robot.advance(decision.action)
        assert robot.succeeded(), (task, seed, phases)
        assert all(robot.colour in phase or "ball" in phase for phase in phases)
