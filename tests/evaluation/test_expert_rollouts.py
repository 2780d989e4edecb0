"""The loop with the simulators' own experts as drivers: what can be solved is seen to be solved, in new rooms too."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pi05_train.evaluation.rollouts import Action, Episode, plan_trials, run_rollouts
from pi05_train.simulation import aloha_expert, fetch_expert
from pi05_train.simulation.aloha import Aloha
from pi05_train.simulation.fetch import Fetch
from pi05_train.simulation.metaworld import MetaWorld


class Expert:
    """A driver that knows the truth."""

    def __init__(self) -> None:
        self._plans: dict[Episode, list[Action]] = {}

    def next_actions(self, episodes: Sequence[Episode]) -> list[Action]:
        return [self._action(episode) for episode in episodes]

    def _action(self, episode: Episode) -> Action:
        robot = episode.world
        if isinstance(robot, Fetch):
            return fetch_expert.decide(robot).action
        if isinstance(robot, MetaWorld):
            return robot.expert_action()
        assert isinstance(robot, Aloha)
        if episode not in self._plans:
            self._plans[episode] = [*aloha_expert.plan(robot.task_name, episode.trial.seed)]
        return self._plans[episode][min(episode.steps, len(self._plans[episode]) - 1)]


@pytest.mark.parametrize("task", ["fetch-push", "metaworld-button-press", "aloha-transfer"])
def test_an_expert_succeeds_in_rooms_nobody_has_seen(task: str) -> None:
    (trial,) = plan_trials([task], 1, ["unseen environment"])
    (result,) = run_rollouts(Expert(), [trial], policy="expert", image_size=32)
    assert result.success
    assert result.steps > 1
    assert result.environment == f"{result.source}-room-{trial.room.index}"
