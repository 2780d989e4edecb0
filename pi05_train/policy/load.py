"""A policy from a run folder: configuration, statistics and weights, without shards, engine or trainer."""

from __future__ import annotations

from pathlib import Path

from pi05_train.checkpoint.weights import load_weights
from pi05_train.config.build import build_processor, run_statistics
from pi05_train.config.compose import read_config
from pi05_train.model.lora import adapt
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.policy import Policy


def load_policy(run: Path, *, ema: bool) -> Policy:
    """The newest checkpoint of a run folder as a policy on the CPU, with averaged (`ema`) or raw weights."""
    config = read_config(run / "config.yaml")
    processor = build_processor(config, run_statistics(run))
    model = Pi05(config.model, expert=config.stage.objective.expert)
    adapt(model, config.adaptation)
    load_weights(run, model, ema=ema)
    return Policy(
        model.eval(),
        processor,
        euler_steps=config.evaluation.euler_steps,
    )
