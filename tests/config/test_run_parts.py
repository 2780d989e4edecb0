"""The shipped groups for optimizer, schedule, engine and logger hold; impossible values are refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pi05_train.checkpoint.config import CheckpointConfig, check_checkpoint
from pi05_train.config.compose import compose, read_config, to_yaml
from pi05_train.config.run_parts import (
    EngineConfig,
    LoggerConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    check_run_parts,
)
from pi05_train.errors import UserError
from pi05_train.resources import resource

GROUPS = {"optimizer": OptimizerConfig, "schedule": ScheduleConfig, "engine": EngineConfig, "logger": LoggerConfig}
SHIPPED = sorted((group, path) for group in GROUPS for path in (resource("conf") / group).glob("*.yaml"))
GOOD: dict[str, Any] = {
    "optimizer": OptimizerConfig("adamw", 1e-3, (0.9, 0.95), 1e-8, 0.0, 1.0, 1.0, None),
    "schedule": ScheduleConfig("warmup_cosine", 2, 10, 0.0),
    "engine": EngineConfig("single", "fp32", "cpu"),
    "logger": LoggerConfig("disabled", "p", 1),
    "run": RunConfig("runs/a", 10, 0, None),
}


@pytest.mark.parametrize(("group", "path"), SHIPPED, ids=lambda value: value.name if isinstance(value, Path) else value)
def test_shipped_values_are_possible(group: str, path: Path) -> None:
    composed = compose(["experiment=pi05_pretrain", f"{group}={path.stem}", "data.root=/data"])
    assert isinstance(getattr(composed, group), GROUPS[group])
    check_run_parts(**(GOOD | {group: getattr(composed, group)}))


@pytest.mark.parametrize(
    ("group", "change", "named"),
    [
        ("optimizer", {"name": "sgd"}, "optimizer.name"),
        ("optimizer", {"learning_rate": 0.0}, "optimizer.learning_rate"),
        ("optimizer", {"clip_backbone": float("nan")}, "optimizer.clip_backbone"),
        ("optimizer", {"clip_expert": -1.0}, "optimizer.clip_expert"),
        ("optimizer", {"clip_together": 0.0}, "optimizer.clip_together"),
        ("optimizer", {"betas": (0.9, 1.0)}, "optimizer.betas"),
        ("optimizer", {"betas": (0.9,)}, "optimizer.betas"),
        ("optimizer", {"weight_decay": -1e-3}, "optimizer.weight_decay"),
        ("optimizer", {"ema_decay": 1.0}, "optimizer.ema_decay"),
        ("schedule", {"name": "cosine"}, "schedule.name"),
        ("schedule", {"warmup_steps": -1}, "schedule.warmup_steps"),
        ("schedule", {"decay_steps": 2}, "schedule.decay_steps"),
        ("engine", {"name": "fsdp1"}, "engine.name"),
        ("engine", {"activation_checkpointing": "some"}, "engine.activation_checkpointing"),
        ("engine", {"activation_checkpointing": "selective", "compile": True}, "engine.activation_checkpointing"),
        ("engine", {"name": "ddp", "cpu_offload": True}, "engine.cpu_offload"),
        ("engine", {"name": "zero2", "activation_checkpointing": "full"}, "engine.activation_checkpointing"),
        ("engine", {"name": "zero2", "compile": True}, "engine.compile"),
        ("engine", {"shard_ranks": 0}, "engine.shard_ranks"),
        ("engine", {"precision": "fp16"}, "engine.precision"),
        ("engine", {"device": "tpu"}, "engine.device"),
        ("logger", {"wandb": "on"}, "logger.wandb"),
        ("logger", {"every_steps": 0}, "logger.every_steps"),
        ("logger", {"examples_every_steps": -1}, "logger.examples_every_steps"),
        ("logger", {"artifacts": True}, "logger.artifacts"),
        ("run", {"steps": 0}, "run.steps"),
    ],
)
def test_impossible_values_are_refused_by_key(group: str, change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=rf"^{named}: "):
        check_run_parts(**(GOOD | {group: replace(GOOD[group], **change)}))


@pytest.mark.parametrize("name", sorted(path.stem for path in (resource("conf") / "adaptation").glob("*.yaml")))
def test_shipped_adaptations_compose_and_are_read_back(name: str, tmp_path: Path) -> None:
    config = compose(["experiment=pi05_posttrain", f"adaptation={name}", "data.root=/data"])
    assert bool(config.adaptation.lora) == bool(config.adaptation.freeze) == (name != "none")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_config(tmp_path / "config.yaml") == config


def test_impossible_adaptations_are_refused_by_key() -> None:
    rule = "{pattern: layers.*, rank: 4, alpha: 4.0, scaling: none}"
    with pytest.raises(UserError, match=r"^adaptation\.lora\.0\.scaling: "):
        compose(["experiment=pi05_pretrain", "data.root=/data", f"adaptation.lora=[{rule}]"])


def test_a_cosine_end_matters_only_to_the_cosine() -> None:
    check_run_parts(**(GOOD | {"schedule": ScheduleConfig("warmup_constant", 5, 0, 0.0)}))


@pytest.mark.parametrize("config", [CheckpointConfig(0, 1), CheckpointConfig(1, 0), CheckpointConfig(4, 1, 6)])
def test_checkpoints_that_keep_nothing_are_refused(config: CheckpointConfig) -> None:
    with pytest.raises(UserError, match="checkpoint"):
        check_checkpoint(config)
