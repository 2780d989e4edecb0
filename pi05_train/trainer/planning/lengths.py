"""How long the samples of a run are: counted where `pi05 data count` has counted them, else assumed and said so.

Shape letter: B draws of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pi05_train.config.build import Statistics, shard_statistics
from pi05_train.config.cluster import ClusterConfig
from pi05_train.config.schema import Config
from pi05_train.data.loading.budget import Budget, Costs, divide
from pi05_train.data.loading.token_counts import Counts, open_counts
from pi05_train.data.order.outlook import Outlook
from pi05_train.data.order.schedule import Schedule
from pi05_train.errors import UserError
from pi05_train.trainer.flops import Load

ASSUMED_TOKENS = {"MM": (60, 60), "ME": (60, 60), "CE": (60, 60), "HL": (30, 60), "VI": (45, 30), "WD": (50, 50)}
"""Prompt and target tokens of a sample by kind, where nothing is counted: our choice, near the true text and FAST
lengths of openpi's tokenizers. A card's cameras are taken to be in every sample."""
_STEPS = 8
"""Steps, evenly over the run, whose batches are looked at."""


@dataclass(frozen=True)
class Samples:
    """Sizes of a step's draws, in slot order."""

    images_B: NDArray[np.int64]
    prefix_B: NDArray[np.int64]
    target_B: NDArray[np.int64]
    acting_B: NDArray[np.bool_]

    def load(self, slots: Sequence[int] | slice, flow_draws: int) -> Load:
        """What these draws put through the network."""
        prefix, target, acting = self.prefix_B[slots], self.target_B[slots], self.acting_B[slots]
        return Load(
            images=int(self.images_B[slots].sum()),
            prefix_rows=int(prefix.sum()),
            target_rows=int(target.sum()),
            pairs=int((prefix * prefix + target * (prefix + target)).sum()),
            labels=int(target.sum()),
            chunks=flow_draws * int(acting.sum()),
            chunk_prefix_rows=flow_draws * int(prefix[acting].sum()),
        )


@dataclass(frozen=True)
class Lengths:
    """Sizes of the samples of every source of a mixture."""

    config: Config
    outlook: Outlook
    counted: Mapping[str, Counts]
    why_assumed: Mapping[str, str]
    """By source: what keeps its counts from being used."""

    @classmethod
    def of(cls, config: Config, outlook: Outlook) -> Lengths:
        """Takes the counts that there are."""
        counted: dict[str, Counts] = {}
        why: dict[str, str] = dict.fromkeys(outlook.absent, "its shards are not there")
        if outlook.opened is not None:
            statistics = _statistics(config, outlook.opened.names)
            for name in outlook.opened.names:
                try:
                    counted[name] = open_counts(name, outlook.opened.indexes[name], config, statistics)
                except UserError as error:
                    why[name] = str(error)
        return cls(config, outlook, counted, why)

    def mean(self, source: str) -> tuple[float, float, float]:
        """(images, prompt tokens, target tokens) of a sample of the source."""
        prompt, target = self._assumed(source)
        if source not in self.counted:
            return float(len(self.outlook.cards[source].cameras)), float(prompt), float(target)
        counts, share = self.counted[source], target / (prompt + target)
        tokens = float(counts["tokens"].mean())
        return float(counts["images"].mean()), tokens * (1 - share), tokens * share

    def tokens(self, source: str) -> float:
        """Image, prompt and target tokens of a sample of the source, in the mean."""
        images, prompt, target = self.mean(source)
        return images * self.config.model.vision.tokens_per_image + prompt + target

    def samples(self, schedule: Schedule, step: int) -> Samples:
        """The global batch of a step."""
        draws = schedule.draws(step)
        sizes_B3 = np.zeros((len(draws), 3), np.int64)
        acting_B = np.zeros(len(draws), np.bool_)
        places: dict[str, list[int]] = {}
        for place, draw in enumerate(draws):
            places.setdefault(draw.source, []).append(place)
        for source, own in places.items():
            sizes_B3[own] = self._sizes(source, [draws[place].row for place in own])
            acting_B[own] = self.config.stage.objective.expert and self.outlook.cards[source].has_actions
        images_B = sizes_B3[:, 0]
        prefix_B = sizes_B3[:, 1] + images_B * self.config.model.vision.tokens_per_image
        return Samples(images_B, prefix_B, sizes_B3[:, 2], acting_B)

    def _sizes(self, source: str, rows: Sequence[int]) -> NDArray[np.int64]:
        """(images, prompt tokens, target tokens) of filtered rows, [rows, 3]. Counts know prompt and target together;
        they are divided as the assumption has it."""
        prompt, target = self._assumed(source)
        if source not in self.counted:
            each = (len(self.outlook.cards[source].cameras), prompt, target)
            return np.tile(np.array(each, np.int64), (len(rows), 1))
        assert self.outlook.opened is not None
        kept = self.outlook.opened.rows[source]
        counts = self.counted[source][[int(kept[row]) for row in rows]]
        tokens = counts["tokens"].astype(np.int64)
        targets = np.rint(tokens * (target / (prompt + target))).astype(np.int64)
        return np.stack([counts["images"].astype(np.int64), tokens - targets, targets], axis=1)

    def _assumed(self, source: str) -> tuple[int, int]:
        card = self.outlook.cards[source]
        prompt, target = ASSUMED_TOKENS[card.kind]
        return min(prompt, self.config.model.max_prompt_tokens), target * self.config.stage.objective.text


