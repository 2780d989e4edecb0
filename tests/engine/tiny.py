"""A network and batches small enough to train in milliseconds, for the rooms from engine upwards."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from pi05_train.config.run_parts import EngineConfig, OptimizerConfig
from pi05_train.engine.pytorch import PyTorchEngine
from pi05_train.engine.world import ALONE
from pi05_train.model.batch import Batch
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.model.pi05 import Pi05
from pi05_train.objective.config import ObjectiveConfig
from pi05_train.processing.example import Example, FlowDraws, pack

TINY = ModelConfig(
    name="tiny",
    vision=VisionConfig(image_size=28, patch_size=14, width=16, depth=1, mlp_dim=16, heads=2),
    backbone=TowerConfig(width=16, mlp_dim=24),
    expert=TowerConfig(width=8, mlp_dim=12),
    depth=2,
    heads=2,
    kv_heads=1,
    head_dim=8,
    vocab_size=64,
    action_dim=4,
    action_horizon=5,
)
OPTIMIZER = OptimizerConfig(
    name="adamw",
    learning_rate=1e-3,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=1e-10,
    clip_backbone=1.0,
    clip_expert=1.0,
    ema_decay=0.9,
)
PRETRAIN = ObjectiveConfig(alpha=0.0, insulation=False, expert=False)
POSTTRAIN = ObjectiveConfig(alpha=10.0, insulation=True, expert=True)
CPU_FP32 = EngineConfig(name="single", precision="fp32", device="cpu")


def tiny_example(seed: int, *, kind: str) -> tuple[Example, FlowDraws | None]:
    """Kind ME carries actions and FAST ids, WD an answer only, HL an answer and no picture, CE actions alone."""
    rng = np.random.default_rng(seed)
    acting = kind in ("ME", "CE")
    mask = np.ones((TINY.action_horizon, TINY.action_dim), dtype=np.bool_)
    mask[:, 3] = False
    example = Example(
        images=[] if kind == "HL" else [torch.from_numpy(rng.integers(0, 256, (3, 28, 28), dtype=np.uint8))],
        prefix_ids=rng.integers(3, 60, rng.integers(2, 6)).tolist(),
        target_ids=[] if kind == "CE" else rng.integers(3, 60, rng.integers(1, 5)).tolist(),
        actions=rng.standard_normal((5, 4), dtype=np.float32) * mask if acting else None,
        action_mask=mask if acting else None,
        source="arm" if acting else "web",
        kind=kind,
        key=f"{seed:08d}_000000",
    )
    noise = rng.standard_normal((1, 5, 4), dtype=np.float32)
    draws = FlowDraws(noise, rng.uniform(0.1, 1.0, 1).astype(np.float32)) if acting else None
    return example, draws


def tiny_batch(seeds: list[int], *, kinds: str = "ME WD") -> Batch:
    """One micro-batch; kinds alternate over the seeds."""
    cycle = kinds.split()
    return tiny_mixed_batch([(seed, cycle[seed % len(cycle)]) for seed in seeds])


def tiny_mixed_batch(samples: list[tuple[int, str]]) -> Batch:
    """One micro-batch of samples of these (seed, kind)."""
    parts = [tiny_example(seed, kind=kind) for seed, kind in samples]
    return pack([example for example, _ in parts], [draws for _, draws in parts], [seed for seed, _ in samples], TINY)


def tiny_loader(start_step: int) -> Iterator[list[Batch]]:
    """Two micro-batches of three samples per step, a function of the step alone."""
    step = start_step
    while True:
        first = 6 * step
        yield [tiny_batch([first, first + 1, first + 2]), tiny_batch([first + 3, first + 4, first + 5])]
        step += 1


def tiny_model(*, expert: bool = True, seed: int = 0) -> Pi05:
    model = Pi05(TINY, expert=expert)
    model.init_weights(seed)
    return model


def tiny_engine(
    *,
    objective: ObjectiveConfig = POSTTRAIN,
    optimizer: OptimizerConfig = OPTIMIZER,
    engine: EngineConfig = CPU_FP32,
    seed: int = 0,
) -> PyTorchEngine:
    return PyTorchEngine(tiny_model(expert=objective.expert, seed=seed), objective, optimizer, engine, ALONE)
