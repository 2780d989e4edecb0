"""Open X-Embodiment data sets: which stored feature is which of ours. One short entry each; data, not code.

What an entry says was read in the sources it names; only `checked` entries were also compared with real files. Gripper
commands are brought to one meaning, 0 = open and 1 = closed (openpi's); states stay as the robot reported them. Actions
are not padded: a data set without a gripper or without rotation has fewer dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pi05_train.errors import UserError

Change = Literal["", "invert", "clip", "clip and invert", "hold"]
"""What is done to stored numbers: nothing; 1 - x; x within [0, 1]; both; +1 (close), -1 (open) and 0 (stay) become the
command that is in force, where before the first one the gripper is taken to be the other way round."""

SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "octo": "octo-models/octo, octo/data/oxe/oxe_{dataset_configs,standardization_transforms}.py (keys, grippers)",
        "openvla": "openvla/openvla, prismatic/vla/datasets/rlds/oxe/{configs,transforms}.py (keys, grippers)",
        "any4lerobot": "Tavish9/any4lerobot as copied in typoverflow/any4lerobot, openx2lerobot/oxe_utils/configs.py "
        "(rate, robot)",
        "tfds": "tensorflow/datasets, docs/catalog/<name>.md (shapes and meaning of the features)",
        "mod": "kpertsch/rlds_dataset_mod, prepare_open_x.sh (pictures stored blue first, failed episodes)",
        "builder": "youngwoon/furniture_bench_rlds_dataset_builder (shapes and meaning of the features)",
        "openpi": "Physical-Intelligence/openpi, src/openpi/training/droid_rlds_dataset.py",
    }
)
_ALL = ("octo", "openvla", "any4lerobot", "tfds")


@dataclass(frozen=True)
class Part:
    """Columns of one feature of a step; parts are concatenated."""

    key: str
    """Below `steps/`."""
    of: int
    """Numbers that the feature has; another number is another data set."""
    start: int = 0
    stop: int | None = None
    change: Change = ""

    @property
    def size(self) -> int:
        return (self.of if self.stop is None else self.stop) - self.start


@dataclass(frozen=True)
class Camera:
    """A picture of a step, and which of our cameras it is."""

    ours: str
    key: str
    optional: bool = False
    """Some episodes hold pictures of one colour instead: the camera is then absent from their samples."""
    blue_first: tuple[int, int] | None = None
    """(height, width) of the release whose pictures were stored with red and blue exchanged; other sizes are copies
    that were put right while they were resized."""


@dataclass(frozen=True)
class Entry:
    """One data set."""

    name: str
    cameras: tuple[Camera, ...]
    state: tuple[Part, ...]
    """() where none is stored: samples then have one constant 0."""
    actions: tuple[Part, ...]
    language: tuple[str, ...]
    """Below `steps/`; of several one is chosen per episode, among those that are not empty."""
    rate_hz: float
    embodiment: str
    gripper: str
    """What is stored, and where it is known."""
    control_mode: str = "end effector"
    delta_mask: tuple[bool, ...] = ()
    """For absolute actions only: which leading ones are trained relative to the state."""
    success_key: str = ""
    """Feature that says whether the episode succeeded: a number that is not 0 at the last step ..."""
    success_word: str = ""
    """... or a text with this word in it. Without a key every episode counts as a success."""
    skip_first: int = 0
    """Steps at the start whose action was never commanded."""
    note: str = ""
    checked: bool = False
    """Compared with real files, value by value."""
    sources: tuple[str, ...] = _ALL
    aliases: tuple[str, ...] = ()

    @property
    def state_dim(self) -> int:
        return sum(part.size for part in self.state) or 1

    @property
    def action_dim(self) -> int:
        return sum(part.size for part in self.actions)


_BASE, _REAR, _WRIST = "base_0_rgb", "base_1_rgb", "left_wrist_0_rgb"
_O = "observation/"
_TEXT, _NATURAL = ("language_instruction",), (_O + "natural_language_instruction",)
_IMAGE = Camera(_BASE, _O + "image")
_IMAGE_WRIST = (_IMAGE, Camera(_WRIST, _O + "wrist_image"))
_XYZ, _RPY = Part("action/world_vector", 3), Part("action/rotation_delta", 3)
_POSE = Part("action", 7, 0, 6)
_EXTERNAL = "_converted_externally_to_rlds"


def _blue_first(height: int, width: int) -> tuple[Camera, ...]:
    """Main and wrist camera of a release that stored blue first."""
    return tuple(Camera(camera.ours, camera.key, blue_first=(height, width)) for camera in _IMAGE_WRIST)


_ENTRIES = (
    Entry(
        "bridge",
        (Camera(_BASE, _O + "image_0"), Camera(_REAR, _O + "image_1", optional=True)),
        (Part(_O + "state", 7),),
        (_POSE, Part("action", 7, 6, 7, "invert")),
        _TEXT, 5.0, "WidowX", "command and state: 1 = open", skip_first=1, checked=True,
        sources=("octo", "openvla", "any4lerobot"), aliases=("bridge_dataset", "bridge_orig", "bridge_data_v2"),
        note="BridgeData V2 as its project publishes it; the first action of every episode is zero and was never "
        "commanded; episode_metadata/has_image_* is false in published files whose pictures are there",
    ),
    Entry(
        "bridge_oxe", (_IMAGE,), (Part(_O + "state", 7),),
        (_XYZ, _RPY, Part("action/open_gripper", 1, change="invert")),
        _NATURAL, 5.0, "WidowX", "open_gripper: true = open", skip_first=1,
        note="the older copy of BridgeData V2 in the Open X-Embodiment bucket; prefer `bridge`",
    ),
    Entry(
        "droid",
        (
            Camera(_BASE, _O + "exterior_image_1_left"), Camera(_REAR, _O + "exterior_image_2_left"),
            Camera(_WRIST, _O + "wrist_image_left"),
        ),
        (Part(_O + "joint_position", 7), Part(_O + "gripper_position", 1)),
        (Part("action_dict/joint_position", 7), Part("action_dict/gripper_position", 1)),
        ("language_instruction", "language_instruction_2", "language_instruction_3"),
        15.0, "Franka (DROID)", "command and state: 0 = open, 1 = closed", "joint", (True,) * 7 + (False,),
        success_key="episode_metadata/file_path", success_word="success",
        sources=("openpi", "openvla", "any4lerobot"), aliases=("droid_100", "r2d2_faceblur"),
        note="version 1.0.1 (1.0.0 lacks most instructions); actions are absolute joint positions from action_dict, "
        "because `action` is a Cartesian pose whatever its description says; two exterior cameras, of which openpi "
        "shows one at a time",
    ),
    Entry(
        "fractal20220817_data", (_IMAGE,),
        (Part(_O + "base_pose_tool_reached", 7), Part(_O + "gripper_closed", 1)),
        (_XYZ, _RPY, Part("action/gripper_closedness_action", 1, change="hold")),
        _NATURAL, 3.0, "Google robot", "command: +1 = close, -1 = open, 0 = stay", aliases=("fractal", "rt_1"),
        note="base displacements are left out, as in octo and openvla; success labels (aspects) are not read",
    ),
    Entry(
        "kuka", (_IMAGE,),
        (Part(_O + "clip_function_input/base_pose_tool_reached", 7), Part(_O + "gripper_closed", 1)),
        (_XYZ, _RPY, Part("action/gripper_closedness_action", 1, change="hold")),
        _NATURAL, 10.0, "Kuka iiwa", "command: +1 = close, -1 = open, 0 = stay", success_key="success",
        sources=(*_ALL, "mod"), note="failed episodes stay, as failed; rlds_dataset_mod drops them",
    ),
    Entry(
        "taco_play", (Camera(_BASE, _O + "rgb_static"), Camera(_WRIST, _O + "rgb_gripper")),
        (Part(_O + "robot_obs", 15, 0, 7),),
        (Part("action/rel_actions_world", 7, 0, 6), Part("action/rel_actions_world", 7, 6, 7, "clip and invert")),
        _NATURAL, 15.0, "Franka", "command: 1 = open, -1 = closed in octo and openvla; the feature's description says "
        "the opposite",
        note="state is position, Euler angles and gripper width; octo and openvla take the first joint for the gripper",
    ),
    Entry(
        "jaco_play", (_IMAGE, Camera(_WRIST, _O + "image_wrist")), (Part(_O + "end_effector_cartesian_pos", 7),),
        (_XYZ, Part("action/gripper_closedness_action", 1, change="hold")),
        _NATURAL, 10.0, "Jaco 2", "command: +1 = close, -1 = open, 0 = stay", note="no rotation is commanded",
    ),
    Entry(
        "berkeley_cable_routing",
        (_IMAGE, Camera(_REAR, _O + "top_image"), Camera(_WRIST, _O + "wrist45_image")),
        (Part(_O + "robot_state", 7),), (_XYZ, _RPY), _NATURAL, 10.0, "Franka", "none", note="actions are velocities",
    ),
    Entry(
        "roboturk", (Camera(_BASE, _O + "front_rgb"),), (),
        (_XYZ, _RPY, Part("action/gripper_closedness_action", 1, change="clip")),
        _NATURAL, 10.0, "Sawyer", "command: 1 = closed", note="no robot state is stored",
    ),
    Entry(
        "viola", (Camera(_BASE, _O + "agentview_rgb"), Camera(_WRIST, _O + "eye_in_hand_rgb")),
        (Part(_O + "joint_states", 7), Part(_O + "gripper_states", 1)),
        (_XYZ, _RPY, Part("action/gripper_closedness_action", 1, change="clip")),
        _NATURAL, 20.0, "Franka", "command: 1 = closed; state: width, 0 = closed",
    ),
    Entry(
        "berkeley_autolab_ur5", (_IMAGE, Camera(_WRIST, _O + "hand_image", blue_first=(480, 640))),
        (Part(_O + "robot_state", 15, 6, 14),),
        (_XYZ, _RPY, Part("action/gripper_closedness_action", 1, change="hold")),
        _NATURAL, 5.0, "UR5", "command: 1 = close, -1 = open, 0 = stay", sources=(*_ALL, "mod"),
    ),
    Entry(
        "toto", (_IMAGE,), (Part(_O + "state", 7),), (_XYZ, _RPY, Part("action/open_gripper", 1, change="invert")),
        _NATURAL, 30.0, "Franka", "open_gripper: true = open",
    ),
    Entry(
        "language_table", (Camera(_BASE, _O + "rgb"),), (Part(_O + "effector_translation", 2),), (Part("action", 2),),
        (_O + "instruction",), 10.0, "xArm", "none", sources=("octo", "openvla", "any4lerobot"),
        note="instructions are 512 numbers, one per character",
    ),
    Entry(
        "stanford_hydra", _blue_first(240, 320),
        (Part(_O + "state", 27, 0, 3), Part(_O + "state", 27, 7, 10), Part(_O + "state", 27, 24, 25)),
        (_POSE, Part("action", 7, 6, 7)),
        _TEXT, 10.0, "Franka", "command: 1 = closed", sources=(*_ALL, "mod"),
        aliases=("stanford_hydra_dataset" + _EXTERNAL,),
    ),
    Entry(
        "austin_buds", _IMAGE_WRIST, (Part(_O + "state", 24, 0, 8),), (_POSE, Part("action", 7, 6, 7, "clip")),
        _TEXT, 20.0, "Franka", "command: 1 = closed", aliases=("austin_buds_dataset" + _EXTERNAL,),
    ),
    Entry(
        "nyu_franka_play", (_IMAGE, Camera(_REAR, _O + "image_additional_view")), (Part(_O + "state", 13, 7, 13),),
        (Part("action", 15, 7, 13), Part("action", 15, 13, 14, "clip and invert")),
        _TEXT, 3.0, "Franka", "command: 1 = open", aliases=("nyu_franka_play_dataset" + _EXTERNAL,),
    ),
    Entry(
        "furniture_bench", _IMAGE_WRIST, (Part(_O + "state", 35, 0, 7), Part(_O + "state", 35, 34, 35)),
        (Part("action", 8, 0, 7), Part("action", 8, 7, 8, "clip")),
        _TEXT, 10.0, "Franka", "command: 1 = closed; state: width",
        sources=("octo", "openvla", "any4lerobot", "builder"), aliases=("furniture_bench_dataset" + _EXTERNAL,),
        note="rotations are quaternions, as they were commanded",
    ),
    Entry(
        "ucsd_kitchen", (_IMAGE,), (Part(_O + "state", 21, 0, 7),), (Part("action", 8, 0, 7),),
        _TEXT, 2.0, "xArm", "as stored; no source says which way", aliases=("ucsd_kitchen_dataset" + _EXTERNAL,),
    ),
    Entry(
        "austin_sailor", _IMAGE_WRIST, (Part(_O + "state", 8),), (_POSE, Part("action", 7, 6, 7, "clip")),
        _TEXT, 20.0, "Franka", "command: 1 = closed; state: width", aliases=("austin_sailor_dataset" + _EXTERNAL,),
    ),
    Entry(
        "austin_sirius", _IMAGE_WRIST, (Part(_O + "state", 8),), (_POSE, Part("action", 7, 6, 7, "clip")),
        _TEXT, 20.0, "Franka", "command: 1 = closed; state: width", aliases=("austin_sirius_dataset" + _EXTERNAL,),
        note="the state is seven joint angles and the gripper (tfds), not a pose (octo)",
    ),
    Entry(
        "dlr_edan", (_IMAGE,), (Part(_O + "state", 7),), (Part("action", 7),), _TEXT, 5.0, "DLR EDAN",
        "command: 1 = closed", aliases=("dlr_edan_shared_control" + _EXTERNAL,),
        note="rotations are Euler angles in the order zxy",
    ),
    Entry(
        "iamlab_cmu", _IMAGE_WRIST, (Part(_O + "state", 20, 0, 8),), (Part("action", 8),), _TEXT, 20.0, "Franka",
        "as stored; no source says which way", aliases=("iamlab_cmu_pickup_insert" + _EXTERNAL,),
        note="rotations are quaternions, as they were commanded",
    ),
    Entry(
        "utaustin_mutex", _blue_first(128, 128), (Part(_O + "state", 24, 0, 8),),
        (_POSE, Part("action", 7, 6, 7, "clip")), _TEXT, 20.0, "Franka", "command: 1 = closed", sources=(*_ALL, "mod"),
    ),
    Entry(
        "berkeley_fanuc", _blue_first(224, 224), (Part(_O + "state", 13, 0, 7),),
        (Part("action", 6), Part(_O + "state", 13, 6, 7)),
        _TEXT, 10.0, "Fanuc Mate", "state: 1 = closed in octo and openvla", sources=(*_ALL, "mod"),
        aliases=("berkeley_fanuc_manipulation",),
        note="no gripper command is stored: the gripper's state stands for it, as in octo and openvla",
    ),
    Entry(
        "cmu_stretch", (_IMAGE,), (Part(_O + "state", 4),), (Part("action", 8, 0, 7),), _TEXT, 10.0, "Hello Stretch",
        "as stored; no source says which way",
    ),
    Entry(
        "bc_z", (_IMAGE,),
        (Part(_O + "present/xyz", 3), Part(_O + "present/axis_angle", 3), Part(_O + "present/sensed_close", 1)),
        (
            Part("action/future/xyz_residual", 30, 0, 3), Part("action/future/axis_angle_residual", 30, 0, 3),
            Part("action/future/target_close", 10, 0, 1),
        ),
        _NATURAL, 10.0, "Google robot", "command and state: 1 = closed", success_key=f"steps/{_O}episode_success",
        note="of the ten future actions stored with every step the first is taken",
    ),
    Entry(
        "fmb",
        (
            Camera(_BASE, _O + "image_side_1"), Camera(_REAR, _O + "image_side_2"),
            Camera(_WRIST, _O + "image_wrist_1"),
        ),
        (Part(_O + "eef_pose", 7), Part(_O + "state_gripper_pose", 1)), (Part("action", 7),),
        _TEXT, 10.0, "Franka", "as stored; no source says which way", sources=("openvla", "any4lerobot", "tfds"),
        aliases=("fmb_dataset",), note="the second wrist camera is left out",
    ),
    Entry(
        "dobbe", (Camera(_WRIST, _O + "wrist_image"),), (Part(_O + "state", 7),), (Part("action", 7),), _TEXT, 3.75,
        "Hello Stretch", "as stored; no source says which way", sources=("openvla", "any4lerobot", "tfds"),
    ),
)  # fmt: skip

DATASETS: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""By our short names."""


def find_entry(name: str) -> Entry:
    """The entry of a data set by our name or its published one; refuses (UserError) an unknown name."""
    for entry in _ENTRIES:
        if name == entry.name or name in entry.aliases:
            return entry
    raise UserError(
        "--dataset",
        got=repr(name),
        expected="one of " + ", ".join(sorted(DATASETS)),
        do="name the one that the files hold, or add an entry to convert/rlds_datasets.py",
    )
