from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pi05_train.errors import UserError
from pi05_train.policy.robot import RobotInterface
from pi05_train.processing.example import Example
from pi05_train.samples.robot_card import CameraView, Gripper
from tests.policy.robots import observation_of, robot_of
from tests.policy.toy_policy import toy_policy, toy_processor, toy_samples
from tests.synthetic import CARDS

ROBOTS = ["toy_mobile", "toy_arm", "toy_bimanual"]
ARM = CARDS["toy_arm"]


def interface(source: str = "toy_arm") -> RobotInterface:
    return RobotInterface(robot_of(CARDS[source]), CARDS[source])


def inputs(example: Example) -> list[Any]:
    return [example.prefix_ids, example.state, *(image.tolist() for image in example.images)]


@pytest.mark.parametrize("source", ROBOTS)
def test_a_training_sample_sent_as_an_observation_gives_bit_equal_network_inputs(source: str) -> None:
    for sample in toy_samples(source)[:5]:
        served = interface(source).request(observation_of(sample)).sample
        trained_on = replace(sample, subtask="")  # an annotated subtask would stand in the prompt's place
        expected = inputs(toy_processor()(trained_on, key=(0,), training=False))
        assert inputs(toy_processor().prompt_only(served)) == expected
        assert served.state is not None
        np.testing.assert_array_equal(served.state, sample.state)


@pytest.mark.parametrize("source", ROBOTS)
def test_a_training_sample_sent_as_an_observation_gives_the_offline_actions(source: str) -> None:
    sample, policy = toy_samples(source)[0], toy_policy()
    served = interface(source).request(observation_of(sample)).sample
    offline, answered = policy.actions([sample], [7]), policy.actions([served], [7])
    np.testing.assert_array_equal(interface(source).commands(answered[0]), offline[0])


def test_pictures_may_be_turned_as_torch_has_them_and_keys_may_be_flat() -> None:
    observation = observation_of(toy_samples("toy_arm")[0])
    expected = interface().request(observation).sample
    picture = observation.pop("images")["base_0_rgb"]
    flat = observation | {"images/base_0_rgb": picture.transpose(2, 0, 1)}
    assert interface().request(flat).sample.images == expected.images


def test_the_seed_is_the_robots_or_none() -> None:
    observation = observation_of(toy_samples("toy_arm")[0])
    assert interface().request(observation).seed is None
    assert interface().request(observation | {"seed": 2**63 - 1}).seed == 2**63 - 1
    assert interface().request(observation | {"seed": np.int64(5)}).seed == 5


def test_where_a_person_may_correct_words_are_taken_and_nothing_else() -> None:
    observation = observation_of(toy_samples("toy_arm")[0])
    assert interface().request(observation, corrections=True).correction == ""
    assert interface().request(observation | {"correction": "wait"}, corrections=True).correction == "wait"
    for wrong, got in ((7, "a value of type int"), ("", "0 characters"), ("a" * 2001, "2001 characters")):
        with pytest.raises(UserError, match=f"observation, correction: got {got}, expected 1 to 2000 characters"):
            interface().request(observation | {"correction": wrong}, corrections=True)


def test_a_gripper_speaks_the_robots_numbers_outside_and_the_samples_inside() -> None:
    robot, sample = robot_of(ARM), toy_samples("toy_arm")[0]
    rule = Gripper(open=0.08, closed=0.0)
    state = [*robot.state[:-1], replace(robot.state[-1], gripper=rule)]
    actions = [*robot.actions[:-1], replace(robot.actions[-1], gripper=Gripper(open=-1.0, closed=1.0))]
    with_rule = RobotInterface(replace(robot, state=state, actions=actions), ARM)
    observation = observation_of(sample)
    for sent, expected in ((0.08, 0.0), (0.0, 1.0), (0.02, 0.75)):
        served = with_rule.request(observation | {"gripper": np.array([sent])}).sample.state
        assert served is not None
        assert served[-1] == pytest.approx(expected)
        np.testing.assert_array_equal(served[:-1], sample.state[:-1])
    chunk = np.array([[1, 2, 3, 0], [1, 2, 3, 1], [1, 2, 3, 0.5]], np.float32)
    np.testing.assert_array_equal(with_rule.commands(chunk)[:, -1], [-1, 1, 0])
    np.testing.assert_array_equal(with_rule.commands(chunk)[:, :-1], chunk[:, :-1])


