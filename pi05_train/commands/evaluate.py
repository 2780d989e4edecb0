"""`pi05 evaluate`: held-out episodes and closed loop, written into the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from pi05_train.checkpoint.run_state import latest
from pi05_train.commands.computing import Computing
from pi05_train.commands.progress import progress_bar
from pi05_train.config.compose import read_config
from pi05_train.config.schema import Config
from pi05_train.data.loading.loader import heldout_samples
from pi05_train.data.loading.reader import Reader
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.permutation import permute
from pi05_train.evaluation.evaluate import evaluate_policy
from pi05_train.evaluation.results import Evaluation, write_evaluation
from pi05_train.policy.load import load_policy
from pi05_train.report.table import results_table
from pi05_train.samples.schema import Sample

BASELINE_SAMPLES = 200
"""Training samples per source that the constant baselines are fitted on."""


def evaluate(folders: Sequence[str], *, ema: bool, computing: Computing) -> None:
    """Measure the newest checkpoint of every run and print its table."""
    for folder in folders:
        Console().print(results_table(measure(Path(folder), ema=ema, computing=computing)))


def measure(run: Path, *, ema: bool, computing: Computing) -> Evaluation:
    """Measure the run's newest checkpoint and write `evaluation.json` into its folder."""
    config = read_config(run / "config.yaml")
    policy = load_policy(run, ema=ema, device=computing.device, bfloat16=computing.bfloat16)
    heldout = Mixture.of(config, split="heldout")
    with progress_bar("evaluating") as report:
        evaluation = evaluate_policy(
            policy,
            stage=config.stage.name,
            step=latest(run) or 0,
            heldout=heldout_samples(heldout, Reader(heldout), config.evaluation.samples_per_source),
            training=training_samples(Mixture.of(config), BASELINE_SAMPLES),
            max_text_tokens=config.evaluation.max_text_tokens,
            tasks=closed_loop_tasks(config),
            episodes_per_task=config.evaluation.episodes_per_task,
            seed=config.run.seed,
            progress=report,
        )
    write_evaluation(run, evaluation)
    return evaluation


def training_samples(mixture: Mixture, per_source: int) -> dict[str, list[Sample]]:
    """Some training samples of each source, in a keyed order."""
    reader = Reader(mixture)
    chosen: dict[str, list[Sample]] = {}
    for name, size in zip(mixture.names, mixture.sizes, strict=True):
        rows = permute(np.arange(min(per_source, size)), size, "baseline", name)
        chosen[name] = list(reader.read_all(name, rows.tolist()))
    return chosen


def closed_loop_tasks(config: Config) -> list[str]:
    """Tasks of the simulators whose demonstrations the run trains on."""
    if not config.evaluation.episodes_per_task:
        return []
    from pi05_train.simulation.environments import EVALUATION_TASKS

    enabled = config.mixture.taking_part
    return [name for name, task in EVALUATION_TASKS.items() if task.source in enabled]
