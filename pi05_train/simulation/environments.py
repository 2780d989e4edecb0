"""Closed-loop evaluation: the tasks, played by the same robots that were recorded."""

from __future__ import annotations

from dataclasses import dataclass

from pi05_train.errors import UserError
from pi05_train.simulation.fetch import FETCH_TASKS, Fetch
from pi05_train.simulation.fetch import SPEC as FETCH_SPEC
from pi05_train.simulation.metaworld import SPEC as METAWORLD_SPEC
from pi05_train.simulation.metaworld import MetaWorld
from pi05_train.simulation.metaworld_tasks import METAWORLD_TASKS
from pi05_train.simulation.robot import Robot, RobotSpec


@dataclass(frozen=True)
class EvaluationTask:
    """One task to roll out, and the source whose statistics and card its observations belong to."""

    name: str
    source: str
    max_steps: int
    rate_hz: float
    action_dim: int


def _tasks() -> dict[str, EvaluationTask]:
    limits: list[tuple[str, RobotSpec, int]] = [
        *((name, FETCH_SPEC, task.max_steps) for name, task in FETCH_TASKS.items()),
        *((f"metaworld-{name}", METAWORLD_SPEC, task.max_steps) for name, task in METAWORLD_TASKS.items()),
    ]
    return {
        name: EvaluationTask(name, spec.source, steps, spec.rate_hz, spec.action_dim) for name, spec, steps in limits
    }


EVALUATION_TASKS: dict[str, EvaluationTask] = _tasks()
"""Every task `make_robot` knows, by name (`fetch-reach`, `metaworld-drawer-open`, ...)."""


def make_robot(task: str, image_size: int) -> Robot:
    """The robot of an evaluation task; unknown names are refused."""
    if task not in EVALUATION_TASKS:
        raise UserError(
            "evaluation task", got=repr(task), expected="one of " + ", ".join(EVALUATION_TASKS), do="correct the name"
        )
    if task in FETCH_TASKS:
        return Fetch(task, image_size)
    return MetaWorld(task.removeprefix("metaworld-"), image_size)