def test_a_camera_that_may_be_absent_may_be_absent() -> None:
    card, sample = CARDS["toy_mobile"], toy_samples("toy_mobile")[0]
    robot = robot_of(card)
    key = "images/left_wrist_0_rgb"
    cameras = robot.cameras | {key: replace(robot.cameras[key], optional=True)}
    observation = observation_of(sample)
    del observation["images"]["left_wrist_0_rgb"]
    served = RobotInterface(replace(robot, cameras=cameras), card).request(observation).sample
    assert list(served.images) == ["base_0_rgb"]


def test_a_camera_that_the_source_never_had_is_refused() -> None:
    robot = robot_of(ARM)
    cameras = robot.cameras | {"images/rear": CameraView("base_1_rgb", optional=True)}
    observation = observation_of(toy_samples("toy_arm")[0])
    served = RobotInterface(replace(robot, cameras=cameras), ARM)
    assert "images/rear" not in served.description()["cameras"]
    with pytest.raises(UserError, match="images/rear: got an unknown key"):
        served.request(observation | {"images/rear": observation["images"]["base_0_rgb"]})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": {}}, "observation, images/base_0_rgb: got nothing, expected the keys"),
        ({"prompt": None}, "prompt: got a value of type NoneType, expected 1 to 2000 characters of text"),
        ({"prompt": " "}, "prompt: got 1 characters"),
        ({"prompt": "a" * 2001}, "prompt: got 2001 characters"),
        ({"joint": np.zeros(3)}, "observation, joint: got an unknown key"),
        ({"images": {"front": np.zeros((56, 56, 3), np.uint8)}}, "images/front: got an unknown key"),
        ({"images/base_0_rgb": 1}, "images/base_0_rgb: got the key twice"),
        ({"images": {"base_0_rgb": np.zeros((56, 56, 3))}}, r"base_0_rgb: got float64 \[56, 56, 3\], expected uint8"),
        ({"images": {"base_0_rgb": np.zeros((56, 56), np.uint8)}}, r"base_0_rgb: got uint8 \[56, 56\]"),
        ({"images": {"base_0_rgb": np.zeros((56, 56, 4), np.uint8)}}, r"base_0_rgb: got uint8 \[56, 56, 4\]"),
        ({"images": {"base_0_rgb": np.zeros((0, 56, 3), np.uint8)}}, r"base_0_rgb: got uint8 \[0, 56, 3\]"),
        ({"images": {"base_0_rgb": np.zeros((16, 200, 3), np.uint8)}}, "the longer at most 8 times the shorter"),
        ({"images": {"base_0_rgb": b"jpeg"}}, "base_0_rgb: got a value of type bytes"),
        ({"joints": np.zeros(4)}, r"observation, joints: got float64 \[4\], expected float32 or float64 \[3\]"),
        ({"joints": np.zeros((1, 3))}, r"joints: got float64 \[1, 3\]"),
        ({"joints": np.zeros(3, np.int64)}, r"joints: got int64 \[3\]"),
        ({"joints": [0.0, 0.0, 0.0]}, "joints: got a value of type list"),
        ({"joints": np.array([0, np.nan, 0])}, r"observation, joints\[1\]: got nan, expected finite numbers"),
        ({"joints": np.array([0, 0, 1e300])}, r"observation, joints\[2\]: got inf"),
        ({"correction": "wait"}, "correction: got an unknown key"),
        ({"seed": -1}, "seed: got -1, expected a whole number"),
        ({"seed": True}, "seed: got a value of type bool"),
        ({"seed": 2**63}, "seed: got 9223372036854775808"),
        ({3: 4}, "observation, 3: got a key that is no text"),
    ],
)
def test_bad_observations_are_refused_with_their_key(change: dict[Any, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        interface().request(observation_of(toy_samples("toy_arm")[0]) | change)


def test_what_is_no_dictionary_is_refused() -> None:
    with pytest.raises(UserError, match="observation: got a value of type list, expected a dictionary"):
        interface().request([1])


def test_a_robot_is_not_served_with_another_robots_source() -> None:
    with pytest.raises(UserError, match=r"toy_bimanual, cameras: got .* as the card of its robot toy_arm_robot has it"):
        RobotInterface(robot_of(ARM), CARDS["toy_bimanual"])


def test_the_description_says_what_each_number_means() -> None:
    described = interface("toy_mobile").description()
    assert described["cameras"]["images/base_0_rgb"] == {"camera": "base_0_rgb", "optional": False}
    assert described["actions"][-1] == {"name": "dim 3", "start": 3, "stop": 4, "unit": "rad"}
    assert [part["dims"] for part in described["state"]] == [1, 2, 1]


def test_what_is_left_of_a_chunk_comes_back_in_the_samples_numbers() -> None:
    robot, rule = robot_of(ARM), Gripper(open=-1.0, closed=1.0)
    with_rule = RobotInterface(
        replace(robot, actions=[*robot.actions[:-1], replace(robot.actions[-1], gripper=rule)]), ARM
    )
    observation = observation_of(toy_samples("toy_arm")[0])
    chunk = np.array([[1, 2, 3, 0], [4, 5, 6, 1], [7, 8, 9, 0.5]], np.float32)
    told = observation | {"remainder": {"actions": with_rule.commands(chunk), "delay_steps": np.int64(2)}}
    remainder = with_rule.request(told).remainder
    assert remainder is not None
    np.testing.assert_array_equal(remainder.actions_RD, chunk)
    assert remainder.delay_steps == 2
    assert with_rule.request(observation).remainder is None


LEFT = np.zeros((3, ARM.action_dim))


@pytest.mark.parametrize(
    ("remainder", "sentence"),
    [
        ({"actions": LEFT}, "remainder/delay_steps: got nothing"),
        ({"delay_steps": 1}, "remainder/actions: got nothing"),
        ({"actions": LEFT[:, 1:], "delay_steps": 1}, "remainder/actions: got float64 [3, 3]"),
        ({"actions": LEFT[0], "delay_steps": 1}, "remainder/actions: got float64 [4]"),
        ({"actions": LEFT[:0], "delay_steps": 0}, "remainder/actions: got float64 [0, 4]"),
        ({"actions": LEFT.astype(int), "delay_steps": 1}, "remainder/actions: got int64 [3, 4]"),
        ({"actions": LEFT.tolist(), "delay_steps": 1}, "remainder/actions: got a value of type list"),
        ({"actions": LEFT + np.inf, "delay_steps": 1}, "remainder/actions[0]: got inf"),
        ({"actions": LEFT, "delay_steps": 4}, "remainder/delay_steps: got 4"),
        ({"actions": LEFT, "delay_steps": -1}, "remainder/delay_steps: got -1"),
        ({"actions": LEFT, "delay_steps": 1.0}, "remainder/delay_steps: got a value of type float"),
        ({"actions": LEFT, "delay_steps": 1, "chunk": 2}, "remainder/chunk: got an unknown key"),
    ],
)
def test_a_remainder_that_is_none_is_refused_in_one_sentence(remainder: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        interface().request(observation_of(toy_samples("toy_arm")[0]) | {"remainder": remainder})
    assert str(refused.value).startswith(f"observation, {sentence}")
    assert "\n" not in str(refused.value)
