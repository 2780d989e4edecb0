"""A servo that solves the Fetch tasks from the simulator's ground truth, and names what it is doing.

It has no memory: action and phase are functions of the present scene, so a policy that sees the scene can learn them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pi05_train.simulation.fetch import Fetch

GAIN = 5.0
"""Commanded units per metre of distance."""
FASTEST = 0.6
OPEN, CLOSED, STILL = 1.0, -1.0, 0.0
HOVER_M = 0.10
"""How far above the block the gripper waits."""


class Decision(NamedTuple):
    """What the expert does now."""

    action: NDArray[np.float32]
    phase: str


def decide(robot: Fetch, target: NDArray[np.float64] | None = None) -> Decision:
    """[4] action and the phase in English. `target` (metres) replaces the true one, for an expert that is mistaken."""
    goal = robot.target if target is None else target
    if robot.task_name == "fetch-reach":
        return _reach(robot, goal)
    if robot.task_name == "fetch-push":
        return _push(robot, goal)
    return _pick_and_place(robot, goal)


def _towards(robot: Fetch, point: NDArray[np.float64], grip: float, fastest: float = FASTEST) -> NDArray[np.float32]:
    velocity = GAIN * (point - robot.gripper)
    velocity *= min(1.0, fastest / max(float(np.abs(velocity).max()), 1e-9))
    return np.array([*velocity, grip], dtype=np.float32)


def _reach(robot: Fetch, goal: NDArray[np.float64]) -> Decision:
    return Decision(_towards(robot, goal, STILL), "move the gripper to the red ball")


def _push(robot: Fetch, goal: NDArray[np.float64]) -> Decision:
    block, gripper = robot.block, robot.gripper
    way = (goal - block)[:2]
    distance = float(np.linalg.norm(way))
    if distance < 0.02:
        return Decision(np.array([0, 0, 0, CLOSED], np.float32), f"leave the {robot.colour} block at the red ball")
    way /= distance
    behind = np.array([*(block[:2] - 0.085 * way), block[2]])
    offset = (gripper - block)[:2]
    along = float(offset @ way)
    across = float(np.abs(offset @ np.array([-way[1], way[0]])))
    low = gripper[2] < block[2] + 0.03
    if low and along < -0.02 and across < 0.03:
        # Aim through the block, and correct sideways so that it stays in front.
        ahead = np.array([*(block[:2] + min(0.06, distance) * way - 0.03 * way), block[2]])
        return Decision(_towards(robot, ahead, CLOSED, 0.4), f"push the {robot.colour} block to the red ball")
    if float(np.linalg.norm(gripper[:2] - behind[:2])) < 0.025:
        return Decision(_towards(robot, behind, CLOSED), f"lower the gripper behind the {robot.colour} block")
    above = behind + np.array([0, 0, HOVER_M])
    if gripper[2] < block[2] + 0.06:
        above[:2] = gripper[:2]
    return Decision(_towards(robot, above, CLOSED), f"move behind the {robot.colour} block")


def _pick_and_place(robot: Fetch, goal: NDArray[np.float64]) -> Decision:
    block, gripper = robot.block, robot.gripper
    aside = float(np.linalg.norm((gripper - block)[:2]))
    above = float(gripper[2] - block[2])
    fingers = float(robot.state()[3:].sum())
    if aside < 0.02 and abs(above) < 0.015:
        if fingers > 0.055:
            return Decision(np.array([0, 0, 0, CLOSED], np.float32), f"grasp the {robot.colour} block")
        # The block, not the gripper, has to arrive.
        phase = f"carry the {robot.colour} block to the red ball"
        if float(np.linalg.norm(goal - block)) < 0.03:
            phase = f"hold the {robot.colour} block at the red ball"
        return Decision(_towards(robot, gripper + (goal - block), CLOSED), phase)
    if aside < 0.02:
        return Decision(_towards(robot, block, OPEN), f"lower the gripper onto the {robot.colour} block")
    hover = block + np.array([0, 0, HOVER_M])
    return Decision(_towards(robot, hover, OPEN), f"move above the {robot.colour} block")
