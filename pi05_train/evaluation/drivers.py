"""Who acts in an episode: chunks of a policy, executed in part and planned anew; or nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
from websockets.sync.client import ClientConnection

from pi05_train.evaluation.rollouts import Action, Episode
from pi05_train.policy.client import RemotePolicy
from pi05_train.policy.execution import Execution, Remainder
from pi05_train.policy.hierarchy import Hierarchy, RobotState, Turn
from pi05_train.policy.policy import Chunk
from pi05_train.samples.schema import Sample

Remainders = Sequence[Remainder | None]
"""What is left of each one's former chunk; None: the next need not go on with it."""
Plan = Callable[[Sequence[Episode], Remainders], Sequence[Chunk]]
"""A chunk [H, action_dim] in physical units for every episode, from what it sees now."""


class Actor(Protocol):
    """What acts on samples: `Policy`."""

    def actions(self, samples: Sequence[Sample], seeds: Sequence[int], remainders: Remainders) -> list[Chunk]:
        """A chunk [H, action_dim] in physical units per sample."""
        ...


class Chunks:
    """Executes chunks, and asks for the next ones: one call for all episodes that are due.

    A chunk arrives `delay_steps` after its observation. Episodes begin when their first one is there.
    """

    def __init__(self, plan: Plan, execution: Callable[[], Execution], *, delay_steps: int = 0) -> None:
        """`execution` is called once per episode."""
        self._plan, self._execution, self._delay_steps = plan, execution, delay_steps
        self._executions: WeakKeyDictionary[Episode, Execution] = WeakKeyDictionary()
        self._coming: WeakKeyDictionary[Episode, tuple[int, Chunk]] = WeakKeyDictionary()
        """At which control step what arrives."""

    def next_actions(self, episodes: Sequence[Episode]) -> list[Action]:
        """See `Driver`."""
        for episode in episodes:
            if episode not in self._executions:
                self._executions[episode] = self._execution()
        due = [episode for episode in episodes if self._executions[episode].due]
        if due:
            remainders = [self._executions[episode].ask() for episode in due]
            for episode, chunk in zip(due, self._plan(due, remainders), strict=True):
                self._coming[episode] = (episode.steps + self._delay_steps if episode.steps else 0), chunk
        return [self._next(episode) for episode in episodes]

    def _next(self, episode: Episode) -> Action:
        execution = self._executions[episode]
        arrives, chunk = self._coming[episode]
        if execution.waiting and episode.steps >= arrives:
            execution.receive(chunk)
        command = execution.command()
        return held_still(episode) if command is None else command


def held_still(episode: Episode) -> Action:
    """The latest command without its displacement: arms stay where they are, hands go on gripping."""
    action = episode.actions[-1].copy()
    action[: episode.task.displacement_dims] = 0
    return action


class ZeroActions:
    """The baseline that commands zero in every dimension, for ever."""

    def next_actions(self, episodes: Sequence[Episode]) -> list[Action]:
        """See `Driver`."""
        return [np.zeros(episode.task.action_dim, dtype=np.float32) for episode in episodes]


def plan_of(actor: Actor) -> Plan:
    """Plans on the command alone."""

    def plan(episodes: Sequence[Episode], remainders: Remainders) -> list[Chunk]:
        return actor.actions([e.look() for e in episodes], [e.noise_seed for e in episodes], remainders)

    return plan


def plan_of_remote(remote: RemotePolicy) -> Plan:
    """Plans as a server does; it knows every episode as a robot of its own."""
    robots: dict[Episode, ClientConnection] = {}

    def plan(episodes: Sequence[Episode], remainders: Remainders) -> list[Chunk]:
        for episode in [episode for episode in robots if episode.ended]:
            remote.hang_up(robots.pop(episode))
        for episode in episodes:
            if episode not in robots:
                robots[episode] = remote.connect()
        samples, seeds = [e.look() for e in episodes], [e.noise_seed for e in episodes]
        return remote.actions([robots[e] for e in episodes], samples, seeds, remainders)

    return plan


def plan_of_levels(levels: Hierarchy) -> Plan:
    """Plans in the hierarchy's mode; oracle: on what the simulator's expert would do."""
    states: WeakKeyDictionary[Episode, RobotState] = WeakKeyDictionary()

    def turn(episode: Episode, remainder: Remainder | None) -> Turn:
        sample = episode.look()
        if levels.mode == "oracle":
            sample = replace(sample, subtask=episode.world.subtask())
        state = states.get(episode, RobotState())
        return Turn(sample, state, episode.time_s, episode.noise_seed, remainder=remainder)

    def plan(episodes: Sequence[Episode], remainders: Remainders) -> list[Chunk]:
        found = levels.act(list(map(turn, episodes, remainders)))
        states.update((episode, state) for episode, (_, state) in zip(episodes, found, strict=True))
        return [chunk for chunk, _ in found]

    return plan
