"""Closed-loop episodes in simulation: many worlds in lockstep, one policy call for all that need a new plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.evaluation.intervals import wilson
from pi05_train.evaluation.results import RolloutResult, RolloutSummary
from pi05_train.samples.schema import Sample
from pi05_train.simulation.environments import EVALUATION_TASKS, make_robot

FIRST_SEED = 1_000_000
"""Episode seeds start here, away from those that recorded the training data."""
SEEDS_PER_EPISODE = 100_000
"""Room for the noise seeds of one episode's plans."""


class Actor(Protocol):
    """What acts: `Policy`, or a baseline."""

    def actions(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[NDArray[np.float32]]:
        """A chunk [H, action_dim] in physical units per sample."""
        ...


class World(Protocol):
    """What is acted in. It is pictured only when asked: pictures cost most of a step."""

    max_steps: int

    def reset(self, seed: int) -> Sample:
        """Start the episode `seed` and observe it."""
        ...

    def advance(self, action: NDArray[np.float32]) -> None:
        """One control step of an [action_dim] command."""
        ...

    def succeeded(self) -> bool:
        """Whether the task is fulfilled now."""
        ...

    def observe(self) -> Sample:
        """Images, state and task as they are now."""
        ...

    def close(self) -> None:
        """Free the renderer."""
        ...


class ZeroActions:
    """The baseline that commands zero in every dimension, for ever."""

    def __init__(self, task_dims: dict[str, int] | None = None) -> None:
        self._dims = task_dims or {task.source: task.action_dim for task in EVALUATION_TASKS.values()}

    def actions(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[NDArray[np.float32]]:
        """Zeros; long enough that nothing is planned twice."""
        del seeds
        return [np.zeros((SEEDS_PER_EPISODE // 100, self._dims[s.source]), dtype=np.float32) for s in samples]


@dataclass(eq=False)
class Episode:
    """One world on its way through one episode."""

    world: World
    seed: int
    max_steps: int
    observation: Sample
    """Of the last plan."""
    plan: list[NDArray[np.float32]] = field(default_factory=list)
    steps: int = 0
    success: bool = False

    @classmethod
    def start(cls, world: World, seed: int, max_steps: int) -> Episode:
        return cls(world, seed, max_steps, world.reset(seed))

    @property
    def ended(self) -> bool:
        return self.success or self.steps >= self.max_steps

    @property
    def noise_seed(self) -> int:
        """Seed of the plan made now: its own for every episode and step."""
        return self.seed * SEEDS_PER_EPISODE + self.steps

    def look(self) -> Sample:
        """The observation to plan from."""
        if self.steps:
            self.observation = self.world.observe()
        return self.observation

    def advance(self) -> None:
        """One control step of the plan; success ends the episode."""
        self.world.advance(self.plan.pop(0))
        self.success = self.world.succeeded()
        self.steps += 1


def run_rollouts(
    actor: Actor,
    tasks: Sequence[str],
    *,
    episodes_per_task: int,
    image_size: int,
    execute_steps: int,
    worlds: int = 8,
    first_seed: int = FIRST_SEED,
    max_steps: int | None = None,
    progress: Callable[[RolloutResult], None] | None = None,
) -> list[RolloutResult]:
    """Every task with seeds `first_seed`, `first_seed + 1`, ..., at most `worlds` episodes at a time.

    Episodes are independent: how many run side by side changes no start state and no noise. `max_steps` shortens the
    tasks' own limits. Results are in the order of tasks and seeds; `progress` hears each as it ends.
    """
    for task in tasks:
        if task not in EVALUATION_TASKS:
            raise UserError(
                "evaluation task", got=repr(task), expected="one of " + ", ".join(EVALUATION_TASKS), do="correct it"
            )
    waiting = [(task, first_seed + i) for task in reversed(tasks) for i in reversed(range(episodes_per_task))]
    running: list[tuple[str, Episode]] = []
    done: dict[tuple[str, int], RolloutResult] = {}

    def start(idle: World | None = None, idle_task: str = "") -> None:
        """Fill the free places; the idle world is used again for its own task, else closed."""
        if idle is not None and not (waiting and waiting[-1][0] == idle_task):
            idle.close()
            idle = None
        while waiting and len(running) < worlds:
            task, seed = waiting.pop()
            world, idle = idle or make_robot(task, image_size), None
            limit = min(world.max_steps, max_steps or world.max_steps)
            running.append((task, Episode.start(world, seed, limit)))

    start()
    while running:
        advance_all(actor, [episode for _, episode in running], execute_steps)
        for task, episode in [pair for pair in running if pair[1].ended]:
            running.remove((task, episode))
            result = RolloutResult(EVALUATION_TASKS[task].source, task, episode.seed, episode.success, episode.steps)
            done[task, episode.seed] = result
            if progress is not None:
                progress(result)
            start(episode.world, task)
    return [done[task, first_seed + i] for task in tasks for i in range(episodes_per_task)]


def advance_all(actor: Actor, episodes: Sequence[Episode], execute_steps: int) -> None:
    """One control step of every episode; those without a plan get theirs from a single call of the actor."""
    planless = [episode for episode in episodes if not episode.plan]
    if planless:
        chunks = actor.actions([e.look() for e in planless], [e.noise_seed for e in planless])
        for episode, chunk in zip(planless, chunks, strict=True):
            episode.plan = list(chunk[:execute_steps])
    for episode in episodes:
        episode.advance()


def summarise(results: Sequence[RolloutResult], policy: str) -> list[RolloutSummary]:
    """Success rates with Wilson intervals: for each source all tasks together, then task by task."""
    summaries = []
    for source in dict.fromkeys(result.source for result in results):
        own = [result for result in results if result.source == source]
        tasks = list(dict.fromkeys(result.task for result in own))
        for task in ["", *tasks]:
            group = [result for result in own if task in ("", result.task)]
            successes = sum(result.success for result in group)
            summaries.append(
                RolloutSummary(
                    source=source,
                    task=task,
                    policy=policy,
                    episodes=len(group),
                    successes=successes,
                    low=wilson(successes, len(group))[0],
                    high=wilson(successes, len(group))[1],
                    mean_steps=float(np.mean([result.steps for result in group])),
                )
            )
    return summaries
