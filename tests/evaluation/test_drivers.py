"""Chunks in execution: what an episode does at every step, whatever the strategy and the delay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.evaluation.drivers import Chunks, Remainders
from pi05_train.evaluation.rollouts import Action, Episode, Trial, World
from pi05_train.policy.execution import STRATEGIES, Execution
from pi05_train.policy.policy import Chunk
from pi05_train.samples.schema import Sample
from pi05_train.simulation.environments import EvaluationTask
from pi05_train.simulation.rooms import ROOMS

TASK = EvaluationTask("line", "one", 60, 10.0, 3, displacement_dims=1)


class Planner:
    """Rows of a chunk: 1, the step at which it was asked for, the row."""

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon
        self.told: dict[int, Remainders] = {}
        """By step."""

    def __call__(self, episodes: Sequence[Episode], remainders: Remainders) -> list[Chunk]:
        (step,) = {episode.steps for episode in episodes}
        self.told[step] = remainders
        rows = np.array([(1, step, row) for row in range(self.horizon)], np.float32)
        return [rows for _ in episodes]


def played(planner: Planner, strategy: str, execute: int, delay: int, steps: int = 40) -> list[Action]:
    """What two episodes do, which is the same."""
    new = partial(Execution, strategy, horizon=planner.horizon, execute_steps=execute, delay_steps=delay)
    driver = Chunks(planner, new, delay_steps=delay)
    trial, nobody = Trial("line", 0, "seen", ROOMS[0]), cast(World, None)
    episodes = [Episode(nobody, trial, TASK, 60, Sample("0", "one", "CE", {})) for _ in range(2)]
    for _ in range(steps):
        for episode, action in zip(episodes, driver.next_actions(episodes), strict=True):
            episode.actions.append(action)
    np.testing.assert_array_equal(episodes[0].actions, episodes[1].actions)
    return episodes[0].actions


@settings(deadline=None)
@given(execute=st.integers(1, 6), delay=st.integers(0, 5), strategy=st.sampled_from(STRATEGIES[1:]))
def test_a_chunk_arrives_late_and_is_joined_where_the_time_is(execute: int, delay: int, strategy: str) -> None:
    planner = Planner(horizon=12)
    actions = played(planner, strategy, execute, delay)
    asked = sorted(planner.told)
    assert np.diff(asked).tolist() == [execute, *[max(execute, delay + 1)] * (len(asked) - 2)]
    for step, action in enumerate(actions):
        newest = max(at for at in asked if at == 0 or at + delay <= step)
        assert action.tolist() == [1, newest, step - newest]
    for at in asked[1:]:
        for rest in planner.told[at]:
            if strategy == "receding_horizon":
                assert rest is None
            else:
                assert rest is not None
                assert rest.delay_steps == delay
                committed = actions[at : at + delay]
                np.testing.assert_array_equal(rest.actions_RD[: len(committed)], np.reshape(committed, (-1, 3)))
    assert planner.told[0] == [None, None]


@pytest.mark.parametrize("delay", [0, 3])
def test_an_open_loop_holds_still_until_its_next_chunk_is_there(delay: int) -> None:
    actions = played(planner := Planner(horizon=5), "open_loop", 5, delay, steps=20)
    chunk = [[1, 0, row] for row in range(5)]
    still = [[0, 0, 4]] * delay
    later = [[1, 5, row] for row in range(5)] if not delay else [[1, 5, 0]]
    assert np.array(actions).tolist()[: len(chunk + still + later)] == chunk + still + later
    assert all(told == [None, None] for told in planner.told.values())
