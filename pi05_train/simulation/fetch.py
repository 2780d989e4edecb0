"""The Fetch mobile manipulator (gymnasium-robotics): reach, push, pick and place, with end-effector control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.simulation import fetch_expert
from pi05_train.simulation.packages import load, mujoco
from pi05_train.simulation.rendering import View
from pi05_train.simulation.robot import Robot, RobotSpec, Thing
from pi05_train.simulation.rooms import Room

SIMULATOR_STEPS = 2
"""Simulator steps (25 Hz) per control step: a chunk of 16 then spans a whole reach."""
TARGET_RADIUS_M = 0.035


@dataclass(frozen=True)
class FetchTask:
    """One of the simulator's tasks: its module, class, English command and step limit."""

    module: str
    env_class: str
    instruction: str
    max_steps: int
    has_object: bool


FETCH_TASKS = {
    "fetch-reach": FetchTask("reach", "MujocoFetchReachEnv", "move the gripper to the red ball", 40, False),
    "fetch-push": FetchTask("push", "MujocoFetchPushEnv", "push the {colour} block to the red ball", 80, True),
    "fetch-pick-place": FetchTask(
        "pick_and_place",
        "MujocoFetchPickAndPlaceEnv",
        "pick up the {colour} block and hold it at the red ball",
        80,
        True,
    ),
}

SPEC = RobotSpec(
    source="sim_fetch",
    kind="MM",
    embodiment="fetch",
    control_mode="end effector",
    rate_hz=12.5,
    state_dim=5,
    action_dim=4,
    horizon=16,
    views=(
        View("base_0_rgb", distance=1.1, azimuth=145, elevation=-30, lookat=(1.34, 0.75, 0.53)),
        View("base_1_rgb", distance=1.1, azimuth=215, elevation=-30, lookat=(1.34, 0.75, 0.53)),
    ),
    simulator="gymnasium-robotics 1.4.2",
    displacement_dims=3,
)


class Fetch(Robot):
    """One Fetch task. Action: end-effector displacement in units of 5 cm per simulator step (3), gripper opening
    (1), all in [-1, 1]. State: gripper position, metres (3), finger positions, metres (2)."""

    spec = SPEC

    def __init__(self, task: str, image_size: int) -> None:
        self.kind = FETCH_TASKS[task]
        super().__init__(task, image_size, self.kind.max_steps)
        module = load(f"gymnasium_robotics.envs.fetch.{self.kind.module}")
        self._env: Any = getattr(module, self.kind.env_class)()
        self.model.site("target0").size[:] = TARGET_RADIUS_M
        # The frame the arm is welded to draws lines a metre long through the scene.
        self.model.geom_rgba[self.model.geom_bodyid == self.model.body("robot0:mocap").id, 3] = 0.0
        self._light = np.array(self.model.light_diffuse)

    @property
    def model(self) -> Any:
        return self._env.model

    @property
    def data(self) -> Any:
        return self._env.data

    def _place(self, seed: int) -> None:
        self._env.reset(seed=seed)
        self.model.site("target0").pos[:] = self._env.goal - self.data.body("floor0").xpos
        mujoco().mj_forward(self.model, self.data)

    def _paint(self, room: Room) -> None:
        self.model.material("table_mat").rgba[:3] = room.table
        self.model.material("floor_mat").rgba[:3] = room.floor
        self.model.material("block_mat").rgba[:3] = room.object
        self.model.light_diffuse[:] = np.clip(self._light * room.light, 0, 1)

    def _advance(self, action: NDArray[np.float32]) -> None:
        for _ in range(SIMULATOR_STEPS):
            self._env.step(action)

    def state(self) -> NDArray[np.float32]:
        fingers = [float(self.data.joint(f"robot0:{side}_gripper_finger_joint").qpos[0]) for side in ("l", "r")]
        return np.array([*self.gripper, *fingers], dtype=np.float32)

    @property
    def gripper(self) -> NDArray[np.float64]:
        """[3], metres."""
        return np.array(self.data.site("robot0:grip").xpos)

    @property
    def block(self) -> NDArray[np.float64]:
        """[3], metres; only for tasks with an object."""
        return np.array(self.data.site("object0").xpos)

    @property
    def target(self) -> NDArray[np.float64]:
        """[3], metres."""
        return np.array(self._env.goal)

    def succeeded(self) -> bool:
        """Within 5 cm, the simulator's own measure."""
        return bool(self._env._is_success(self.block if self.kind.has_object else self.gripper, self.target))

    @property
    def colour(self) -> str:
        return self.room.object_name

    def instruction(self) -> str:
        return self.kind.instruction.format(colour=self.colour)

    def subtask(self) -> str:
        return fetch_expert.decide(self).phase

    def things(self) -> tuple[Thing, ...]:
        target = Thing("red ball", sites=(self.model.site("target0").id,))
        gripper = Thing("gripper", geoms=tuple(self.model.geom(f"robot0:{name}").id for name in GRIPPER_GEOMS))
        if not self.kind.has_object:
            return target, gripper
        return Thing(f"{self.colour} block", geoms=(self.model.geom("object0").id,)), target, gripper

    def close(self) -> None:
        super().close()
        self._env.close()


GRIPPER_GEOMS = ("gripper_link", "r_gripper_finger_link", "l_gripper_finger_link")
