"""A policy behind a server is the policy itself; servers that are not what is meant are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pi05_train.errors import UserError
from pi05_train.policy.client import RemotePolicy, observation
from pi05_train.policy.execution import Remainder
from pi05_train.policy.robot import RobotInterface
from pi05_train.samples.robot_card import Gripper
from tests.policy.robots import robot_of
from tests.policy.server.serving import ARM, FAIL, Running, running
from tests.policy.toy_policy import toy_policy, toy_samples
from tests.services.ports import free_ports
from tests.synthetic import CARDS

TOY_ARM = RobotInterface(robot_of(CARDS["toy_arm"]), CARDS["toy_arm"])


def to(server: Running, robot: RobotInterface) -> RemotePolicy:
    return RemotePolicy(f"ws://127.0.0.1:{server.port}", robot)


def test_a_robot_far_away_gets_the_chunks_of_the_policy() -> None:
    samples = [replace(sample, subtask="") for sample in toy_samples("toy_arm")[:3]]
    policy, seeds = toy_policy(), [5, 6, 10**11]
    own = [policy.actions([sample], [seed])[0] for sample, seed in zip(samples, seeds, strict=True)]
    with running(source=CARDS["toy_arm"], infer=policy.actions) as server, to(server, TOY_ARM) as remote:
        assert remote.about["robot"] == "toy_arm_robot"
        robots = [remote.connect() for _ in samples]
        chunks = remote.actions(robots, samples, seeds, [None] * 3)
        again = remote.actions(robots[:1], samples[:1], seeds[:1], [None])
    for chunk, expected in zip([*chunks, *again], [*own, own[0]], strict=True):
        np.testing.assert_allclose(chunk, expected, atol=1e-4)


def test_grippers_with_numbers_of_their_own_change_neither_state_nor_actions() -> None:
    robot, rule = robot_of(CARDS["toy_arm"]), Gripper(open=-1.0, closed=3.0)
    state = [*robot.state[:-1], replace(robot.state[-1], gripper=rule)]
    actions = [*robot.actions[:-1], replace(robot.actions[-1], gripper=rule)]
    interface = RobotInterface(replace(robot, state=state, actions=actions), CARDS["toy_arm"])
    sample, policy = replace(toy_samples("toy_arm")[0], subtask=""), toy_policy()
    rest = Remainder(policy.actions([sample], [8])[0][2:], 1)
    sent = interface.request(observation(interface, sample, 3, rest))
    np.testing.assert_allclose(sent.sample.state, sample.state, atol=1e-6)
    assert sent.remainder is not None
    assert sent.remainder.delay_steps == 1
    np.testing.assert_allclose(sent.remainder.actions_RD, rest.actions_RD, atol=1e-6)
    serving = running(source=CARDS["toy_arm"], robot=interface.robot, infer=policy.actions)
    with serving as server, to(server, interface) as remote:
        np.testing.assert_allclose(
            remote.actions([remote.connect()], [sample], [3], [None])[0], policy.actions([sample], [3])[0], atol=1e-4
        )


def test_a_server_that_is_not_there_or_of_another_robot_is_refused_in_a_sentence() -> None:
    (port,) = free_ports(1)
    with pytest.raises(UserError, match=rf"server ws://127.0.0.1:{port}: got .* expected a `pi05 serve` that answers"):
        RemotePolicy(f"ws://127.0.0.1:{port}", TOY_ARM)
    with pytest.raises(UserError, match="server: got 'localhost', expected ws://host:port"):
        RemotePolicy("localhost", TOY_ARM)
    other = RobotInterface(robot_of(CARDS["toy_mobile"]), CARDS["toy_mobile"])
    with (
        running(source=ARM) as server,
        pytest.raises(UserError, match=", robot: got 'toy_arm_robot', expected 'toy"),
    ):
        to(server, other)


def test_a_server_that_wants_a_key_lets_in_who_has_it() -> None:
    interface = RobotInterface(robot_of(ARM), ARM)
    with running(api_key="secret") as server:
        address = f"ws://127.0.0.1:{server.port}"
        with pytest.raises(UserError, match="expected to be let in"):
            RemotePolicy(address, interface, api_key="wrong")
        with RemotePolicy(address, interface, api_key="secret") as remote:
            assert remote.about["source"] == ARM.name


def test_an_observation_that_the_server_refuses_and_a_failing_server_end_in_a_sentence() -> None:
    interface = RobotInterface(robot_of(ARM), ARM)
    sample = replace(toy_samples("toy_arm")[0], source=ARM.name)
    assert sample.state is not None
    nowhere, failing = replace(sample, state=np.full_like(sample.state, np.nan)), replace(sample, task=FAIL)
    for asked, answer in ((nowhere, "observation, joints"), (failing, "The server failed")):
        with running() as server, to(server, interface) as remote, pytest.raises(UserError, match=f"answer '{answer}"):
            remote.actions([remote.connect()], [asked], [0], [None])
