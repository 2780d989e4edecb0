"""Both stages on the synthetic world, through the real mixture, loader, processor and network."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pi05_train.checkpoint.config import CheckpointConfig
from pi05_train.checkpoint.run_state import DataState, steps_saved
from pi05_train.checkpoint.weights import load_weights
from pi05_train.config.run_parts import ScheduleConfig
from pi05_train.data.loading.loader import make_loader
from pi05_train.data.loading.micro_batches import of_equal_number
from pi05_train.data.loading.quarantine import Quarantine
from pi05_train.data.loading.reader import Reader
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.schedule import Schedule
from pi05_train.engine.pytorch import PyTorchEngine
from pi05_train.engine.world import ALONE
from pi05_train.engine.world import World as RankWorld
from pi05_train.model.batch import Batch
from pi05_train.model.pi05 import Pi05
from pi05_train.objective.config import ObjectiveConfig
from pi05_train.processing.processor import Processor
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from pi05_train.trainer.loop import Plan, fit
from pi05_train.trainer.metrics import mixture_row
from pi05_train.trainer.run_folder import FollowedRunFolder, RunFolder
from tests.engine.tiny import CPU_FP32, OPTIMIZER, POSTTRAIN, PRETRAIN
from tests.synthetic_processor import synthetic_processor
from tests.trainer.logged import logged

STEPS = 5


class World:
    """The mixture of all six sources and the processor over it."""

    def __init__(self, root: Path, cards: dict[str, SourceCard]) -> None:
        self.processor: Processor = synthetic_processor(root, cards)
        entries = {name: SourceEntry(card, weight=1.0) for name, card in cards.items()}
        self.mixture = Mixture.open(MixtureConfig("toy", entries), root)
        self.schedule = Schedule(3, self.mixture.names, self.mixture.sizes, self.mixture.shares, 6)

    def loader(self, run: Path, workers: int = 0, ranks: RankWorld = ALONE) -> Callable[[int], Iterator[list[Batch]]]:
        mixture = self.mixture

        def batches(start: int) -> Iterator[list[Batch]]:
            loader = make_loader(
                mixture,
                self.schedule,
                Reader(mixture),
                self.processor,
                division=of_equal_number(3, rank=ranks.rank, world_size=ranks.size),
                flow_draws=1,
                start_step=start,
                stop_step=STEPS,
                num_workers=workers,
                quarantine=Quarantine(run, mixture, writes=ranks.rank == 0),
            )
            return (micro_batches for _, micro_batches in loader)

        return batches

    def plan(self) -> Plan:
        return Plan(
            steps=STEPS,
            data_state=lambda step: DataState(3, step, 6, self.mixture.fingerprint),
            peak_learning_rate=3e-3,
            schedule=ScheduleConfig("warmup_constant", 1, 0, 0.0),
            checkpoint=CheckpointConfig(every_steps=2, keep_last=3),
            log_every_steps=1,
            mixture_row=partial(mixture_row, self.schedule),
            kinds={name: card.kind for name, card in self.mixture.cards.items()},
            model=self.processor.model,
        )

    def engine(
        self, objective: ObjectiveConfig, start_from: Path | None = None, ranks: RankWorld = ALONE
    ) -> PyTorchEngine:
        """Sharded over the ranks, if a launcher started several."""
        model = Pi05(self.processor.model, expert=objective.expert)
        model.init_weights(3)
        if start_from is not None:
            load_weights(start_from, model, ema=True)
        config = replace(CPU_FP32, name="fsdp2") if ranks.group else CPU_FP32
        return PyTorchEngine(model, objective, OPTIMIZER, config, ranks)


@pytest.fixture(scope="module")
def world(synthetic_world: tuple[Path, dict[str, SourceCard]], tmp_path_factory: pytest.TempPathFactory) -> World:
    root = shutil.copytree(synthetic_world[0], tmp_path_factory.mktemp("trainer") / "world")
    return World(root, synthetic_world[1])


def weights(engine: PyTorchEngine) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in engine.state()["model"].items()}


def train(world: World, run: Path, engine: PyTorchEngine, **options: Any) -> PyTorchEngine:
    loader = options.get("loader", world.loader(run))
    if engine.world.rank > 0:
        engine.world.barrier()  # the folder is there
        fit(engine, loader, world.plan(), FollowedRunFolder(run))
        return engine
    with RunFolder(run, config="{}\n", fingerprints={}) as folder:
        engine.world.barrier()
        fit(engine, loader, world.plan(), folder)
    return engine


def test_two_stages_then_stopped_second_stage_is_bit_identical(world: World, tmp_path: Path) -> None:
    first, whole, parts = tmp_path / "pretrain", tmp_path / "whole", tmp_path / "parts"
    pretrained = train(world, first, world.engine(PRETRAIN))
    assert not any(key.startswith("loss/flow") for row in logged(first) for key in row)
    second = world.engine(POSTTRAIN, first)
    averaged = pretrained.state()["ema"]
    assert all(torch.equal(weights(second)[name], value) for name, value in averaged.items())
    train(world, whole, second)
    assert {"loss/flow/toy_mobile", "loss/text/toy_web", "share/toy_verbal"} <= {
        k for row in logged(whole) for k in row
    }

    def stopping(start: int) -> Iterator[list[Batch]]:
        for micro_batches in world.loader(parts)(start):
            os.kill(os.getpid(), signal.SIGTERM)
            yield micro_batches

    for done in (1, 2):
        train(world, parts, world.engine(POSTTRAIN, first), loader=stopping)
        assert steps_saved(parts)[-1] == done
    # Loader processes change nothing either.
    resumed = train(world, parts, world.engine(POSTTRAIN, first), loader=world.loader(parts, workers=2))
    assert logged(parts) == logged(whole)
    expected = weights(second)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())


def test_the_losses_of_a_small_set_fall(world: World, tmp_path: Path) -> None:
    """Overfitting the same few batches: both terms must come down."""
    engine = world.engine(POSTTRAIN)
    micro_batches = next(world.loader(tmp_path)(0))
    results = [engine.train_step(micro_batches, learning_rate=1e-2) for _ in range(50)]
    first, last = results[0], results[-1]
    assert first.text_loss is not None
    assert last.text_loss is not None
    assert last.text_loss < 0.5 * first.text_loss
    assert first.flow_loss is not None
    assert last.flow_loss is not None
    assert last.flow_loss < 0.9 * first.flow_loss
