"""The Sawyer arm of MetaWorld on twelve tasks, with end-effector control and the shipped experts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.simulation.metaworld_tasks import METAWORLD_TASKS
from pi05_train.simulation.packages import load, mujoco
from pi05_train.simulation.rendering import View
from pi05_train.simulation.robot import Robot, RobotSpec, Thing
from pi05_train.simulation.rooms import Room

SIMULATOR_STEPS = 5
"""Simulator steps (80 Hz) per control step."""
EXPERT_SPEED = 0.5
"""The shipped experts expect to decide at 80 Hz; at 16 Hz this share of their motion keeps every task solved."""
GOAL_RADIUS_M = 0.03
HAND_BODIES = ("hand", "rightclaw", "leftclaw", "rightpad", "leftpad")

SPEC = RobotSpec(
    source="sim_metaworld",
    kind="ME",
    embodiment="sawyer",
    control_mode="end effector",
    rate_hz=16.0,
    state_dim=4,
    action_dim=4,
    horizon=16,
    # corner4 looks the way corner2 does, from nearer: at 64 pixels corner2 shows a puck as one pixel.
    views=(View("base_0_rgb", "corner4", half_turn=True), View("right_wrist_0_rgb", "gripperPOV")),
    simulator="metaworld 3.1.1",
    displacement_dims=3,
)


class MetaWorld(Robot):
    """One MetaWorld task. Action: end-effector displacement in cm per simulator step (3), gripper closing effort
    (1), all in [-1, 1]. State: hand position, metres (3), gripper opening from 0 to 1 (1)."""

    spec = SPEC

    def __init__(self, task: str, image_size: int) -> None:
        self.kind = METAWORLD_TASKS[task]
        super().__init__(task, image_size, self.kind.max_steps)
        environments = load("metaworld.env_dict").ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
        self._env: Any = environments[f"{task}-v3-goal-observable"](seed=0)
        # Draw every placement from the environment's own seeded generator.
        self._env._freeze_rand_vec, self._env.seeded_rand_vec = False, True
        self._expert = getattr(load("metaworld.policies"), self.kind.policy)()
        self._seen: NDArray[np.float64] = np.zeros(0)
        self._success = False
        self._initial = {name: np.array(getattr(self.model, name)) for name in ("body_pos", "body_quat", "site_pos")}
        self._light = np.array(self.model.light_diffuse)
        self._head_light = np.array(self.model.vis.headlight.diffuse)
        if self.kind.goal is not None:
            self.model.site("goal").size[:] = GOAL_RADIUS_M
            self.model.site("goal").rgba[:] = (*self.kind.goal, 1.0)

    @property
    def model(self) -> Any:
        return self._env.model

    @property
    def data(self) -> Any:
        return self._env.data

    def _place(self, seed: int) -> None:
        # Resetting moves bodies of the model relative to where the last episode left them.
        for name, value in self._initial.items():
            getattr(self.model, name)[:] = value
        self._env.seed(seed)
        self._env.reset()
        # reset observes before the bodies it moved are where they belong: bring them there and observe again.
        mujoco().mj_forward(self.model, self.data)
        self._env._prev_obs = self._env._get_curr_obs_combined_no_goal()
        self._seen = self._env._get_obs()
        self._success = False

    def _paint(self, room: Room) -> None:
        for material, colour in (("table_wood", room.table), ("basic_floor", room.floor), ("wall_metal", room.floor)):
            # These are textured: brighten, so that the tint and not the darkening is what differs.
            self.model.material(material).rgba[:3] = np.array(colour) / max(colour)
        self.model.light_diffuse[:] = np.clip(self._light * room.light, 0, 1)
        self.model.vis.headlight.diffuse[:] = np.clip(self._head_light * room.light, 0, 1)

    def _advance(self, action: NDArray[np.float32]) -> None:
        for _ in range(SIMULATOR_STEPS):
            self._seen, _, _, _, info = self._env.step(action)
        self._success = bool(info["success"] > 0)

    def state(self) -> NDArray[np.float32]:
        return np.asarray(self._seen[:4], dtype=np.float32)

    @property
    def object_position(self) -> NDArray[np.float64]:
        """[3], metres: what the simulator calls the object (handle, button, puck)."""
        return np.array(self._seen[4:7])

    def succeeded(self) -> bool:
        return self._success

    def instruction(self) -> str:
        return self.kind.instruction

    def expert_action(self) -> NDArray[np.float32]:
        """[4]: the shipped expert's action, slowed down for our control rate."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Constant.* may be too high")  # we clip
            action = np.asarray(np.clip(self._expert.get_action(self._seen), -1, 1), dtype=np.float32)
        action[:3] *= EXPERT_SPEED
        return action

    def subtask(self) -> str:
        place = np.array(self._env._target_pos) if self.task_name == "reach" else self.object_position
        near = float(np.linalg.norm(self._seen[:3] - place)) < self.kind.near_m
        return self.kind.act if near else self.kind.approach

    def things(self) -> tuple[Thing, ...]:
        found = [Thing(self.kind.thing, geoms=self._geoms(self.kind.bodies))] if self.kind.bodies else []
        if self.kind.goal is not None:
            label = "red ball" if self.task_name == "reach" else "green ball"
            found.append(Thing(label, sites=(self.model.site("goal").id,)))
        return (*found, Thing("gripper", geoms=self._geoms(HAND_BODIES)))

    def _geoms(self, bodies: tuple[str, ...]) -> tuple[int, ...]:
        wanted = {self.model.body(name.removesuffix("/")).id for name in bodies}
        with_children = {self.model.body(name[:-1]).id for name in bodies if name.endswith("/")}
        for body in range(self.model.nbody):  # parents come before children
            if self.model.body_parentid[body] in with_children:
                with_children.add(body)
        owners = wanted | with_children
        return tuple(geom for geom in range(self.model.ngeom) if self.model.geom_bodyid[geom] in owners)

    def close(self) -> None:
        super().close()
        self._env.close()
