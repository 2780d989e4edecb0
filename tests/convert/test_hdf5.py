"""robomimic and LIBERO files: every picture, state and action where it belongs; files that are no good refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pi05_train.convert.hdf5 import Hdf5Source, open_source
from pi05_train.convert.run import convert
from pi05_train.convert.source import Dropped, Options
from pi05_train.errors import UserError
from pi05_train.samples.schema import Sample
from tests.convert.found import checked, samples
from tests.convert.hdf5_files import (
    ENV_KWARGS,
    LIBERO,
    LIBERO_CAMERAS,
    ROBOMIMIC,
    SIZE,
    change,
    painted,
    read_paint,
    rewritten,
    write,
    write_libero,
)

OPTIONS = Options(name="demos", kind="CE", horizon=4, image_size=SIZE)


def converted(source: Hdf5Source) -> tuple[list[Sample], list[Dropped]]:
    found = checked(source)
    assert len({sample.key for sample in samples(found)}) == len(samples(found))
    return samples(found), [each for each in found if isinstance(each, Dropped)]


@pytest.mark.parametrize("layout", ["robomimic", "libero"])
def test_every_picture_state_and_action_is_where_it_belongs(tmp_path: Path, layout: str) -> None:
    file = tmp_path / "open_the_drawer_demo.hdf5"
    source = open_source(write(file) if layout == "robomimic" else write_libero(file), OPTIONS)
    samples, dropped = converted(source)
    assert not dropped
    assert [(sample.episode, sample.frame) for sample in samples] == [
        (k, t) for k, n in ((0, 5), (1, 7)) for t in range(n)
    ]
    for sample in samples:
        frames = (5, 7)[sample.episode]
        assert list(sample.images) == ["base_0_rgb", "left_wrist_0_rgb"]
        for camera, content in enumerate(sample.images.values()):
            assert read_paint(content) == (sample.frame, 2 * sample.episode + camera)
        assert sample.state is not None
        assert sample.actions is not None
        assert sample.action_valid is not None
        now = 100 * sample.episode + sample.frame
        assert sample.state[0] == now
        expected = np.minimum(now + np.arange(4), 100 * sample.episode + frames - 1)
        np.testing.assert_array_equal(sample.actions[:, 0], expected)
        np.testing.assert_array_equal(sample.action_valid, sample.frame + np.arange(4) < frames)
        assert sample.rate_hz == 20
        assert sample.success
    assert source.card.state_dim == (9 if layout == "robomimic" else 8)
    assert source.card.action_dim == 7
    assert source.card.control_mode == "end effector"
    assert {sample.task for sample in samples} == {"lift the red cube" if layout == "robomimic" else "open the drawer"}
    assert any("idle" in note for note in source.notes)
    assert any("turned" in note for note in source.notes) == (layout == "libero")


def test_the_source_travels_to_other_processes(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.hdf5"), OPTIONS)
    again = pickle.loads(pickle.dumps(source))
    assert again.units == source.units
    assert [s.key for s in converted(again)[0]] == [s.key for s in converted(source)[0]]


def test_the_engine_writes_it_whole(tmp_path: Path) -> None:
    write(tmp_path / "a.hdf5", (5, 7, 3))
    change(tmp_path / "a.hdf5", lambda root: root["data/demo_2/actions"].write_direct(np.full((3, 7), np.nan)))
    conversion = convert(open_source, tmp_path / "a.hdf5", tmp_path / "out" / "demos", OPTIONS, samples_per_shard=5)
    assert (conversion.samples, conversion.shards) == (12, 3)
    assert conversion.dropped == {"NaN in actions": 3}


def test_a_libero_suite_is_a_folder_of_tasks(tmp_path: Path) -> None:
    write_libero(tmp_path / "KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5")
    words = {"problem_info": json.dumps({"language_instruction": ["pick", "up", "the", "bowl"]})}
    write_libero(tmp_path / "libero_10" / "x_demo.hdf5", words, (3,))
    write_libero(tmp_path / "z_demo.hdf5", {"bddl_file_name": "a/LIVING_ROOM_SCENE2_put_it_in_the_basket.bddl"}, (3,))
    source = open_source(tmp_path, OPTIONS)
    assert [unit.number for unit in source.units] == [0, 1, 2, 3]
    samples, _ = converted(source)
    tasks = {(sample.episode, sample.task) for sample in samples}
    assert tasks == {
        (0, "turn on the stove"),
        (1, "turn on the stove"),
        (2, "pick up the bowl"),
        (3, "put it in the basket"),
    }
    assert {sample.environment_id for sample in samples} == {"KITCHEN_SCENE3", "x", "z"}
    assert {sample.provenance["file"] for sample in samples if sample.episode == 2} == {"libero_10/x_demo.hdf5"}


def test_demonstrations_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.hdf5", [1] * 11), OPTIONS)
    assert [unit.name for unit in source.units] == [f"a.hdf5/demo_{k}" for k in range(11)]


def test_the_mask_decides_about_the_heldout_split(tmp_path: Path) -> None:
    mask = {"train": ["demo_0"], "valid": ["demo_1"]}
    samples, dropped = converted(open_source(write(tmp_path / "a.hdf5", (2, 2, 2), mask=mask), OPTIONS))
    assert {(sample.episode, sample.split) for sample in samples} == {(0, "train"), (1, "heldout")}
    assert [(each.key, each.reason) for each in dropped] == [("00000002", "in neither mask/train nor mask/valid")]
    samples, _ = converted(open_source(write(tmp_path / "b.hdf5", (2, 2), mask={"valid": ["demo_0"]}), OPTIONS))
    assert {(sample.episode, sample.split) for sample in samples} == {(0, "heldout"), (1, "train")}


def test_demonstrations_that_are_only_spoken_of(tmp_path: Path) -> None:
    file = write(tmp_path / "a.hdf5", (2, 2, 2), mask={"valid": ["demo_0", "demo_7"]})
    with pytest.raises(UserError, match="1 of its demonstrations absent"):
        open_source(file, OPTIONS)
    source = open_source(file, Options(**vars(OPTIONS) | {"allow_missing": True}))
    assert len(source.units) == 3
    assert any("1 demonstrations" in note for note in source.notes)


def test_without_a_mask_more_files_change_no_split(tmp_path: Path) -> None:
    options = Options(name="demos", kind="CE", horizon=4, image_size=SIZE, heldout=0.5)
    write_libero(tmp_path / "m_demo.hdf5", lengths=[1] * 12)
    before = {
        sample.provenance["demonstration"]: sample.split for sample in converted(open_source(tmp_path, options))[0]
    }
    write_libero(tmp_path / "a_demo.hdf5", lengths=[1] * 3)
    after = {
        sample.provenance["demonstration"]: sample.split
        for sample in converted(open_source(tmp_path, options))[0]
        if sample.provenance["file"] == "m_demo.hdf5"
    }
    assert before == after
    assert set(before.values()) == {"train", "heldout"}


def test_robomimic_names_beyond_one_arm(tmp_path: Path) -> None:
    states = ROBOMIMIC | {f"robot1{name[6:]}": size for name, size in ROBOMIMIC.items()}
    cameras = ("shouldercamera0_image", "robot0_eye_in_hand_image", "robot1_eye_in_hand_image", "unheard_of_image")
    env = {"env_name": "TwoArmTransport", "env_kwargs": ENV_KWARGS | {"robots": ["Panda", "Panda"]}}
    file = write(tmp_path / "a.hdf5", states=states, cameras=cameras, attributes={"env_args": json.dumps(env)})
    source = open_source(file, OPTIONS)
    assert source.card.cameras == ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]
    assert (source.card.state_dim, source.card.embodiment) == (18, "panda and panda")
    assert any("unheard_of_image" in note for note in source.notes)


def test_joint_controllers_and_the_demonstrations_own_words(tmp_path: Path) -> None:
    kwargs = {"controller_configs": {"body_parts": {"right": {"type": "JOINT_POSITION", "input_type": "absolute"}}}}
    env = json.dumps({"env_name": "Kitchen_X", "env_kwargs": kwargs})
    states = {"robot0_joint_pos": 7, "robot0_gripper_qpos": 2}
    file = write(tmp_path / "a.hdf5", states=states, attributes={"env_args": env})
    change(
        file, lambda root: [demo.attrs.update(ep_meta='{"lang": "open the fridge"}') for demo in root["data"].values()]
    )
    source = open_source(file, OPTIONS)
    assert (source.card.control_mode, source.card.state_dim) == ("joint", 9)
    assert "absolute" in source.card.description
    assert {sample.task for sample in converted(source)[0]} == {"open the fridge"}
    assert any("20 Hz taken" in note for note in source.notes)


def test_libero_pictures_that_stand_upright_stay(tmp_path: Path) -> None:
    attributes = {"macros_image_convention": "opencv", "problem_info": '{"language_instruction": "go"}'}
    source = open_source(
        write(tmp_path / "a.hdf5", states=LIBERO, cameras=LIBERO_CAMERAS, attributes=attributes), OPTIONS
    )
    for sample in converted(source)[0]:
        assert read_paint(sample.images["base_0_rgb"]) == (sample.frame, 2 * sample.episode)
    assert not any("turned" in note for note in source.notes)


def test_robomimics_real_robot(tmp_path: Path) -> None:
    states, words = {"ee_pose": 7, "gripper_position": 1}, {"language_instruction": "lift the block"}
    file = write(tmp_path / "a.hdf5", states=states, cameras=("image", "image_wrist", "image_side"), attributes=words)
    source = open_source(file, OPTIONS)
    assert (source.card.state_dim, source.card.cameras) == (8, ["base_0_rgb", "left_wrist_0_rgb"])
    assert any("left out: image_side" in note for note in source.notes)
    assert {sample.task for sample in converted(source)[0]} == {"lift the block"}


def test_a_reward_never_given_is_a_failure(tmp_path: Path) -> None:
    def lose(root: Any) -> None:
        root["data/demo_1/rewards"][...] = 0

    samples, _ = converted(open_source(change(write(tmp_path / "a.hdf5"), lose), OPTIONS))
    assert {(sample.episode, sample.success) for sample in samples} == {(0, True), (1, False)}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (rewritten("data/demo_1/obs/robot0_eef_pos", None), "arrays missing"),
        (rewritten("data/demo_1/actions", np.zeros((6, 7))), "array lengths differ"),
        (rewritten("data/demo_1/obs/agentview_image", painted(1, 0, 6)), "frame count of a camera differs"),
        (rewritten("data/demo_1/obs/agentview_image", np.zeros((7, 3, 8, 8), np.uint8)),
         "pictures not uint8 [frames, height, width, 3]"),
        (rewritten("data/demo_1/obs/agentview_image", painted(1, 0, 7).astype(float)),
         "pictures not uint8 [frames, height, width, 3]"),
        (lambda root: root["data/demo_1"].attrs.update(num_samples=6), "array lengths differ"),
        (lambda root: root["data/demo_1"].attrs.update(ep_meta="{"), "demonstration unreadable"),
        (rewritten("data/demo_1/actions", np.array([b"text"] * 7)), "arrays of no numbers"),
        (rewritten("data/demo_1/actions", 3.0), "demonstration unreadable"),
    ],
)  # fmt: skip
def test_a_bad_demonstration_is_dropped_and_counted(tmp_path: Path, edit: Callable[[Any], None], reason: str) -> None:
    samples, dropped = converted(open_source(change(write(tmp_path / "a.hdf5"), edit), OPTIONS))
    assert {sample.episode for sample in samples} == {0}
    assert [(each.key, each.reason) for each in dropped] == [("00000001", reason)]
    assert dropped[0].samples in (1, 6, 7)  # 1 where the number of frames is unknown


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda root: [root["data"][name].pop("obs") for name in root["data"]], "dataset_states_to_obs"),
        (lambda root: [root["data"][name]["obs"].pop("robot0_eef_pos") for name in root["data"]], "robot0_eef_pos"),
        (lambda root: [root["data"][name].pop("actions") for name in root["data"]], "actions"),
        (lambda root: root["data"].attrs.update(env_args="{"), "env_args"),
        (lambda root: root["data"].attrs.update(env_args='{"env_name": "Unknown"}'), "language_instruction"),
        (lambda root: root["data"].attrs.update(num_demos=3), "--allow-missing"),
    ],
)
def test_a_file_that_is_no_such_data_set_is_refused(tmp_path: Path, edit: Callable[[Any], None], words: str) -> None:
    file = change(write(tmp_path / "a.hdf5"), edit)
    with pytest.raises(UserError, match=words):
        open_source(file, OPTIONS)


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_cut_file_is_refused_or_left_out_on_request(tmp_path: Path, size: int) -> None:
    write(tmp_path / "a.hdf5")
    cut = write(tmp_path / "b.hdf5")
    cut.write_bytes(cut.read_bytes()[:size])
    with pytest.raises(UserError, match=r"b\.hdf5.*a whole HDF5 file"):
        open_source(tmp_path, OPTIONS)
    source = open_source(tmp_path, Options(**vars(OPTIONS) | {"allow_missing": True}))
    assert len(source.units) == 2
    assert any("b.hdf5" in note for note in source.notes)
    with pytest.raises(UserError, match="only damaged"):
        open_source(cut, Options(**vars(OPTIONS) | {"allow_missing": True}))


def test_damage_inside_one_array_drops_its_demonstration(tmp_path: Path) -> None:
    """A flipped byte in a checksummed chunk is found when it is read."""

    def store(root: Any) -> None:
        pictures = root["data/demo_1/obs/agentview_image"][...]
        del root["data/demo_1/obs/agentview_image"]
        root.create_dataset("data/demo_1/obs/agentview_image", data=pictures, chunks=pictures.shape, fletcher32=True)

    file = change(write(tmp_path / "a.hdf5"), store)
    with h5py.File(file, "r") as root:
        place = root["data/demo_1/obs/agentview_image"].id.get_chunk_info(0).byte_offset
    content = bytearray(file.read_bytes())
    content[place + 5] ^= 1
    file.write_bytes(content)
    samples, dropped = converted(open_source(file, OPTIONS))
    assert {sample.episode for sample in samples} == {0}
    assert [(each.key, each.reason) for each in dropped] == [("00000001", "demonstration unreadable")]


def test_what_cannot_be_one_source_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.hdf5")
    write_libero(tmp_path / "b_demo.hdf5")
    with pytest.raises(UserError, match=r"b_demo\.hdf5, layout"):
        open_source(tmp_path, OPTIONS)
    with pytest.raises(UserError, match="some of"):
        open_source(tmp_path / "a.hdf5", Options(**vars(OPTIONS) | {"dataset": "libero"}))
    with pytest.raises(UserError, match="robomimic, libero"):
        open_source(tmp_path / "a.hdf5", Options(**vars(OPTIONS) | {"dataset": "liberty"}))
    with pytest.raises(UserError, match="kind"):
        open_source(tmp_path / "a.hdf5", Options(**vars(OPTIONS) | {"kind": "WD"}))
    with pytest.raises(UserError, match="nothing there"):
        open_source(tmp_path / "absent.hdf5", OPTIONS)
