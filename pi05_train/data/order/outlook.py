"""What a mixture will be before all of its data is there: declared rows stand in for those of absent sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pi05_train.config.schema import Config
from pi05_train.convert.source import Options
from pi05_train.data.cache import Cache
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.phases import plan_schedule
from pi05_train.data.order.schedule import Schedule
from pi05_train.data.sources.absent import absent_sources
from pi05_train.errors import UserError
from pi05_train.samples.address import PATIENCE_SECONDS
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import GroupEntry, MixtureConfig, PowerWeight


@dataclass(frozen=True)
class Outlook:
    """The enabled sources of a mixture, in the declared order, and what is known of each."""

    config: MixtureConfig
    cards: Mapping[str, SourceCard]
    rows: Mapping[str, int | None]
    """Rows that pass the filters. Of an absent source: those that its card declares, less the part that the converter
    holds out (or that part), whatever the other filters say; None: its card does not know."""
    absent: Mapping[str, SourceCard]
    opened: Mixture | None
    """The sources that are there; a mixture of its own, without groups and phases, unless all are."""

    @classmethod
    def open(
        cls,
        config: MixtureConfig,
        root: Path | str,
        *,
        cache: Cache | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Outlook:
        """Opens the indexes that there are; refuses (UserError) what `Mixture.open` refuses of those."""
        cards = {name: entry.card for name, entry in config.taking_part.items()}
        absent = {card.name: card for card in absent_sources(cards.values(), str(root), patience_seconds)}
        there = {name: entry for name, entry in config.taking_part.items() if name not in absent}
        part = replace(config, sources=there, groups={}, phases={}) if absent else config
        opened = Mixture.open(part, root, cache=cache, patience_seconds=patience_seconds) if there else None
        sizes = dict(zip(opened.names, opened.sizes, strict=True)) if opened else {}
        share = Options.heldout if config.filters.split == "heldout" else 1 - Options.heldout
        rows = {
            name: sizes.get(name) or (None if card.samples is None else max(1, round(share * card.samples)))
            for name, card in cards.items()
        }
        return cls(config, cards, rows, absent, opened)

    @classmethod
    def of(cls, config: Config) -> Outlook:
        """The outlook of a configuration, opened where its `data` says."""
        data = config.data
        return cls.open(config.mixture, data.root, cache=Cache(data.cache), patience_seconds=data.patience_seconds)

    def schedule(self, seed: int, global_batch: int, steps: int, *, read_group: int = 1) -> Schedule:
        """The batches as far as rows are known: shares and counts are right, epochs where `rows` has a number.

        Refuses (UserError) a mixture whose shares or phases depend on an unknown number of rows.
        """
        for name, rows in self.rows.items():
            if rows is None and _depends_on_rows(self.config, name):
                raise UserError(
                    f"mixture {self.config.name}, source {name}, rows",
                    got="unknown until it is converted",
                    expected="a number, because the shares or phases of this mixture depend on it",
                    do="convert it, or write its weight as a number or with rows (weight: {power: ..., rows: ...})",
                )
        reckoned = {name: rows or 1 for name, rows in self.rows.items()}  # nothing depends on the 1: checked above
        return plan_schedule(
            self.config, reckoned, seed=seed, global_batch=global_batch, steps=steps, read_group=read_group
        )


def _depends_on_rows(config: MixtureConfig, name: str) -> bool:
    entry = config.sources[name]
    phases, none = config.phases.values(), GroupEntry()
    contents = [config.groups, *(phase.groups for phase in phases)]
    groups = [content.get(entry.group_name, none) for content in contents]
    weights = [group.weight for group in groups if group.weight is not None]
    shares = [content[entry.group_name].share for content in contents if entry.group_name in content]
    if not (_alone(config, name) and shares and None not in shares):  # a group's only source has all of its share
        weights += [entry.weight, *(phase.weights[name] for phase in phases if name in phase.weights)]
    return entry.on_exhaust != "repeat" or any(isinstance(w, PowerWeight) and w.rows is None for w in weights)


def _alone(config: MixtureConfig, name: str) -> bool:
    """Whether it is the only enabled source of its group."""
    group = config.sources[name].group_name
    return [other for other, entry in config.sources.items() if entry.enabled and entry.group_name == group] == [name]
