"""Micro-batches by budget through the real loader and network: another division, the same step."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pi05_train.data.loading.budget import Budget
from pi05_train.data.loading.loader import make_loader
from pi05_train.data.loading.micro_batches import Division, Sizes, of_equal_number, within_budget
from pi05_train.data.loading.quarantine import Quarantine
from pi05_train.data.loading.reader import Reader
from pi05_train.data.loading.token_counts import COUNT
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.schedule import Draw, Schedule
from pi05_train.engine.pytorch import PyTorchEngine
from pi05_train.engine.world import ALONE
from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.model.pi05 import Pi05
from pi05_train.processing.processor import Processor
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from tests.engine.tiny import CPU_FP32, OPTIMIZER, POSTTRAIN
from tests.synthetic_processor import synthetic_processor

BATCH = 24
BUDGET = Budget(900, 12)


class World:
    """All six sources, what their samples cost, and the loader over them."""

    def __init__(self, root: Path, cards: dict[str, SourceCard]) -> None:
        self.processor: Processor = synthetic_processor(root, cards)
        entries = {name: SourceEntry(card, weight=1.0) for name, card in cards.items()}
        self.mixture = Mixture.open(MixtureConfig("toy", entries), root)
        self.schedule = Schedule(5, self.mixture.names, self.mixture.sizes, self.mixture.shares, BATCH)
        reader = Reader(self.mixture)
        counts = {}
        for name in self.mixture.names:
            counts[name] = np.zeros(len(self.mixture.indexes[name]), COUNT)
            for place, row in enumerate(np.asarray(self.mixture.rows[name]).tolist()):
                counts[name][row] = self.processor.count(reader.read(name, place))
        tokens_per_image = self.processor.model.vision.tokens_per_image
        self.sizes = Sizes(self.mixture, counts, tokens_per_image, expert=True)

    def load(
        self, division: Division, run_folder: Path, *, steps: range = range(4), workers: int = 0
    ) -> list[tuple[int, list[Batch]]]:
        options: dict[str, Any] = {"flow_draws": 1, "num_workers": workers}
        options["quarantine"] = Quarantine(run_folder, self.mixture)
        options |= {"division": division, "start_step": steps.start, "stop_step": steps.stop}
        return list(make_loader(self.mixture, self.schedule, Reader(self.mixture), self.processor, **options))


@pytest.fixture(scope="module")
def world(synthetic_world: tuple[Path, dict[str, SourceCard]], tmp_path_factory: pytest.TempPathFactory) -> World:
    root = shutil.copytree(synthetic_world[0], tmp_path_factory.mktemp("micro_batches") / "world")
    return World(root, synthetic_world[1])


def contents(batches: list[Batch]) -> dict[tuple[str, int], tuple[Any, ...]]:
    """What each draw became: key, tokens, flow noise."""
    found: dict[tuple[str, int], tuple[Any, ...]] = {}
    for batch in batches:
        chunks = dict(zip(batch.action_segments, batch.noise_AKHD.sum((1, 2, 3)).tolist(), strict=True))
        rows = torch.tensor([p + t for p, t in zip(batch.prefix_lengths, batch.target_lengths, strict=True)])
        ids = torch.split(batch.token_ids_N, rows.tolist())
        for place, segment in enumerate(batch.segments):
            found[segment.source, segment.draw] = (segment.key, tuple(ids[place].tolist()), chunks.get(place))
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_what_was_counted_and_the_step_is_the_same(world: World, tmp_path: Path, workers: int) -> None:
    fixed = world.load(of_equal_number(6), tmp_path)
    budgeted = world.load(within_budget(world.sizes, BUDGET), tmp_path, workers=workers)
    assert [step for step, _ in budgeted] == [step for step, _ in fixed]
    for (_, ours), (_, theirs) in zip(budgeted, fixed, strict=True):
        assert contents(ours) == contents(theirs)
        assert sum(batch.num_segments for batch in ours) == BATCH
        assert BUDGET.tokens is not None
        assert BUDGET.images is not None
        tokens = [len(batch.token_ids_N) for batch in ours]
        assert max(tokens) <= BUDGET.tokens
        assert max(len(batch.images_ICHW) for batch in ours) <= BUDGET.images
        assert max(tokens) - min(tokens) < 0.2 * max(tokens)
        assert all(batch.action_segments for batch in ours)


def test_the_number_of_micro_batches_may_differ_from_step_to_step(world: World, tmp_path: Path) -> None:
    def division(draws: Sequence[Draw]) -> list[list[Draw]]:
        return of_equal_number(BATCH // (1 + draws[0].draw % 3))(draws)

    steps = world.load(division, tmp_path, steps=range(6), workers=2)
    numbers = [len(division(world.schedule.draws(step))) for step in range(6)]
    assert [len(batches) for _, batches in steps] == numbers
    assert len(set(numbers)) > 1
    for step, batches in steps:
        drawn = {(draw.source, draw.draw) for draw in world.schedule.draws(step)}
        assert contents(batches).keys() == drawn


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 8, 12, 24])
def test_all_ranks_together_draw_the_global_batch(world: World, world_size: int) -> None:
    draws = world.schedule.draws(3)
    for make in (
        lambda rank: within_budget(world.sizes, BUDGET, rank=rank, world_size=world_size),
        lambda rank: of_equal_number(3, rank=rank, world_size=world_size),
    ):
        ranks = [make(rank)(draws) for rank in range(world_size)]
        assert len({len(parts) for parts in ranks}) == 1
        drawn = [draw for parts in ranks for part in parts for draw in part]
        assert sorted(drawn, key=str) == sorted(draws, key=str)


def test_loss_and_gradients_do_not_depend_on_the_division(world: World, tmp_path: Path) -> None:
    def step(division: Division) -> tuple[Any, dict[str, Tensor]]:
        model = Pi05(world.processor.model, expert=True)
        model.init_weights(3)
        unclipped = replace(OPTIMIZER, clip_backbone=1e9, clip_expert=1e9)
        engine = PyTorchEngine(model, POSTTRAIN, unclipped, CPU_FP32, ALONE)
        ((_, batches),) = world.load(division, tmp_path, steps=range(2, 3))
        return engine.train_step(batches, learning_rate=0.0), engine.state()["optimizer"]["exp_avg"]

    expected, gradients = step(of_equal_number(6))
    for budget in (BUDGET, Budget(None, 5), Budget(300, None)):
        got, ours = step(within_budget(world.sizes, budget))
        assert got.loss == pytest.approx(expected.loss, rel=1e-5)
        assert got.backbone_norm == pytest.approx(expected.backbone_norm, rel=1e-4)
        assert got.expert_norm == pytest.approx(expected.expert_norm, rel=1e-4)
        assert (got.samples, got.tokens) == (expected.samples, expected.tokens)
        for name, gradient in gradients.items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_sample_over_a_budget_is_named(world: World) -> None:
    name = "toy_subtasks"  # four pictures each, of four tokens
    with pytest.raises(
        UserError, match=rf"micro_batch_images: got 3, expected at least 4, which sample \S+ of .*{name}"
    ):
        world.sizes.check(Budget(None, 3))
    tokens = {source: world.sizes.of_source(source)[0] for source in world.mixture.names}
    most = max(int(of.max()) for of in tokens.values())
    world.sizes.check(Budget(most, 4))
    with pytest.raises(UserError, match=rf"micro_batch_tokens: got {most - 1}, expected at least {most}"):
        world.sizes.check(Budget(most - 1, 4))


def test_samples_that_a_filter_leaves_out_may_be_over_the_budget(world: World) -> None:
    counts = {name: np.ones(len(index), COUNT) for name, index in world.mixture.indexes.items()}
    outside = np.setdiff1d(np.arange(len(counts["toy_web"])), np.asarray(world.mixture.rows["toy_web"]))
    counts["toy_web"]["tokens"][outside] = 10**6
    Sizes(world.mixture, counts, 4, expert=True).check(Budget(100, None))
