from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.evaluation import rollouts
from pi05_train.evaluation.drivers import Chunks, ZeroActions, plan_of
from pi05_train.evaluation.results import RolloutResult
from pi05_train.evaluation.rollouts import FIRST_SEED, Driver, Episode, plan_trials, run_rollouts
from pi05_train.evaluation.success import Success, side_by_side, summarise
from pi05_train.policy.execution import Execution, Remainder
from pi05_train.samples.schema import Sample
from pi05_train.simulation.environments import EvaluationTask
from pi05_train.simulation.rooms import CONDITIONS, PALETTE, ROOMS, UNSEEN_PALETTE, UNSEEN_ROOMS, Room

GOAL = 6.0


class Line:
    """A point on a line that must pass the goal; `seed` decides where it starts."""

    max_steps = 40
    alive: int = 0
    most_alive: int = 0
    pictures: int = 0

    def __init__(self, task: str, image_size: int) -> None:
        assert image_size == 64
        self.task, self.closed, self.place, self.steps = task, False, 0.0, 0
        Line.alive += 1
        Line.most_alive = max(Line.most_alive, Line.alive)

    def observe(self) -> Sample:
        Line.pictures += 1
        state = np.array([self.place], dtype=np.float32)
        source = TASKS[self.task].source
        return Sample(str(self.steps), source, "CE", {}, task="pass", state=state, environment_id=str(self.room.index))

    def reset(self, seed: int, room: Room) -> Sample:
        assert not self.closed
        self.room = room
        self.place, self.steps = float(np.random.default_rng(seed).uniform(0, 3)), 0
        return self.observe()

    def advance(self, action: NDArray[np.float32]) -> None:
        assert action.shape == (4,)
        assert not self.succeeded()
        self.place += float(action[0])
        self.steps += 1

    def succeeded(self) -> bool:
        return self.place > GOAL

    def subtask(self) -> str:
        return f"go on from {self.place:.0f}"

    def close(self) -> None:
        self.closed = True
        Line.alive -= 1


