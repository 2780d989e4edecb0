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
    keep_every_steps: int = 0
    """Checkpoints of the multiples of this step are never deleted; 0: none is kept for ever."""
    asynchronous: bool = True
    """Training goes on while a checkpoint is written, from a copy in the host's memory."""


def check_checkpoint(config: CheckpointConfig) -> None:
    """Refuse a configuration that would never save or keep nothing."""
    for key, value in (("every_steps", config.every_steps), ("keep_last", config.keep_last)):
        if value < 1:
            raise UserError(f"checkpoint.{key}", got=value, expected="at least 1", do="raise it")
    if config.keep_every_steps < 0 or config.keep_every_steps % config.every_steps:
        raise UserError(
            "checkpoint.keep_every_steps",
            got=config.keep_every_steps,
            expected=f"0, or a multiple of checkpoint.every_steps={config.every_steps}",
            do="change one of them",
        )
