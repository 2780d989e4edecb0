"""Two ViperX arms (the models of gym-aloha) under absolute joint control at 50 Hz: hand a cube over, insert a peg.

Only the package's scene files and placement ranges are used: its environment renders 640 x 480 pictures inside every
step and ends episodes after 300 steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.simulation.packages import load, mujoco
from pi05_train.simulation.rendering import View
from pi05_train.simulation.robot import Robot, RobotSpec, Thing
from pi05_train.simulation.rooms import Room

SIMULATOR_STEPS = 10
"""Physics steps of 2 ms per control step."""
ARM_JOINTS = 8
"""Six arm joints and two fingers, per arm, in the model's qpos."""


@dataclass(frozen=True)
class AlohaTask:
    """One bimanual task: the scene's name in the package, the English command, the step limit."""

    scene: str
    instruction: str
    max_steps: int


ALOHA_TASKS = {
    "transfer": AlohaTask("transfer_cube", "hand the {colour} cube from the right arm to the left arm", 300),
    "insertion": AlohaTask("insertion", "insert the {colour} peg into the blue socket", 400),
}

SPEC = RobotSpec(
    source="sim_aloha",
    kind="CE",
    embodiment="aloha",
    control_mode="joint",
    rate_hz=50.0,
    state_dim=14,
    action_dim=14,
    horizon=50,
    views=(
        View("base_0_rgb", distance=1.0, azimuth=90, elevation=-55, lookat=(0.0, 0.52, 0.15)),
        View("left_wrist_0_rgb", "left_wrist"),
        View("right_wrist_0_rgb", "right_wrist"),
    ),
    simulator="gym-aloha 0.1.5",
)


def load_scene(name: str) -> Any:
    """The MjModel of a scene file of gym-aloha."""
    folder = load("gym_aloha.constants").ASSETS_DIR
    return mujoco().MjModel.from_xml_path(str(folder / f"bimanual_viperx_{name}.xml"))


def object_poses(task: str, seed: int) -> NDArray[np.float64]:
    """[7] or [14]: position (metres) and quaternion of each object, drawn as the package draws them."""
    draw = load("gym_aloha.utils")
    poses = draw.sample_box_pose(seed) if task == "transfer" else np.concatenate(draw.sample_insertion_pose(seed))
    return np.asarray(poses, dtype=np.float64)


def arm_state(qpos: NDArray[np.float64]) -> NDArray[np.float64]:
    """[16+] model positions -> [14]: per arm six joints (radians) and the gripper, 0 closed to 1 open."""
    opening = load("gym_aloha.constants").normalize_puppet_gripper_position
    arms = [qpos[first : first + ARM_JOINTS] for first in (0, ARM_JOINTS)]
    return np.concatenate([np.append(arm[:6], opening(arm[6])) for arm in arms])


def touching(model: Any, data: Any) -> set[tuple[str, str]]:
    """Names of the pairs of geoms in contact, both ways round."""
    pairs = [(model.geom(a).name, model.geom(b).name) for a, b in data.contact.geom]
    return {*pairs, *((b, a) for a, b in pairs)}


def _mount_wrist_camera(camera: Any) -> None:
    """Fix the camera to its gripper. The scene's keeps its top side up instead, so it spins when it looks down."""
    backward = -np.array([0.25, 0.0, -0.15])
    backward /= np.linalg.norm(backward)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    frame = np.stack([right, np.cross(backward, right), backward], axis=1)
    mujoco().mju_mat2Quat(camera.quat, frame.ravel())
    camera.mode[:] = mujoco().mjtCamLight.mjCAMLIGHT_FIXED
    camera.fovy[:] = 45.0


class Aloha(Robot):
    """One bimanual task. Action and state: left arm then right arm, six absolute joint positions (radians) and the
    gripper opening (0 to 1) each."""

    spec = SPEC

    def __init__(self, task: str, image_size: int) -> None:
        self.kind = ALOHA_TASKS[task]
        super().__init__(task, image_size, self.kind.max_steps)
        self._model = load_scene(self.kind.scene)
        for side in ("left", "right"):
            _mount_wrist_camera(self._model.camera(f"{side}_wrist"))
        self._data = mujoco().MjData(self._model)
        self._light = np.array(self._model.light_diffuse)

    @property
    def model(self) -> Any:
        return self._model

    @property
    def data(self) -> Any:
        return self._data

    def _place(self, seed: int) -> None:
        start = load("gym_aloha.constants").START_ARM_POSE
        mujoco().mj_resetData(self._model, self._data)
        self._data.qpos[: 2 * ARM_JOINTS] = start
        self._data.qpos[2 * ARM_JOINTS :] = object_poses(self.task_name, seed)
        self._data.ctrl[:] = start
        mujoco().mj_forward(self._model, self._data)

    def _paint(self, room: Room) -> None:
        # The arms are light grey: a table half as bright as elsewhere keeps them apart from it.
        self._model.geom("table").rgba[:3] = 0.5 * np.array(room.table)
        self._model.geom("red_box" if self.task_name == "transfer" else "red_peg").rgba[:3] = self.colour
        self._model.light_diffuse[:] = np.clip(self._light * room.light, 0, 1)

    @property
    def colour(self) -> tuple[float, float, float]:
        return self.room.object

    def _advance(self, action: NDArray[np.float32]) -> None:
        opening = load("gym_aloha.constants").unnormalize_puppet_gripper_position
        for arm in (0, 1):
            command = action[7 * arm : 7 * arm + 7].astype(np.float64)
            finger = opening(command[6])
            self._data.ctrl[ARM_JOINTS * arm : ARM_JOINTS * (arm + 1)] = [*command[:6], finger, -finger]
        mujoco().mj_step(self._model, self._data, nstep=SIMULATOR_STEPS)

    def state(self) -> NDArray[np.float32]:
        return arm_state(self._data.qpos).astype(np.float32)

    def succeeded(self) -> bool:
        """The cube is in the left gripper and off the table; the peg touches the pin inside the socket."""
        pairs = touching(self._model, self._data)
        if self.task_name == "insertion":
            return ("red_peg", "pin") in pairs
        held = ("red_box", "vx300s_left/10_left_gripper_finger") in pairs
        right = any(("red_box", f"vx300s_right/10_{side}_gripper_finger") in pairs for side in ("left", "right"))
        return held and not right and ("red_box", "table") not in pairs

    def instruction(self) -> str:
        return self.kind.instruction.format(colour=self.room.object_name)

    def subtask(self) -> str:
        return ""

    def things(self) -> tuple[Thing, ...]:
        name = "red_box" if self.task_name == "transfer" else "red_peg"
        label = "cube" if self.task_name == "transfer" else "peg"
        return (Thing(f"{self.room.object_name} {label}", geoms=(self._model.geom(name).id,)),)