@dataclass(frozen=True)
class Steps:
    """The micro-batches of a few steps, on every rank."""

    ranks: tuple[tuple[tuple[Load, ...], ...], ...]
    """By step and rank."""

    @property
    def micro_batches(self) -> int:
        """Of a rank in a step, at most."""
        return max(len(rank) for step in self.ranks for rank in step)

    @property
    def loads(self) -> set[Load]:
        """The micro-batches of all steps and ranks, alike ones once."""
        return {load for step in self.ranks for rank in step for load in rank}


def divided(config: Config, cluster: ClusterConfig, batches: Sequence[Samples], micro_batch: int | None) -> Steps:
    """Every step's batch over the ranks: `micro_batch` samples each, or (None) within the budgets of `data`."""
    flow_draws = config.stage.objective.flow_draws
    steps = []
    for samples in batches:
        if micro_batch is None:
            ranks = _within_budget(config, cluster, samples)
        else:
            own = len(samples.images_B) // cluster.world_size
            ranks = [
                [range(at, min(at + micro_batch, start + own)) for at in range(start, start + own, micro_batch)]
                for start in range(0, own * cluster.world_size, own)
            ]
        steps.append(tuple(tuple(samples.load(list(slots), flow_draws) for slots in rank) for rank in ranks))
    return Steps(tuple(steps))


def _within_budget(config: Config, cluster: ClusterConfig, samples: Samples) -> list[list[Sequence[int]]]:
    budget = Budget(config.data.micro_batch_tokens, config.data.micro_batch_images)
    costs = Costs(samples.prefix_B + samples.target_B, samples.images_B, samples.acting_B)
    for what, sizes_B, limit in (("tokens", costs.tokens_B, budget.tokens), ("images", costs.images_B, budget.images)):
        if limit is not None and sizes_B.max() > limit:
            raise UserError(
                f"data.micro_batch_{what}",
                got=limit,
                expected=f"at least {sizes_B.max()}, which a sample has alone",
                do="raise it",
            )
    return [list(rank) for rank in divide(costs, budget, cluster.world_size)]


def sampled(lengths: Lengths, schedule: Schedule, steps: int) -> list[Samples]:
    """The batches of a few steps, evenly over the run."""
    chosen = sorted(set(np.linspace(0, steps - 1, min(_STEPS, steps)).round().astype(int).tolist()))
    return [lengths.samples(schedule, step) for step in chosen]


def _statistics(config: Config, names: Sequence[str]) -> Statistics:
    """Of these sources."""
    sources = {name: config.mixture.sources[name] for name in names}
    return shard_statistics(replace(config, mixture=replace(config.mixture, sources=sources)))
