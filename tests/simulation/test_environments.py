"""Closed-loop environments: what an evaluation relies on."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from pi05_train.errors import UserError
from pi05_train.simulation.environments import EVALUATION_TASKS, make_robot
from pi05_train.simulation.fetch import Fetch
from pi05_train.simulation.metaworld import MetaWorld
from pi05_train.simulation.rooms import CONDITIONS, ROOMS, UNSEEN_PALETTE, room_for, room_name

SIZE = 48


@pytest.fixture(params=["fetch-push", "metaworld-drawer-open"])
def robot(request: pytest.FixtureRequest) -> Iterator[Fetch | MetaWorld]:
    found = make_robot(request.param, SIZE)
    assert isinstance(found, Fetch | MetaWorld)
    yield found
    found.close()


def test_an_observation_has_pictures_state_and_command_but_no_actions(robot: Fetch | MetaWorld) -> None:
    sample = robot.reset(3)
    assert list(sample.images) == [view.name for view in robot.spec.views]
    for jpeg in sample.images.values():
        assert Image.open(io.BytesIO(jpeg)).size == (SIZE, SIZE)
    assert sample.state is not None
    assert sample.state.shape == (robot.spec.state_dim,)
    assert sample.task
    assert sample.actions is None
    assert sample.rate_hz == robot.spec.rate_hz


def test_the_same_seed_gives_the_same_episode_whatever_was_played_before(robot: Fetch | MetaWorld) -> None:
    action = np.array([0.3, -0.2, -0.1, 0.5], np.float32)

    def play(seed: int) -> list[bytes]:
        frames = [robot.reset(seed).images["base_0_rgb"]]
        frames += [robot.step(action)[0].images["base_0_rgb"] for _ in range(3)]
        return frames

    first = play(5)
    other = play(6)
    assert first != other
    assert play(5) == first
    fresh = make_robot("fetch-push" if isinstance(robot, Fetch) else "metaworld-drawer-open", SIZE)
    robot.close()
    try:
        sample = fresh.reset(5)
        assert sample.images["base_0_rgb"] == first[0]
    finally:
        fresh.close()


def test_an_episode_ends_at_its_step_limit(robot: Fetch | MetaWorld) -> None:
    robot.restart(1, ROOMS[1])
    still = np.zeros(4, np.float32)
    for _ in range(robot.max_steps - 1):
        robot.advance(still)
    _, success, done = robot.step(still)
    assert done
    assert not success


def test_seeds_visit_every_room(robot: Fetch | MetaWorld) -> None:
    rooms = set()
    for seed in range(24):
        robot.restart(seed, ROOMS[seed % 12])
        rooms.add(robot.environment_id)
    assert len(rooms) == 12


@pytest.mark.parametrize("task", ["fetch-push", "aloha-transfer"])
def test_unseen_rooms_and_objects_look_and_are_called_otherwise(task: str) -> None:
    robot = make_robot(task, SIZE)
    samples = {condition: robot.reset(4, room_for(condition, 4)) for condition in CONDITIONS}
    robot.close()
    assert len({sample.images["base_0_rgb"] for sample in samples.values()}) == 3
    assert len({sample.state.tobytes() for sample in samples.values() if sample.state is not None}) == 1
    assert samples["unseen object"].environment_id == samples["seen"].environment_id
    assert samples["unseen environment"].environment_id not in {room_name(robot.spec.source, room) for room in ROOMS}
    assert any(colour in samples["unseen object"].task for colour in UNSEEN_PALETTE)
    assert not any(colour in samples["unseen environment"].task for colour in UNSEEN_PALETTE)


def test_every_evaluation_task_names_a_source_and_a_limit() -> None:
    assert sum(task.source == "sim_fetch" for task in EVALUATION_TASKS.values()) == 3
    assert sum(task.source == "sim_metaworld" for task in EVALUATION_TASKS.values()) >= 10
    assert sum(task.source == "sim_aloha" for task in EVALUATION_TASKS.values()) == 2
    assert all(task.max_steps > 0 and task.rate_hz > 0 for task in EVALUATION_TASKS.values())


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UserError, match="fetch-reach"):
        make_robot("fetch-juggle", SIZE)
