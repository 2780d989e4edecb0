"""Which episodes to play: task, world, room, split and whether the expert is misled, all from the seed."""

from __future__ import annotations

import numpy as np

from pi05_train.simulation.aloha import ALOHA_TASKS
from pi05_train.simulation.metaworld_tasks import METAWORLD_TASKS
from pi05_train.simulation.recording import EpisodePlan
from pi05_train.simulation.rooms import ROOMS
from pi05_train.simulation.settings import SimulationSettings

FETCH_CYCLE = (
    "fetch-reach", "fetch-push", "fetch-reach", "fetch-pick-place", "fetch-reach", "fetch-reach",
)  # fmt: skip
"""Reach is the easiest to learn and its episodes are the shortest, so it is played most."""
HELDOUT_SHARE = 0.1
MISTAKEN_SHARE = 0.08
WORLD_SEEDS = 1_000_000
"""Recorded worlds have smaller seeds than this; closed-loop evaluation starts here and so meets new worlds."""


def plan_episodes(settings: SimulationSettings) -> list[EpisodePlan]:
    """Every episode of the three action sources, in order of source and episode number."""
    return [
        *_plans("sim_fetch", FETCH_CYCLE, settings.fetch_episodes, settings.seed),
        *_plans("sim_metaworld", tuple(METAWORLD_TASKS), settings.metaworld_episodes, settings.seed),
        *_plans("sim_aloha", tuple(ALOHA_TASKS), settings.aloha_episodes, settings.seed),
    ]


def share_of(count: int, share: float, rng: np.random.Generator) -> set[int]:
    """A random subset of range(count) of about that share: at least one of two or more, none of one."""
    wanted = max(1, round(count * share)) if count > 1 else 0
    return {int(index) for index in rng.permutation(count)[:wanted]}


def _plans(source: str, cycle: tuple[str, ...], count: int, seed: int) -> list[EpisodePlan]:
    rng = np.random.default_rng([seed, *source.encode()])
    heldout = share_of(count, HELDOUT_SHARE, rng)
    mistaken = share_of(count, MISTAKEN_SHARE, rng)
    rooms = np.concatenate([rng.permutation(len(ROOMS)) for _ in range(count // len(ROOMS) + 1)])
    seeds = rng.permutation(WORLD_SEEDS)[:count]
    return [
        EpisodePlan(
            source=source,
            task=cycle[episode % len(cycle)],
            episode=episode,
            world_seed=int(seeds[episode]),
            room=int(rooms[episode]),
            split="heldout" if episode in heldout else "train",
            mistaken=episode in mistaken,
        )
        for episode in range(count)
    ]
