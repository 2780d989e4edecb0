"""Closed-loop success under latency: open loop, receding horizon and real-time chunking, in simulation.

The world is the demo's Fetch push (MuJoCo). The gripper has to go around the block, on the table, to where a push would
begin, and may not touch it: left or right, with a few centimetres to spare. What acts is a scripted expert of two minds
with an unsteady hand: it plans a chunk for either side from what it sees, and the shorter way is only more likely;
slips of the hand are corrected by the commands that follow. So its chunks are a mixture of two Gaussians, whose flow is
known exactly and has derivatives. Nothing is trained, and what is measured is the sampling and the execution that a
trained policy goes through: `euler`, `GuidedFlow` and `Execution`. A delay of d means that a chunk arrives d control
steps after its observation; the first chunk is waited for.

Run: uv run python -m benchmarks.real_time_chunking [--episodes 200]
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pi05_train.evaluation.intervals import rate_difference, wilson
from pi05_train.policy.execution import Execution, Remainder
from pi05_train.policy.guidance import Flow, Guidance, GuidedFlow, soft_weights
from pi05_train.policy.sampler import euler, flow_times
from pi05_train.simulation.fetch import Fetch
from pi05_train.simulation.rooms import ROOMS

HORIZON, EXECUTE, STEPS, LIMIT = 16, 4, 10, 60
"""Steps of a chunk, steps between observations, Euler steps, control steps of an episode (4.8 s)."""
FASTEST = 0.3
"""The expert's commands, in the robot's units; 1 for the flow."""
METRES = 0.065
"""Travelled in a control step, per unit of command."""
GAIN = 8.0
"""Commanded units per metre."""
SLIP = 0.3
"""Standard deviation of the hand's slips, in the flow's units."""
INDIFFERENCE_M = 0.1
"""Difference of the two ways at which the shorter one is e times as likely."""
EITHER_WAY = 0.6 * np.pi
"""Angle around the block from which on a world counts."""
OVERSHOT = 1.0
"""Angle up to which the gripper turns back when it has gone too far around the block."""
AROUND_M, NEAR_M, TOUCHED_M = 0.085, 0.03, 0.005
"""Radius of the way around the block; what counts as arrived; how far the block may move."""
FIRST_WORLD = 2_000_000
Vector = NDArray[np.float64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """Gripper, block and target on the table, metres [2] each."""

    gripper: Vector
    block: Vector
    target: Vector

    @classmethod
    def of(cls, world: Fetch) -> Scene:
        return cls(world.gripper[:2], world.block[:2], world.target[:2])

    @property
    def way(self) -> Vector:
        """From the block to the target, of length 1."""
        return (self.target - self.block) / max(float(np.linalg.norm(self.target - self.block)), 1e-9)

    def angle(self, side: int) -> float:
        """What the gripper still has to go around the block, counter-clockwise (side 1) or clockwise (-1)."""
        offset, behind = self.gripper - self.block, -self.way
        turn = np.arctan2(behind[1], behind[0]) - np.arctan2(offset[1], offset[0])
        return float((side * turn) % (2 * np.pi))

    @property
    def arrived(self) -> bool:
        """Whether the gripper is where a push would begin."""
        return bool(np.linalg.norm(self.gripper - (self.block - AROUND_M * self.way)) < NEAR_M)


def expert(scene: Scene, side: int) -> Vector:
    """The command [2] now."""
    offset = scene.gripper - scene.block
    distance = float(np.linalg.norm(offset))
    outwards = offset / max(distance, 1e-9)
    angle = scene.angle(side)
    angle -= 2 * np.pi * (angle > 2 * np.pi - OVERSHOT)
    around = side * np.array([-outwards[1], outwards[0]])
    wanted = around * angle * AROUND_M + outwards * (AROUND_M - distance)
    command = GAIN * wanted
    return command * min(1.0, FASTEST / max(float(np.linalg.norm(command)), 1e-9))


def move(world: Fetch, command: Vector | Floats) -> None:
    """One control step on the table, the gripper closed."""
    world.advance(np.array([*command, 0, -1], np.float32))


def plan(scene: Scene, side: int) -> Vector:
    """The expert's next commands [H, 2], were the block never touched."""
    commands = []
    for _ in range(HORIZON):
        commands.append(expert(scene, side))
        scene = replace(scene, gripper=scene.gripper + METRES * commands[-1])
    return np.stack(commands)


def slips_covariance() -> Tensor:
    """[H, H] of the commands around a plan, for either axis.

    A slip moves the gripper; the servo then takes back `GAIN * METRES` of what is left of it in every step.
    """
    back, steps = GAIN * METRES, torch.arange(HORIZON, dtype=torch.float64)
    since = steps[:, None] - steps
    response = torch.eye(HORIZON) - torch.where(since > 0, back * (1 - back) ** (since - 1), 0.0)
    return SLIP**2 * response @ response.T


