"""`pi05 train`: one stage, or every variant of a study; here, or prepared for jobs that wait in a queue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pi05_train import train as stage
from pi05_train.checkpoint.run_state import latest
from pi05_train.config.compose import compose, read_run
from pi05_train.config.sweep import Variant, launcher, multirun, record_study, study_of, variants
from pi05_train.data.order.mixture import Mixture
from pi05_train.engine.world import ALONE, open_world
from pi05_train.errors import UserError
from pi05_train.trainer.code_version import copy_code, variables_of

if TYPE_CHECKING:
    from submitit import Job


def train(overrides: Sequence[str], config_dir: str | None) -> None:
    """Train one stage, or go on where it stopped; every process that a launcher started calls this."""
    with open_world() as world:
        stage.train(compose(overrides, config_dir), world)


def train_run(folder: str) -> None:
    """The same with what a run folder says, one that was prepared or trained in before."""
    with open_world() as world:
        stage.train(read_run(Path(folder)), world)


def train_variants(overrides: Sequence[str], config_dir: str | None) -> None:
    """Train every variant of a sweep, or submit them; those that are done are left alone."""
    study = study_of(variants(overrides, config_dir))
    options = launcher(overrides, config_dir, study)
    if "submitit" not in options["_target_"]:
        multirun(overrides, config_dir, study, train_variant)
        return
    for job in submit_variants(overrides, config_dir, options):
        print(f"{job.job_id} is submitted; its log: {job.paths.stderr}")


def submit_variants(overrides: Sequence[str], config_dir: str | None, options: dict[str, Any]) -> list[Job[None]]:
    """A job for every variant, with the options of Hydra's submitit launcher; it runs what is here now."""
    from pi05_train.commands.jobs import submit

    code, folders = prepare_variants(overrides, config_dir)
    return submit(folders, options, variables_of(code))


def prepare(overrides: Sequence[str], config_dir: str | None) -> tuple[Path, list[Path]]:
    """Refuse what can be refused without a device, and write run folder and code; returns a copy of the code, and the
    run folder."""
    config = compose(overrides, config_dir)
    stage.prepare(config)
    folder = Path(config.run.folder)
    return copy_code(folder), [folder]


def prepare_variants(overrides: Sequence[str], config_dir: str | None) -> tuple[Path, list[Path]]:
    """The same for every variant of a sweep; returns one copy of the code, and their run folders."""
    found = variants(overrides, config_dir)
    study = study_of(found)
    for variant in found:
        stage.prepare(variant.config)
    record_study(study, overrides)
    return copy_code(study), [Path(variant.config.run.folder) for variant in found]


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
