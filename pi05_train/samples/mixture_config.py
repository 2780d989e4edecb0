"""What a person writes about a mixture: sources, weights and filters for one stage. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from pi05_train.samples.card import SourceCard


@dataclass(frozen=True)
class SourceEntry:
    """One source of a mixture."""

    card: SourceCard
    weight: float
    """Share of the examples, relative to the other enabled sources' weights."""
    enabled: bool = True
    """False takes the source out; the order inside every other source stays as it was."""


@dataclass(frozen=True)
class FilterConfig:
    """Which rows of every source take part in training."""

    split: str = "train"
    """"train" or "heldout"."""
    success_only: bool = False
    """Leave out failed episodes."""
    max_episode_steps: int | None = None
    """Leave out episodes whose last anchor frame is at this step or later."""
    environments: int | None = None
    """Keep that many environments per source; a larger number keeps the same ones and adds to them."""


@dataclass(frozen=True)
class MixtureConfig:
    """Sources, weights and filters for one stage."""

    name: str
    sources: dict[str, SourceEntry]
    filters: FilterConfig = field(default_factory=FilterConfig)
