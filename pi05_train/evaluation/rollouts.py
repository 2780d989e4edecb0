"""Closed-loop episodes in simulation: many worlds in lockstep, asked for their next actions together.

The loop knows nothing of policies: a `Driver` gives every episode its next action (`pi05_train.evaluation.drivers`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.evaluation.results import RolloutResult
from pi05_train.samples.schema import Sample
from pi05_train.simulation.environments import EVALUATION_TASKS, EvaluationTask, make_robot
from pi05_train.simulation.rooms import Condition, Room, room_for

Action = NDArray[np.float32]

FIRST_SEED = 1_000_000
"""Episode seeds start here, away from those that recorded the training data."""
SEEDS_PER_EPISODE = 100_000
"""Room for the noise seeds of one episode's plans."""


class World(Protocol):
    """What is acted in. It is pictured only when asked: pictures cost most of a step."""

    max_steps: int

    def reset(self, seed: int, room: Room) -> Sample:
        """Start the episode `seed` in the room and observe it."""
        ...

    def advance(self, action: Action) -> None:
        """One control step of an [action_dim] command."""
        ...

    def succeeded(self) -> bool:
        """Whether the task is fulfilled now."""
        ...

    def observe(self) -> Sample:
        """Images, state and task as they are now."""
        ...

    def subtask(self) -> str:
        """What an expert would do now, in words."""
        ...

    def close(self) -> None:
        """Free the renderer."""
        ...


@dataclass(frozen=True)
class Trial:
    """One episode to be played: everything its start depends on."""

    task: str
    seed: int
    condition: Condition
    room: Room
    command: str = ""
    """What the robot is told; "": the task's own instruction."""


@dataclass(eq=False)
class Episode:
    """One world on its way through one trial."""

    world: World
    trial: Trial
    task: EvaluationTask
    max_steps: int
    observation: Sample
    """Of the last look."""
    actions: list[Action] = field(default_factory=list)
    """Executed so far."""
    success: bool = False
    _seen_at: int = 0

    @classmethod
    def start(cls, world: World, trial: Trial, max_steps: int) -> Episode:
        episode = cls(world, trial, EVALUATION_TASKS[trial.task], max_steps, world.reset(trial.seed, trial.room))
        episode.observation = episode._told(episode.observation)
        return episode

    @property
    def steps(self) -> int:
        """Control steps done."""
        return len(self.actions)

    @property
    def time_s(self) -> float:
        return self.steps / self.task.rate_hz

    @property
    def ended(self) -> bool:
        return self.success or self.steps >= self.max_steps

    @property
    def noise_seed(self) -> int:
        """Seed of the plan made now: its own for every episode and step."""
        return self.trial.seed * SEEDS_PER_EPISODE + self.steps

    def look(self) -> Sample:
        """The observation now; looking twice at one step costs one picture."""
        if self.steps != self._seen_at:
            self.observation, self._seen_at = self._told(self.world.observe()), self.steps
        return self.observation

    def advance(self, action: Action) -> None:
        """One control step; success ends the episode."""
        self.world.advance(action)
        self.success = self.world.succeeded()
        self.actions.append(action)

    def result(self, policy: str) -> RolloutResult:
        """What is kept of it."""
        trial, sample = self.trial, self.observation
        return RolloutResult(
            source=self.task.source,
            task=trial.task,
            seed=trial.seed,
            success=self.success,
            steps=self.steps,
            policy=policy,
            condition=trial.condition,
            environment=sample.environment_id,
            command=sample.task,
        )

    def _told(self, sample: Sample) -> Sample:
        return replace(sample, task=self.trial.command) if self.trial.command else sample


class Driver(Protocol):
    """Who gives episodes their next action."""

    def next_actions(self, episodes: Sequence[Episode]) -> Sequence[Action]:
        """The action [action_dim] of every running episode for this control step; called once per step with all.

        Two episodes that begin alike get the same actions, whoever runs beside them. What is remembered of an episode
        is the driver's own business: an `Episode` is hashable, by identity.
        """
        ...


Ended = Callable[[Episode, RolloutResult], None]


def plan_trials(
    tasks: Sequence[str],
    episodes: int,
    conditions: Sequence[Condition] = ("seen",),
    *,
    high_level: bool = False,
    trained_rooms: Callable[[str], Sequence[Room]] | None = None,
    first_seed: int = FIRST_SEED,
) -> list[Trial]:
    """Every task under each of the conditions it has, with seeds `first_seed`, `first_seed + 1`, ...

    One seed places objects alike under all conditions and commands. `high_level`: each of the task's commands that name
    no subtask. `trained_rooms(source)` are the seen ones; None: all that are recorded.
    """
    trials = []
    for task in map(known_task, tasks):
        rooms = {} if trained_rooms is None else {"trained": trained_rooms(task.source)}
        for condition in [condition for condition in conditions if condition in task.conditions]:
            for command in task.high_level if high_level else ("",):
                for seed in range(first_seed, first_seed + episodes):
                    trials.append(Trial(task.name, seed, condition, room_for(condition, seed, **rooms), command))
    return trials


def known_task(name: str) -> EvaluationTask:
    """The task; unknown names are refused."""
    if name not in EVALUATION_TASKS:
        raise UserError(
            "evaluation task", got=repr(name), expected="one of " + ", ".join(EVALUATION_TASKS), do="correct it"
        )
    return EVALUATION_TASKS[name]


def run_rollouts(
    driver: Driver,
    trials: Sequence[Trial],
    *,
    policy: str,
    image_size: int,
    worlds: int = 8,
    max_steps: int | None = None,
    ended: Ended | None = None,
) -> list[RolloutResult]:
    """The trials, at most `worlds` at a time; results in their order, called `policy`'s.

    Episodes are independent: how many run side by side changes no start state and no noise. `max_steps` shortens the
    tasks' own limits. `ended` hears of each as it ends.
    """
    waiting = list(reversed(list(enumerate(trials))))
    running: list[tuple[int, Episode]] = []
    done: dict[int, RolloutResult] = {}

    def start(idle: World | None = None, idle_task: str = "") -> None:
        """Fill the free places; the idle world is used again for its own task, else closed."""
        if idle is not None and not (waiting and waiting[-1][1].task == idle_task):
            idle.close()
            idle = None
        while waiting and len(running) < worlds:
            number, trial = waiting.pop()
            world, idle = idle or make_robot(trial.task, image_size), None
            limit = min(world.max_steps, max_steps or world.max_steps)
            running.append((number, Episode.start(world, trial, limit)))

    try:
        start()
        while running:
            advance_all(driver, [episode for _, episode in running])
            for number, episode in [pair for pair in running if pair[1].ended]:
                running.remove((number, episode))
                done[number] = episode.result(policy)
                if ended is not None:
                    ended(episode, done[number])
                start(episode.world, episode.trial.task)
    finally:
        for _, episode in running:
            episode.world.close()
    return [done[number] for number in range(len(trials))]


def advance_all(driver: Driver, episodes: Sequence[Episode]) -> None:
    """One control step of every episode."""
    for episode, action in zip(episodes, driver.next_actions(episodes), strict=True):
        episode.advance(action)
