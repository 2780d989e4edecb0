"""Episodes cut into samples: chunks, labels, reproducibility, failures."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from pi05_train.simulation.aloha import Aloha
from pi05_train.simulation.language import HIGH_LEVEL, corrections
from pi05_train.simulation.metaworld import MetaWorld
from pi05_train.simulation.metaworld_tasks import METAWORLD_TASKS
from pi05_train.simulation.plans import WORLD_SEEDS, plan_episodes
from pi05_train.simulation.recording import EpisodePlan, Recorded, record, robot_for
from pi05_train.simulation.robot import Robot
from pi05_train.simulation.rooms import ROOMS
from pi05_train.simulation.settings import SimulationSettings

SIZE = 32


def a_plan(source: str, task: str, *, mistaken: bool = False, episode: int = 7) -> EpisodePlan:
    return EpisodePlan(source, task, episode, world_seed=41, room=3, split="train", mistaken=mistaken)


@pytest.fixture(scope="module")
def fetch() -> Iterator[Robot]:
    robot = robot_for("sim_fetch", "fetch-push", SIZE)
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def pushed(fetch: Robot) -> Recorded:
    return record(fetch, a_plan("sim_fetch", "fetch-push"), seed=0, anchor_stride=2)


def test_chunks_of_neighbouring_anchors_agree_and_end_on_the_last_action(pushed: Recorded) -> None:
    samples = pushed.samples["sim_fetch"]
    assert pushed.success
    for one, other in pairwise(samples):
        assert one.actions is not None
        assert other.actions is not None
        assert other.frame - one.frame == 2
        np.testing.assert_array_equal(one.actions[2:], other.actions[:-2])
    last = samples[-1]
    assert last.actions is not None
    assert last.action_valid is not None
    steps = int(last.action_valid.sum())
    assert steps < len(last.actions)
    np.testing.assert_array_equal(last.actions[steps:], np.broadcast_to(last.actions[steps - 1], (16 - steps, 4)))


def test_replaying_the_recorded_actions_gives_the_recorded_pictures() -> None:
    """What was recorded is what a policy would see: the closed loop steps the same environment."""
    robot = Aloha("transfer", SIZE)
    plan = a_plan("sim_aloha", "transfer")
    samples = record(robot, plan, seed=0, anchor_stride=40).samples["sim_aloha"]
    robot.restart(plan.world_seed, ROOMS[plan.room])
    for one in samples[:3]:
        observed = robot.observe()
        assert observed.images == one.images
        np.testing.assert_array_equal(observed.state, one.state)
        assert one.actions is not None
        for action in one.actions[:40]:
            robot.advance(action)
    robot.close()


def test_an_episode_does_not_depend_on_the_one_before(fetch: Robot, pushed: Recorded) -> None:
    record(fetch, a_plan("sim_fetch", "fetch-push", episode=8), seed=0, anchor_stride=5)
    again = record(fetch, a_plan("sim_fetch", "fetch-push"), seed=0, anchor_stride=2)
    for source, samples in pushed.samples.items():
        for one, other in zip(samples, again.samples[source], strict=True):
            assert one.images == other.images
            assert (one.subtask, one.boxes, one.verbal_instruction) == (
                other.subtask,
                other.boxes,
                other.verbal_instruction,
            )


@pytest.mark.parametrize(
    ("source", "task"),
    [("sim_fetch", "fetch-reach"), ("sim_metaworld", "button-press"), ("sim_aloha", "transfer")],
)
def test_a_misled_expert_fails_and_says_so(source: str, task: str) -> None:
    robot = robot_for(source, task, SIZE)
    recorded = record(robot, a_plan(source, task, mistaken=True), seed=0, anchor_stride=60)
    robot.close()
    assert not recorded.success
    assert not any(sample.success for sample in recorded.samples[source])
    assert list(recorded.samples) == [source], "a wrong episode teaches no subtasks"


def test_subtasks_and_corrections_are_labelled_frames_of_the_same_episode(pushed: Recorded) -> None:
    frames = {sample.frame: sample for sample in pushed.samples["sim_fetch"]}
    for sample in pushed.samples["sim_subtasks"]:
        assert sample.images == frames[sample.frame].images
        assert sample.task in HIGH_LEVEL["fetch-push"]
        assert "purple block" in sample.subtask
        assert {box.label for box in sample.boxes} <= {"purple block", "red ball", "gripper"}
    said = {(s.verbal_instruction, s.subtask) for s in pushed.samples["sim_verbal"]}
    assert said
    assert said <= set(corrections((), "purple"))


@pytest.mark.parametrize("task", list(METAWORLD_TASKS))
def test_the_shipped_experts_solve_their_tasks_at_our_control_rate(task: str) -> None:
    robot = MetaWorld(task, SIZE)
    solved = []
    for seed in range(3):
        robot.restart(seed, ROOMS[seed])
        phases = set()
        while not robot.succeeded() and robot.frame < robot.max_steps:
            phases.add(robot.subtask())
            robot.advance(robot.expert_action())
        solved.append(robot.succeeded())
        assert phases == {robot.kind.approach, robot.kind.act}
    assert sum(solved) >= 2


def test_a_peg_is_inserted() -> None:
    robot = Aloha("insertion", SIZE)
    recorded = record(robot, a_plan("sim_aloha", "insertion"), seed=0, anchor_stride=100)
    robot.close()
    assert recorded.success


def test_a_command_names_one_task_of_its_robot() -> None:
    for names in ({name for name in HIGH_LEVEL if name.startswith("fetch")}, set(METAWORLD_TASKS)):
        commands = [command for name in names for command in HIGH_LEVEL[name]]
        assert len(commands) == len(set(commands))


def test_plans_hold_out_a_tenth_and_visit_every_room_and_task() -> None:
    plans = plan_episodes(SimulationSettings())
    for source in ("sim_fetch", "sim_metaworld"):
        mine = [plan for plan in plans if plan.source == source]
        assert 0.08 <= sum(plan.split == "heldout" for plan in mine) / len(mine) <= 0.12
        assert any(plan.mistaken for plan in mine)
        assert len({plan.room for plan in mine}) == 12
        assert len({plan.world_seed for plan in mine}) == len(mine)
        assert all(plan.world_seed < WORLD_SEEDS for plan in mine), "evaluation starts there"
    assert len({plan.task for plan in plans if plan.source == "sim_metaworld"}) >= 10
