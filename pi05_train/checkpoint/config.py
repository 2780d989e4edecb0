"""When a run saves and how much it keeps. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from pi05_train.errors import UserError


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints of one run; the last step is always saved."""

    every_steps: int
    """Optimizer steps between two checkpoints."""
    keep_last: int
    """Newest checkpoints kept; older ones are deleted once a newer one is complete."""


def check_checkpoint(config: CheckpointConfig) -> None:
    """Refuse a configuration that would never save or keep nothing."""
    for key, value in (("every_steps", config.every_steps), ("keep_last", config.keep_last)):
        if value < 1:
            raise UserError(f"checkpoint.{key}", got=value, expected="at least 1", do="raise it")
