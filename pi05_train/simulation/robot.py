"""What every simulated robot shares: how it is reset, stepped, pictured and described as a sample.

Recording and closed-loop evaluation both go through this class, so they cannot disagree about cameras, state,
rate or instruction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pi05_train.samples.schema import Box, Kind, Sample
from pi05_train.simulation.rendering import SceneRenderer, View, box_of, jpeg
from pi05_train.simulation.rooms import ROOMS, Room, room_for, room_name


@dataclass(frozen=True)
class RobotSpec:
    """What a source's card says of its robot, and how it is watched."""

    source: str
    kind: Kind
    embodiment: str
    control_mode: str
    rate_hz: float
    state_dim: int
    action_dim: int
    horizon: int
    """Steps in a recorded chunk: at least one second, at least 16."""
    views: tuple[View, ...]
    """In the schema's camera order."""
    simulator: str
    displacement_dims: int = 0
    """The first numbers of a command that are displacements, of which zero holds still; the others are targets."""


@dataclass(frozen=True)
class Thing:
    """Something worth a box: geoms or sites of the model, by id."""

    label: str
    geoms: tuple[int, ...] = ()
    sites: tuple[int, ...] = ()


class Robot(ABC):
    """One task of one simulator. A world is fixed by (seed, room); `close` frees the OpenGL context."""

    spec: ClassVar[RobotSpec]

    def __init__(self, task: str, image_size: int, max_steps: int) -> None:
        self.task_name = task
        self.max_steps = max_steps
        self.image_size = image_size
        self.room: Room = ROOMS[0]
        self.seed = 0
        self.frame = 0
        self._renderer: SceneRenderer | None = None

    # what a simulator supplies

    @property
    @abstractmethod
    def model(self) -> Any:
        """The MjModel."""

    @property
    @abstractmethod
    def data(self) -> Any:
        """The MjData."""

    @abstractmethod
    def _place(self, seed: int) -> None:
        """Put robot, objects and target where `seed` wants them; the result depends on nothing else."""

    @abstractmethod
    def _paint(self, room: Room) -> None:
        """Give the scene the room's look."""

    @abstractmethod
    def _advance(self, action: NDArray[np.float32]) -> None:
        """One control step."""

    @abstractmethod
    def state(self) -> NDArray[np.float32]:
        """[state_dim], physical units."""

    @abstractmethod
    def succeeded(self) -> bool:
        """Whether the task is fulfilled now."""

    @abstractmethod
    def instruction(self) -> str:
        """The low-level command, in English."""

    @abstractmethod
    def subtask(self) -> str:
        """What the expert would do now, in English, from the simulator's ground truth; "" where it names nothing."""

    @abstractmethod
    def things(self) -> tuple[Thing, ...]:
        """What a high-level policy should box, most important first."""

    # what all share

    @property
    def environment_id(self) -> str:
        return room_name(self.spec.source, self.room)

    def restart(self, seed: int, room: Room) -> None:
        """Start an episode without picturing it."""
        self.seed, self.room, self.frame = seed, room, 0
        self._paint(self.room)
        self._place(seed)

    def advance(self, action: NDArray[np.float32]) -> None:
        """One control step of an [action_dim] command in the simulator's own units, without picturing it."""
        assert action.shape == (self.spec.action_dim,), action.shape
        self._advance(action)
        self.frame += 1

    def reset(self, seed: int, room: Room | None = None) -> Sample:
        """Start the episode `seed` in a room (None: `room_for` a seen one); returns what the robot sees and knows."""
        self.restart(seed, room or room_for("seen", seed))
        return self.observe()

    def step(self, action: NDArray[np.float32]) -> tuple[Sample, bool, bool]:
        """One control step. Returns the new observation, whether the task is fulfilled, whether the episode ends."""
        self.advance(action)
        success = self.succeeded()
        return self.observe(), success, success or self.frame >= self.max_steps

    def observe(self) -> Sample:
        """A sample without actions: images, state, instruction and the source's description."""
        spec = self.spec
        pictures = {view.name: jpeg(self.renderer.picture(self.data, view)) for view in spec.views}
        return Sample(
            key=f"{self.seed:08d}_{self.frame:06d}",
            source=spec.source,
            kind=spec.kind,
            images=pictures,
            task=self.instruction(),
            state=self.state(),
            embodiment=spec.embodiment,
            control_mode=spec.control_mode,
            rate_hz=spec.rate_hz,
            environment_id=self.environment_id,
            episode=self.seed,
            frame=self.frame,
            provenance={"simulator": spec.simulator, "task": self.task_name, "world_seed": str(self.seed)},
        )

    def boxes(self) -> tuple[Box, ...]:
        """Boxes of the things that show on the first camera."""
        view = self.spec.views[0]
        ids, types = self.renderer.segments(self.data, view)
        found = []
        for thing in self.things():
            # 5 and 6 are mjOBJ_GEOM and mjOBJ_SITE.
            mask = (np.isin(ids, thing.geoms) & (types == 5)) | (np.isin(ids, thing.sites) & (types == 6))
            box = box_of(mask, thing.label, camera=view.name)
            if box is not None:
                found.append(box)
        return tuple(found)

    @property
    def renderer(self) -> SceneRenderer:
        if self._renderer is None:
            self._renderer = SceneRenderer(self.model, self.image_size)
        return self._renderer

    def close(self) -> None:
        """Free the OpenGL context; the robot may be used again."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
