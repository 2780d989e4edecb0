"""Playing an expert's episode and cutting it into samples: actions, subtasks with boxes, spoken corrections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pi05_train.samples.schema import Box, Sample, Split
from pi05_train.simulation import aloha_expert, fetch_expert
from pi05_train.simulation.aloha import Aloha
from pi05_train.simulation.environments import make_robot
from pi05_train.simulation.fetch import Fetch
from pi05_train.simulation.language import HIGH_LEVEL, corrections
from pi05_train.simulation.metaworld import MetaWorld
from pi05_train.simulation.robot import Robot
from pi05_train.simulation.rooms import ROOMS

SETTLE_STEPS = {"sim_fetch": 6, "sim_metaworld": 3, "sim_aloha": 15}
"""Control steps recorded after the task is fulfilled, so that chunks end at rest."""
SUBTASK_EVERY, VERBAL_EVERY = 3, 4
"""Every n-th anchor also gives a sample of that source."""
ANNOTATED_SHARE = 0.5
"""Share of episodes whose action samples name their subtask. The others are asked for by the whole instruction, so that
a policy can be used with and without a high level above it."""
EPISODES_OF_METAWORLD = 1_000_000
"""Added to MetaWorld's episode numbers where both robots share a source."""

Act = Callable[[], tuple[NDArray[np.float32], str] | None]
"""The expert's next action and phase; None when its plan is over."""


@dataclass(frozen=True)
class EpisodePlan:
    """Everything an episode depends on."""

    source: str
    task: str
    episode: int
    world_seed: int
    room: int
    split: Split
    mistaken: bool
    """The expert is misled on purpose, so that a failed episode exists to be filtered out."""


@dataclass
class Recorded:
    """What one episode gave, by source."""

    success: bool
    samples: dict[str, list[Sample]] = field(default_factory=dict)


@dataclass
class _Anchor:
    frame: int
    observation: Sample
    phase: str
    boxes: tuple[Box, ...]


def robot_for(source: str, task: str, image_size: int) -> Robot:
    """The robot that plays a plan's task."""
    prefix = {"sim_metaworld": "metaworld-", "sim_aloha": "aloha-"}.get(source, "")
    return make_robot(prefix + task, image_size)


def record(robot: Robot, plan: EpisodePlan, *, seed: int, anchor_stride: int) -> Recorded:
    """Play the plan's episode and cut it into samples. Depends on the arguments only, not on what was played before."""
    rng = np.random.default_rng([seed, *plan.source.encode(), plan.episode])
    robot.restart(plan.world_seed, ROOMS[plan.room])
    _wander(robot, rng)
    act, limit = _expert(robot, plan, rng)
    with_boxes = plan.source != "sim_aloha" and not plan.mistaken
    anchors: list[_Anchor] = []
    actions: list[NDArray[np.float32]] = []
    fulfilled_at: int | None = None
    for step in range(limit):
        decision = act()
        if decision is None:
            break
        if step % anchor_stride == 0:
            boxes = robot.boxes() if with_boxes and len(anchors) % SUBTASK_EVERY == 0 else ()
            anchors.append(_Anchor(step, robot.observe(), decision[1], boxes))
        actions.append(decision[0])
        robot.advance(decision[0])
        if fulfilled_at is None and robot.succeeded():
            fulfilled_at = step
        if fulfilled_at is not None and step - fulfilled_at >= SETTLE_STEPS[plan.source]:
            break
    recorded = Recorded(fulfilled_at is not None)
    annotated = bool(rng.random() < ANNOTATED_SHARE)
    chunks = np.stack(actions)
    recorded.samples[plan.source] = [
        _action_sample(robot, at.phase if annotated else "", _labels(plan, at, recorded.success), chunks)
        for at in anchors
    ]
    if with_boxes:
        recorded.samples["sim_subtasks"] = _subtasks(plan, anchors, recorded.success, rng)
        recorded.samples["sim_verbal"] = _verbal(robot, plan, anchors, recorded.success, rng)
    return recorded


def _wander(robot: Robot, rng: np.random.Generator) -> None:
    """A few random moves before recording: the simulators always start the gripper at the same place."""
    if isinstance(robot, Aloha):
        return
    move = np.zeros(4, np.float32)
    move[:3] = rng.uniform(-0.6, 0.6, 3)
    for _ in range(int(rng.integers(0, 5))):
        robot.advance(move)


