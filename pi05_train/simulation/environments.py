"""Closed-loop evaluation: the tasks, played by the same robots that were recorded."""

from __future__ import annotations

from dataclasses import dataclass

from pi05_train.errors import UserError
from pi05_train.simulation.aloha import ALOHA_TASKS, Aloha
from pi05_train.simulation.aloha import SPEC as ALOHA_SPEC
from pi05_train.simulation.fetch import FETCH_TASKS, Fetch
from pi05_train.simulation.fetch import SPEC as FETCH_SPEC
from pi05_train.simulation.language import HIGH_LEVEL
from pi05_train.simulation.metaworld import SPEC as METAWORLD_SPEC
from pi05_train.simulation.metaworld import MetaWorld
from pi05_train.simulation.metaworld_tasks import METAWORLD_TASKS
from pi05_train.simulation.robot import Robot, RobotSpec
from pi05_train.simulation.rooms import Condition


@dataclass(frozen=True)
class EvaluationTask:
    """One task to roll out, and the source whose statistics and card its observations belong to."""

    name: str
    source: str
    max_steps: int
    rate_hz: float
    action_dim: int
    coloured_object: bool = False
    """Whether the room gives the object its colour, so that there are unseen ones."""
    high_level: tuple[str, ...] = ()
    """Commands that leave the subtasks to a high level; none where nobody names subtasks."""
    displacement_dims: int = 0
    """See `RobotSpec`."""

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Where it can be played."""
        new: tuple[Condition, ...] = ("unseen object",) if self.coloured_object else ()
        return ("seen", "unseen environment", *new)


def _tasks() -> dict[str, EvaluationTask]:
    rows: list[tuple[str, str, RobotSpec, int, bool]] = [
        *((name, name, FETCH_SPEC, task.max_steps, task.has_object) for name, task in FETCH_TASKS.items()),
        *((f"metaworld-{n}", n, METAWORLD_SPEC, task.max_steps, False) for n, task in METAWORLD_TASKS.items()),
        *((f"aloha-{name}", name, ALOHA_SPEC, task.max_steps, True) for name, task in ALOHA_TASKS.items()),
    ]
    return {
        name: EvaluationTask(
            name,
            spec.source,
            steps,
            spec.rate_hz,
            spec.action_dim,
            coloured,
            HIGH_LEVEL.get(recorded, ()),
            spec.displacement_dims,
        )
        for name, recorded, spec, steps, coloured in rows
    }


EVALUATION_TASKS: dict[str, EvaluationTask] = _tasks()
"""Every task `make_robot` knows, by name (`fetch-reach`, `metaworld-drawer-open`, `aloha-transfer`, ...)."""


def make_robot(task: str, image_size: int) -> Robot:
    """The robot of an evaluation task; unknown names are refused."""
    if task not in EVALUATION_TASKS:
        raise UserError(
            "evaluation task", got=repr(task), expected="one of " + ", ".join(EVALUATION_TASKS), do="correct the name"
        )
    if task in FETCH_TASKS:
        return Fetch(task, image_size)
    if task.startswith("aloha-"):
        return Aloha(task.removeprefix("aloha-"), image_size)
    return MetaWorld(task.removeprefix("metaworld-"), image_size)
