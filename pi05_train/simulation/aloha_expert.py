"""A planner for the two-arm tasks: waypoints for the grippers, followed with the arms welded to moving frames.

The joint positions that result are what the joint-controlled robot is then told to do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pi05_train.simulation.aloha import ARM_JOINTS, SIMULATOR_STEPS, arm_state, load_scene, object_poses
from pi05_train.simulation.packages import load, mujoco

START_M = (np.array([-0.31718881, 0.5, 0.29525084]), np.array([0.31718881, 0.5, 0.29525084]))
"""Where the left and the right gripper are at the start pose."""
MEETING_M = np.array([0.0, 0.5, 0.26])
GRASP_HEIGHT_M = {"cube": 0.035, "peg": 0.025, "socket": 0.037}
"""Objects are dropped from above; this is where the fingers close on them once they lie on the table. Peg and socket
are grasped equally far above their middles, so that they meet at the same height."""
LEVEL = (0.0, 0.0)


class Waypoint(NamedTuple):
    """Where one gripper should be at a time; between waypoints it moves on a straight line."""

    seconds: float
    position: NDArray[np.float64]
    turn: tuple[float, float]
    """Degrees about the world's y axis (pitch) and x axis (roll), from the gripper held level."""
    opening: float


def _shift(point: NDArray[np.float64], x: float, y: float, z: float) -> NDArray[np.float64]:
    return np.asarray(point + np.array([x, y, z]))


def plan(task: str, seed: int, mistake_m: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
    """[T, 14] absolute joint commands at 50 Hz for the world `seed`.

    `mistake_m` [3] shifts where the planner believes the objects are, for an expert that is mistaken.
    """
    poses = object_poses(task, seed)
    believed = poses.reshape(-1, 7)[:, :3] + (0.0 if mistake_m is None else mistake_m)
    left, right = _transfer(believed[0]) if task == "transfer" else _insertion(believed[0], believed[1])
    return _follow(task, poses, left, right)


def _transfer(cube: NDArray[np.float64]) -> tuple[list[Waypoint], list[Waypoint]]:
    down = (-55.0, 0.0)
    on = np.array([cube[0], cube[1], GRASP_HEIGHT_M["cube"]])
    above = _shift(on, 0, 0, 0.08)
    right = [
        Waypoint(0.0, START_M[1], LEVEL, 0.0),
        Waypoint(1.2, above, down, 1.0),
        Waypoint(1.7, on, down, 1.0),
        Waypoint(2.1, on, down, 0.0),
        Waypoint(3.0, MEETING_M, down, 0.0),
        Waypoint(4.1, MEETING_M, down, 0.0),
        Waypoint(4.4, MEETING_M, down, 1.0),
        Waypoint(5.0, _shift(MEETING_M, 0.12, 0, 0.02), down, 1.0),
    ]
    sideways = (0.0, 90.0)
    wait, take = _shift(MEETING_M, -0.14, 0, -0.015), _shift(MEETING_M, 0.02, 0, -0.015)
    left = [
        Waypoint(0.0, START_M[0], LEVEL, 0.0),
        Waypoint(1.6, wait, sideways, 1.0),
        Waypoint(3.0, wait, sideways, 1.0),
        Waypoint(3.7, take, sideways, 1.0),
        Waypoint(4.1, take, sideways, 0.0),
        Waypoint(4.4, take, sideways, 0.0),
        Waypoint(5.0, _shift(take, -0.1, 0, 0), sideways, 0.0),
    ]
    return left, right


def _insertion(peg: NDArray[np.float64], socket: NDArray[np.float64]) -> tuple[list[Waypoint], list[Waypoint]]:
    height = 0.2
    left: list[Waypoint] = []
    right: list[Waypoint] = []
    for side, thing, arm, name in ((1.0, peg, right, "peg"), (-1.0, socket, left, "socket")):
        down = (-60.0 * side, 0.0)
        on = np.array([thing[0], thing[1], GRASP_HEIGHT_M[name]])
        apart = np.array([side * 0.13, 0.5, height])
        joined = np.array([side * 0.035, 0.5, height])
        arm += [
            Waypoint(0.0, START_M[1] if side > 0 else START_M[0], LEVEL, 0.0),
            Waypoint(1.4, _shift(on, 0, 0, 0.1), down, 1.0),
            Waypoint(2.0, on, down, 1.0),
            Waypoint(2.5, on, down, 0.0),
            Waypoint(3.8, apart, down, 0.0),
            Waypoint(4.6, apart, down, 0.0),
            Waypoint(6.4, joined, down, 0.0),
            Waypoint(7.0, joined, down, 0.0),
        ]
    return left, right


def _at(waypoints: list[Waypoint], seconds: float) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Position [3], quaternion [4] and opening, `seconds` into the plan."""
    times = [point.seconds for point in waypoints]

    def along(values: list[float]) -> float:
        return float(np.interp(seconds, times, values))

    position = np.array([along([float(point.position[axis]) for point in waypoints]) for axis in range(3)])
    pitch, roll = (np.radians(along([point.turn[axis] for point in waypoints])) / 2 for axis in (0, 1))
    quaternion = np.zeros(4)
    about_y, about_x = (
        np.array([np.cos(pitch), 0, np.sin(pitch), 0]),
        np.array([np.cos(roll), np.sin(roll), 0, 0]),
    )
    mujoco().mju_mulQuat(quaternion, about_y, about_x)
    return position, quaternion, along([point.opening for point in waypoints])


def _follow(task: str, poses: NDArray[np.float64], left: list[Waypoint], right: list[Waypoint]) -> NDArray[np.float32]:
    library, constants = mujoco(), load("gym_aloha.constants")
    model = load_scene(f"end_effector_{'transfer_cube' if task == 'transfer' else 'insertion'}")
    # The weld of the scene file is too soft for mujoco >= 3.1.6: the arms would trail far behind.
    model.eq_solimp[:, 0], model.eq_solimp[:, 1] = 0.9, 0.95
    data = library.MjData(model)
    data.qpos[: 2 * ARM_JOINTS] = constants.START_ARM_POSE
    data.qpos[2 * ARM_JOINTS :] = poses
    library.mj_forward(model, data)
    commands = []
    for step in range(round(max(left[-1].seconds, right[-1].seconds) * 50)):
        openings = []
        for arm, waypoints in enumerate((left, right)):
            position, quaternion, opening = _at(waypoints, (step + 1) / 50)
            data.mocap_pos[arm], data.mocap_quat[arm] = position, quaternion
            finger = constants.unnormalize_puppet_gripper_position(opening)
            data.ctrl[2 * arm : 2 * arm + 2] = finger, -finger
            openings.append(opening)
        library.mj_step(model, data, nstep=SIMULATOR_STEPS)
        command = arm_state(data.qpos)
        # Fingers stop at the cube; only the wish to close further holds it.
        command[[6, 13]] = openings
        commands.append(command)
    return np.asarray(commands, dtype=np.float32)
