from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.evaluation import rollouts
from pi05_train.evaluation.results import RolloutResult
from pi05_train.evaluation.rollouts import FIRST_SEED, ZeroActions, run_rollouts, summarise
from pi05_train.samples.schema import Sample
from pi05_train.simulation.environments import EVALUATION_TASKS, EvaluationTask

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
        return Sample(key=str(self.steps), source=EVALUATION_TASKS[self.task].source, kind="CE", images={}, state=state)

    def reset(self, seed: int) -> Sample:
        assert not self.closed
        self.place, self.steps = float(np.random.default_rng(seed).uniform(0, 3)), 0
        return self.observe()

    def advance(self, action: NDArray[np.float32]) -> None:
        assert action.shape == (4,)
        assert not self.succeeded()
        self.place += float(action[0])
        self.steps += 1

    def succeeded(self) -> bool:
        return self.place > GOAL

    def close(self) -> None:
        self.closed = True
        Line.alive -= 1


class Wanderer:
    """Moves by noise that its seeds choose, from where it is."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def actions(self, samples: Sequence[Sample], seeds: Sequence[int]) -> list[NDArray[np.float32]]:
        self.calls.append(list(seeds))
        return [
            np.random.default_rng(seed).normal(0.05, 0.4, (10, 4)).astype(np.float32) + sample.state * 0.01
            for sample, seed in zip(samples, seeds, strict=True)
        ]


@pytest.fixture(autouse=True)
def lines(monkeypatch: pytest.MonkeyPatch) -> None:
    Line.alive = Line.most_alive = Line.pictures = 0
    tasks = {
        name: EvaluationTask(name, source, 40, 10.0, 4) for name, source in (("a", "one"), ("b", "one"), ("c", "two"))
    }
    monkeypatch.setattr(rollouts, "make_robot", Line)
    monkeypatch.setattr(rollouts, "EVALUATION_TASKS", tasks)
    monkeypatch.setitem(globals(), "EVALUATION_TASKS", tasks)


def run(actor: object, worlds: int, **options: object) -> list[RolloutResult]:
    settings = {"episodes_per_task": 5, "image_size": 64, "execute_steps": 4, **options}
    return run_rollouts(actor, ["a", "b", "c"], worlds=worlds, **settings)  # type: ignore[arg-type]


def test_running_side_by_side_changes_no_result() -> None:
    one_by_one = run(Wanderer(), 1)
    assert run(Wanderer(), 4) == run(Wanderer(), 100) == one_by_one
    assert {result.success for result in one_by_one} == {True, False}
    assert [(r.task, r.seed) for r in one_by_one] == [(t, FIRST_SEED + i) for t in "abc" for i in range(5)]


def test_one_call_plans_for_all_and_no_two_plans_of_a_task_share_their_noise() -> None:
    actor = Wanderer()
    run_rollouts(actor, ["a"], episodes_per_task=12, image_size=64, execute_steps=4, worlds=12)
    seeds = [seed for call in actor.calls for seed in call]
    assert len(actor.calls[0]) == 12
    assert len(actor.calls) <= 10
    assert len(set(seeds)) == len(seeds)


def test_no_more_worlds_than_asked_for_and_all_are_closed() -> None:
    run(Wanderer(), 4)
    assert Line.most_alive == 4
    assert Line.alive == 0


def test_an_episode_ends_at_the_step_limit() -> None:
    assert {result.steps for result in run(ZeroActions({"one": 4, "two": 4}), 4, max_steps=7)} == {7}


def test_the_world_is_pictured_once_per_plan() -> None:
    actor = Wanderer()
    run(actor, 4)
    assert Line.pictures == sum(len(call) for call in actor.calls)


def test_progress_hears_every_episode_once() -> None:
    heard: list[RolloutResult] = []
    results = run(Wanderer(), 4, progress=heard.append)
    assert sorted(heard, key=str) == sorted(results, key=str)


def test_unknown_tasks_are_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match="'juggle'"):
        run_rollouts(Wanderer(), ["a", "juggle"], episodes_per_task=1, image_size=64, execute_steps=4)
    assert Line.most_alive == 0


def test_summaries_count_per_source_and_per_task() -> None:
    results = [
        RolloutResult("one", "a", 0, True, 10),
        RolloutResult("one", "a", 1, False, 40),
        RolloutResult("one", "b", 0, True, 20),
        RolloutResult("two", "c", 0, False, 40),
    ]
    rows = {(row.source, row.task): row for row in summarise(results, "trained")}
    assert list(rows) == [("one", ""), ("one", "a"), ("one", "b"), ("two", ""), ("two", "c")]
    assert (rows["one", ""].successes, rows["one", ""].episodes) == (2, 3)
    assert (rows["one", "a"].rate, rows["one", "a"].mean_steps) == (0.5, 25.0)
    assert all(row.low <= row.rate <= row.high for row in rows.values())