def _expert(robot: Robot, plan: EpisodePlan, rng: np.random.Generator) -> tuple[Act, int]:
    """The expert of the plan, and the number of steps it gets."""
    direction = rng.uniform(0, 2 * np.pi)
    aside = np.array([np.cos(direction), np.sin(direction), 0.0])
    if isinstance(robot, Fetch):
        target = _beside_the_way(robot, rng) if plan.mistaken else None
        return lambda: fetch_expert.decide(robot, target), 40 if plan.mistaken else robot.max_steps
    if isinstance(robot, MetaWorld):
        drift = np.append(0.6 * aside, 0.0).astype(np.float32) if plan.mistaken else np.zeros(4, np.float32)
        return lambda: (_drifting(robot, drift), robot.subtask()), 40 if plan.mistaken else robot.max_steps
    commands = iter(aloha_expert.plan(plan.task, plan.world_seed, 0.06 * aside if plan.mistaken else None))

    def replay() -> tuple[NDArray[np.float32], str] | None:
        command = next(commands, None)
        return None if command is None else (command, "")

    return replay, robot.max_steps


def _beside_the_way(robot: Fetch, rng: np.random.Generator) -> NDArray[np.float64]:
    """A wrong target, 15 cm square to the way to the true one, so that the true one is not met on the way."""
    way = robot.target - (robot.block if robot.kind.has_object else robot.gripper)
    across = np.array([-way[1], way[0], 0.0]) / max(float(np.hypot(way[0], way[1])), 1e-6)
    return np.asarray(robot.target + 0.15 * rng.choice([-1.0, 1.0]) * across)


def _drifting(robot: MetaWorld, drift: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.clip(robot.expert_action() + drift, -1, 1), dtype=np.float32)


def _labels(plan: EpisodePlan, anchor: _Anchor, success: bool) -> Sample:
    """The observation with the episode's labels."""
    return replace(
        anchor.observation,
        key=f"{plan.episode:08d}_{anchor.frame:06d}",
        episode=plan.episode,
        frame=anchor.frame,
        split=plan.split,
        success=success,
    )


def _action_sample(robot: Robot, subtask: str, labels: Sample, actions: NDArray[np.float32]) -> Sample:
    steps = labels.frame + np.arange(robot.spec.horizon)
    return replace(
        labels,
        subtask=subtask,
        actions=np.ascontiguousarray(actions[np.minimum(steps, len(actions) - 1)]),
        action_valid=steps < len(actions),
    )


def _shared(plan: EpisodePlan, anchor: _Anchor, success: bool) -> Sample:
    """A sample without numbers, for the sources that both robots feed."""
    episode = plan.episode + (EPISODES_OF_METAWORLD if plan.source == "sim_metaworld" else 0)
    return replace(
        _labels(plan, anchor, success),
        key=f"{episode:08d}_{anchor.frame:06d}",
        episode=episode,
        state=None,
        control_mode="",
        rate_hz=0.0,
    )


def _subtasks(plan: EpisodePlan, anchors: list[_Anchor], success: bool, rng: np.random.Generator) -> list[Sample]:
    command = str(rng.choice(HIGH_LEVEL[plan.task]))
    return [
        replace(
            _shared(plan, anchor, success),
            source="sim_subtasks",
            kind="HL",
            task=command,
            subtask=anchor.phase,
            boxes=anchor.boxes,
        )
        for anchor in anchors
        if anchor.boxes
    ]


def _verbal(
    robot: Robot, plan: EpisodePlan, anchors: list[_Anchor], success: bool, rng: np.random.Generator
) -> list[Sample]:
    command = str(rng.choice(HIGH_LEVEL[plan.task]))
    colour = robot.colour if isinstance(robot, Fetch) and robot.kind.has_object else ""
    phases = (robot.kind.approach, robot.kind.act) if isinstance(robot, MetaWorld) else ()
    choices = corrections(phases, colour)
    found = []
    for anchor in anchors[1::VERBAL_EVERY]:
        said, meant = choices[int(rng.integers(len(choices)))]
        found.append(
            replace(
                _shared(plan, anchor, success),
                source="sim_verbal",
                kind="VI",
                task=command,
                verbal_instruction=said,
                subtask=meant,
            )
        )
    return found
