"""Who acts in an episode: chunks of a policy, executed in part and planned anew; or nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from pi05_train.evaluation.rollouts import Action, Episode
from pi05_train.policy.hierarchy import Hierarchy, RobotState, Turn
from pi05_train.policy.policy import Chunk
from pi05_train.samples.schema import Sample

Plan = Callable[[Sequence[Episode]], Sequence[Chunk]]
"""A chunk [H, action_dim] in physical units for every episode, from what it sees now."""


class Actor(Protocol):
    """What acts on samples: `Policy`, or one behind a server."""

    def actions(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[Chunk]:
        """A chunk [H, action_dim] in physical units per sample."""
        ...


class Chunks:
    """Executes `execute_steps` of a chunk, then asks for the next: one call for all episodes that need one."""

    def __init__(self, plan: Plan, execute_steps: int) -> None:
        self._plan, self._execute_steps = plan, execute_steps
        self._left: WeakKeyDictionary[Episode, list[Action]] = WeakKeyDictionary()

    def next_actions(self, episodes: Sequence[Episode]) -> list[Action]:
        """See `Driver`."""
        planless = [episode for episode in episodes if not self._left.get(episode)]
        if planless:
            for episode, chunk in zip(planless, self._plan(planless), strict=True):
                self._left[episode] = list(chunk[: self._execute_steps])
        return [self._left[episode].pop(0) for episode in episodes]


class ZeroActions:
    """The baseline that commands zero in every dimension, for ever."""

    def next_actions(self, episodes: Sequence[Episode]) -> list[Action]:
        """See `Driver`."""
        return [np.zeros(episode.task.action_dim, dtype=np.float32) for episode in episodes]


def plan_of(actor: Actor) -> Plan:
    """Plans on the command alone."""
    return lambda episodes: actor.actions([e.look() for e in episodes], [e.noise_seed for e in episodes])


def plan_of_levels(levels: Hierarchy) -> Plan:
    """Plans in the hierarchy's mode; oracle: on what the simulator's expert would do."""
    states: WeakKeyDictionary[Episode, RobotState] = WeakKeyDictionary()

    def turn(episode: Episode) -> Turn:
        sample = episode.look()
        if levels.mode == "oracle":
            sample = replace(sample, subtask=episode.world.subtask())
        return Turn(sample, states.get(episode, RobotState()), episode.time_s, episode.noise_seed)

    def plan(episodes: Sequence[Episode]) -> list[Chunk]:
        found = levels.act([turn(episode) for episode in episodes])
        states.update((episode, state) for episode, (_, state) in zip(episodes, found, strict=True))
        return [chunk for chunk, _ in found]

    return plan