class Wanderer:
    """Moves by noise that its seeds choose, from where it is."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def actions(
        self, samples: Sequence[Sample], seeds: Sequence[int], remainders: Sequence[Remainder | None]
    ) -> list[NDArray[np.float32]]:
        del remainders
        self.calls.append(list(seeds))
        return [
            np.random.default_rng(seed).normal(0.05, 0.4, (10, 4)).astype(np.float32) + sample.state * 0.01
            for sample, seed in zip(samples, seeds, strict=True)
        ]


TASKS = {
    name: EvaluationTask(name, source, 40, 10.0, 4, coloured, ("go far", "leave"))
    for name, source, coloured in (("a", "one", False), ("b", "one", True), ("c", "two", False))
}


@pytest.fixture(autouse=True)
def lines(monkeypatch: pytest.MonkeyPatch) -> None:
    Line.alive = Line.most_alive = Line.pictures = 0
    monkeypatch.setattr(rollouts, "make_robot", Line)
    monkeypatch.setattr(rollouts, "EVALUATION_TASKS", TASKS)


def wandering(actor: Wanderer) -> Driver:
    return Chunks(plan_of(actor), lambda: Execution("receding_horizon", horizon=10, execute_steps=4))


def run(driver: Driver, worlds: int, **options: Any) -> list[RolloutResult]:
    return run_rollouts(driver, plan_trials(list("abc"), 5), policy="trained", image_size=64, worlds=worlds, **options)


def test_running_side_by_side_changes_no_result() -> None:
    one_by_one = run(wandering(Wanderer()), 1)
    assert run(wandering(Wanderer()), 4) == run(wandering(Wanderer()), 100) == one_by_one
    assert {result.success for result in one_by_one} == {True, False}
    assert [(r.task, r.seed) for r in one_by_one] == [(t, FIRST_SEED + i) for t in "abc" for i in range(5)]


def test_one_call_plans_for_all_and_no_two_plans_of_a_task_share_their_noise() -> None:
    actor = Wanderer()
    run_rollouts(wandering(actor), plan_trials(["a"], 12), policy="trained", image_size=64, worlds=12)
    seeds = [seed for call in actor.calls for seed in call]
    assert len(actor.calls[0]) == 12
    assert len(actor.calls) <= 10
    assert len(set(seeds)) == len(seeds)


def test_no_more_worlds_than_asked_for_and_all_are_closed() -> None:
    run(wandering(Wanderer()), 4)
    assert Line.most_alive == 4
    assert Line.alive == 0


def test_worlds_are_closed_when_the_policy_fails() -> None:
    class Failing:
        def next_actions(self, episodes: Sequence[Episode]) -> NoReturn:
            del episodes
            raise RuntimeError("no answer")

    with pytest.raises(RuntimeError, match="no answer"):
        run(Failing(), 4)
    assert Line.alive == 0


def test_an_episode_ends_at_the_step_limit() -> None:
    assert {result.steps for result in run(ZeroActions(), 4, max_steps=7)} == {7}


def test_the_world_is_pictured_once_per_plan() -> None:
    actor = Wanderer()
    run(wandering(actor), 4)
    assert Line.pictures == sum(len(call) for call in actor.calls)


def test_every_ended_episode_is_heard_of_once_with_what_it_did() -> None:
    heard: list[RolloutResult] = []

    def ended(episode: Episode, result: RolloutResult) -> None:
        assert len(episode.actions) == result.steps
        heard.append(result)

    results = run(wandering(Wanderer()), 4, ended=ended)
    assert sorted(heard, key=str) == sorted(results, key=str)


def test_unknown_tasks_are_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match="'juggle'"):
        plan_trials(["a", "juggle"], 1)


def test_conditions_change_the_room_and_nothing_else_of_a_start() -> None:
    trials = plan_trials(["a", "b"], 3, CONDITIONS, high_level=True)
    by_condition = {c: [t for t in trials if t.condition == c] for c in CONDITIONS}
    assert [len(by_condition[c]) for c in CONDITIONS] == [12, 12, 6]
    seen, elsewhere = by_condition["seen"], by_condition["unseen environment"]
    assert [(t.task, t.seed, t.command) for t in seen] == [(t.task, t.seed, t.command) for t in elsewhere]
    assert {t.room for t in seen} <= set(ROOMS)
    assert {t.room for t in elsewhere} <= set(UNSEEN_ROOMS)
    assert {t.room.object_name for t in elsewhere} <= set(PALETTE)
    for trial, other in zip(by_condition["unseen object"], seen[6:], strict=True):
        assert trial.room.object_name in UNSEEN_PALETTE
        assert replace(trial.room, object_name=other.room.object_name) == other.room


def test_only_rooms_that_were_trained_in_are_seen() -> None:
    trials = plan_trials(["a"], 5, trained_rooms=lambda source: {"one": ROOMS[3:5]}[source])
    assert {trial.room for trial in trials} == set(ROOMS[3:5])


def test_the_robot_is_told_the_trials_command() -> None:
    told = [r.command for r in run_rollouts(ZeroActions(), plan_trials(["a"], 2), policy="", image_size=64)]
    assert told == ["pass", "pass"]
    trials = plan_trials(["a"], 2, high_level=True)
    told = [r.command for r in run_rollouts(ZeroActions(), trials, policy="", image_size=64, max_steps=2)]
    assert told == ["go far", "go far", "leave", "leave"]


def test_summaries_count_per_source_and_per_task() -> None:
    results = [
        RolloutResult("one", "a", 0, True, 10),
        RolloutResult("one", "a", 1, False, 40),
        RolloutResult("one", "b", 0, True, 20),
        RolloutResult("two", "c", 0, False, 40),
    ]
    rows = {(row.source, row.task): row for row in summarise(results)}
    assert list(rows) == [("one", ""), ("one", "a"), ("one", "b"), ("two", ""), ("two", "c")]
    assert (rows["one", ""].successes, rows["one", ""].episodes) == (2, 3)
    assert (rows["one", "a"].rate, rows["one", "a"].mean_steps) == (0.5, 25.0)
    assert all(row.low <= row.rate <= row.high for row in rows.values())


def test_policies_stand_side_by_side_in_every_group() -> None:
    results = [
        RolloutResult("one", "a", seed, seed < wins, 10, policy=policy, condition=condition)
        for policy, wins in (("flat", 1), ("oracle", 3))
        for condition in ("seen", "unseen environment")
        for seed in range(4)
    ]
    table = side_by_side(results, lambda result: result.condition)
    assert list(table) == ["seen", "unseen environment"]
    for row in table.values():
        assert {policy: success.successes for policy, success in row.items()} == {"flat": 1, "oracle": 3}
        assert row["flat"] == Success.of([r for r in results if r.policy == "flat"][:4])
