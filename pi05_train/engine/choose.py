"""From `engine.name` to the engine."""

from __future__ import annotations

from pi05_train.config.run_parts import EngineConfig, OptimizerConfig
from pi05_train.engine.protocol import Engine
from pi05_train.engine.pytorch import PyTorchEngine
from pi05_train.engine.world import World
from pi05_train.engine.zero import ZeroEngine
from pi05_train.model.pi05 import Pi05
from pi05_train.objective.config import ObjectiveConfig


def make_engine(
    model: Pi05, objective: ObjectiveConfig, optimizer: OptimizerConfig, engine: EngineConfig, world: World
) -> Engine:
    """The engine of that name, which takes `model` over; every rank calls this."""
    made = ZeroEngine if engine.name.startswith("zero") else PyTorchEngine
    return made(model, objective, optimizer, engine, world)
