"""`pi05 train`: one stage, or every variant of a study."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from pi05_train import train as stage
from pi05_train.checkpoint.run_state import latest
from pi05_train.config.compose import compose
from pi05_train.config.sweep import Variant, multirun
from pi05_train.data.order.mixture import Mixture
from pi05_train.engine.world import ALONE, open_world
from pi05_train.errors import UserError


def train(overrides: Sequence[str], config_dir: str | None) -> None:
    """Train one stage, or go on where it stopped; every process that a launcher started calls this."""
    with open_world() as world:
        stage.train(compose(overrides, config_dir), world)


def train_variants(overrides: Sequence[str], config_dir: str | None) -> None:
    """Train every variant of a sweep; those that are done are left alone."""
    multirun(overrides, config_dir, train_variant)


def train_variant(variant: Variant) -> None:
    """Train one of them; raises KeyboardInterrupt where a signal ended it, so that the next one does not begin."""
    console = Console()
    console.rule(variant.name, align="left")
    try:
        folder = stage.train(variant.config, ALONE)
    except UserError as error:
        console.print(f"{variant.name} failed: {error}", markup=False, soft_wrap=True)
        raise
    run = variant.config.run
    schedule = Mixture.of(variant.config).schedule(run.seed, variant.config.data.global_batch_samples, run.steps)
    if (latest(folder) or 0) < (schedule.end_step or run.steps):
        raise KeyboardInterrupt