class TwoMinds:
    """The exact velocities of a mixture of two Gaussians, one around the plan for either side."""

    def __init__(self, scene: Scene, times: Sequence[float]) -> None:
        self.times, self.covariance_HH = times, slips_covariance()
        self.plans_2HD = torch.from_numpy(np.stack([plan(scene, side) for side in (1, -1)])) / FASTEST
        ways_m = torch.tensor([scene.angle(side) * AROUND_M for side in (1, -1)])
        self.log_shares_2 = -ways_m / INDIFFERENCE_M

    def velocity(self, x_BHD: Tensor, step: int) -> Tensor:
        time, left = self.times[step], 1 - self.times[step]
        noisy_HH = left**2 * self.covariance_HH + time**2 * torch.eye(HORIZON)
        apart_B2HD = x_BHD[:, None] - left * self.plans_2HD
        weighed_B2HD = torch.linalg.inv(noisy_HH) @ apart_B2HD
        shares_B2 = (self.log_shares_2 - (apart_B2HD * weighed_B2HD).sum((2, 3)) / 2).softmax(1)
        clean_B2HD = self.plans_2HD + left * self.covariance_HH @ weighed_B2HD
        velocity_BHD: Tensor = (x_BHD - (shares_B2[..., None, None] * clean_B2HD).sum(1)) / time
        return velocity_BHD


def chunk_of(scene: Scene, remainder: Remainder | None, seed: tuple[int, int]) -> Floats:
    """What the policy answers: a chunk [H, 2] of commands."""
    times = flow_times(STEPS)[:-1]
    noise_BHD = torch.from_numpy(np.random.default_rng(seed).standard_normal((1, HORIZON, 2)))
    flow: Flow = TwoMinds(scene, times)
    if remainder is not None:
        left = len(remainder.actions_RD)
        former_BHD = torch.zeros_like(noise_BHD)
        former_BHD[0, :left] = torch.from_numpy(remainder.actions_RD) / FASTEST
        weights_BHD = soft_weights(HORIZON, left, remainder.delay_steps)[None, :, None].expand_as(noise_BHD)
        flow = GuidedFlow(flow, Guidance(former_BHD, weights_BHD, limit=STEPS), times)
    with torch.no_grad():
        *_, x_BHD = euler(flow, noise_BHD, torch.ones(1, 2), STEPS)
    return (x_BHD[0] * FASTEST).numpy().astype(np.float32)


def episode(world: Fetch, seed: int, strategy: str, delay: int) -> tuple[bool, int]:
    """Success and the number of control steps."""
    world.restart(seed, room=ROOMS[0])
    execution = Execution(strategy, horizon=HORIZON, execute_steps=EXECUTE, delay_steps=delay)
    arrives, chunk, block = 0, np.zeros((HORIZON, 2), np.float32), Scene.of(world).block
    for step in range(LIMIT):
        if execution.due:
            chunk, arrives = chunk_of(Scene.of(world), execution.ask(), (seed, step)), step + delay
        if execution.waiting and step >= arrives:
            execution.receive(chunk)
        command = execution.command()
        move(world, np.zeros(2) if command is None else command)
        scene = Scene.of(world)
        if np.linalg.norm(scene.block - block) > TOUCHED_M:
            return False, step + 1
        if scene.arrived:
            return True, step + 1
    return False, LIMIT


def worlds_around(world: Fetch, count: int) -> list[int]:
    """Seeds of the first worlds in which the gripper has to go around the block, either way."""
    found: list[int] = []
    seed = FIRST_WORLD
    while len(found) < count:
        world.restart(seed, room=ROOMS[0])
        scene = Scene.of(world)
        if min(scene.angle(1), scene.angle(-1)) > EITHER_WAY and np.linalg.norm(scene.target - scene.block) > 0.08:
            found.append(seed)
        seed += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    world = Fetch("fetch-push", image_size=64)
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread")
    seeds, start, reference = worlds_around(world, arguments.episodes), time.perf_counter(), (0, 0)
    print(f"{len(seeds)} worlds, seeds {seeds[0]} to {seeds[-1]}\n")
    print("| strategy | delay | success, % (Wilson 95 %) | steps | minus receding horizon without delay, points |")
    print("|---|---|---|---|---|")
    for strategy in ("receding_horizon", "real_time", "open_loop"):
        for delay in arguments.delays:
            results = [episode(world, seed, strategy, delay) for seed in seeds]
            rate = sum(success for success, _ in results), len(results)
            reference = reference if reference[1] else rate
            percent, steps = 100 * rate[0] / rate[1], np.mean([steps for _, steps in results])
            low, high = (100 * end for end in wilson(*rate))
            below, above = (100 * end for end in rate_difference(rate, reference))
            print(
                f"| {strategy} | {delay} | {percent:.1f} ({low:.1f} to {high:.1f}) | {steps:.1f} "
                f"| {percent - 100 * reference[0] / reference[1]:+.1f} ({below:+.1f} to {above:+.1f}) |",
                flush=True,
            )
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
