"""What a person writes about a mixture: sources, weights, groups, phases and filters for one stage. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import KINDS

POLICIES = ("repeat", "drop", "stop")


@dataclass(frozen=True)
class PowerWeight:
    """A weight of rows ** power: more data counts more, but less than in proportion (pi0, section V: 0.43)."""

    power: float
    rows: int | None = None
    """Rows to reckon with; None: those that pass the filters. A number keeps the weight while the source grows."""


@dataclass(frozen=True)
class SourceEntry:
    """One source of a mixture."""

    card: SourceCard
    weight: float | PowerWeight
    """Share of the examples, relative to the weights beside it: of its group's sources, or of the whole mixture."""
    enabled: bool = True
    """False takes the source out; the order inside every other source stays as it was."""
    group: str = ""
    """The group it belongs to; "" means the kind on its card."""
    max_epochs: float | None = None
    """How often its rows may be seen before it is exhausted; None: once, where `on_exhaust` is drop or stop."""
    on_exhaust: str = "repeat"
    """"repeat" (never exhausted), "drop" (the others share what it had) or "stop" (the run ends)."""

    @property
    def group_name(self) -> str:
        return self.group or self.card.kind


@dataclass(frozen=True)
class GroupEntry:
    """What the sources of a group have together; inside it they divide that by their weights."""

    share: float | None = None
    """Fraction of the examples, whatever the weights of others."""
    of: list[str] = field(default_factory=list)
    """Groups, itself among them, that `share` is a fraction of; empty: of all examples."""
    weight: float | PowerWeight | None = None
    """Instead of a share: its weight beside other groups and lone sources. None: the sum of its sources' weights."""


@dataclass(frozen=True)
class PhaseEntry:
    """What changes from a step on; whatever it does not name stays as it was before."""

    from_step: int
    weights: dict[str, float | PowerWeight] = field(default_factory=dict)
    """Of sources; 0 leaves one out until a later phase brings it back."""
    groups: dict[str, GroupEntry] = field(default_factory=dict)


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
    environments_of: list[str] = field(default_factory=list)
    """Kinds whose sources `environments` is meant for; empty: all."""

    def of_kind(self, kind: str) -> FilterConfig:
        """What the filters come to for sources of one kind."""
        counted = not self.environments_of or kind in self.environments_of
        return replace(self, environments=self.environments if counted else None, environments_of=[])


@dataclass(frozen=True)
class MixtureConfig:
    """Sources, weights and filters for one stage."""

    name: str
    sources: dict[str, SourceEntry]
    filters: FilterConfig = field(default_factory=FilterConfig)
    weight_unit: str = "examples"
    """What weights and shares count; "examples" is all there is."""
    groups: dict[str, GroupEntry] = field(default_factory=dict)
    phases: dict[str, PhaseEntry] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)
    """Kinds that are left out, as if each of their sources had `enabled: false`: ablations of any mixture."""

    @property
    def taking_part(self) -> dict[str, SourceEntry]:
        """The enabled sources of kinds that are not left out, as declared."""
        return {
            name: entry for name, entry in self.sources.items() if entry.enabled and entry.card.kind not in self.without
        }


def check_mixture(config: MixtureConfig) -> None:
    """Refuse weights, groups and phases that cannot be meant, before any data is opened."""
    if config.weight_unit != "examples":
        raise UserError(
            "mixture.weight_unit",
            got=repr(config.weight_unit),
            expected="examples, the rows of a mixture",
            do="set it; a share of tokens is a share of examples divided by the source's mean tokens per example",
        )
    for where, kinds in (("without", config.without), ("filters.environments_of", config.filters.environments_of)):
        for kind in kinds:
            _check_known(f"mixture.{where}", kind, KINDS)
    for name, entry in config.taking_part.items():
        _check_source(name, entry)
    known = {entry.group_name for entry in config.sources.values()}
    _check_groups("mixture.groups", config.groups, known)
    groups, started = dict(config.groups), set[int]()
    for name, phase in sorted(config.phases.items(), key=lambda item: item[1].from_step):
        where = f"mixture.phases.{name}"
        if phase.from_step < 0 or phase.from_step in started:
            raise UserError(
                f"{where}.from_step",
                got=phase.from_step,
                expected="a step, 0 or later, at which no other phase begins",
                do="correct it",
            )
        started.add(phase.from_step)
        for source, weight in phase.weights.items():
            _check_known(f"{where}.weights", source, config.sources)
            check_weight(f"{where}.weights.{source}", weight, or_zero=True)
        groups |= phase.groups
        _check_groups(f"{where}.groups", groups, known)


def check_weight(where: str, weight: float | PowerWeight, *, or_zero: bool = False) -> None:
    """Refuse a weight that is no share."""
    if isinstance(weight, PowerWeight):
        if not math.isfinite(weight.power) or (weight.rows is not None and weight.rows < 1):
            raise UserError(where, got=weight, expected="a finite power, and rows of 1 or more", do="correct it")
    elif not (math.isfinite(weight) and (weight > 0 or (or_zero and weight == 0))):
        what = where.removesuffix(".weight")
        raise UserError(
            where,
            got=weight,
            expected="a positive share" + (", or 0 to leave it out" if or_zero else ""),
            do="correct it" if or_zero else f"to leave the source out set {what}.enabled=false",
        )


def _check_source(name: str, entry: SourceEntry) -> None:
    where = f"mixture.sources.{name}"
    check_weight(f"{where}.weight", entry.weight)
    if entry.on_exhaust not in POLICIES:
        raise UserError(
            f"{where}.on_exhaust", got=repr(entry.on_exhaust), expected=f"one of {', '.join(POLICIES)}", do="correct it"
        )
    if entry.max_epochs is None:
        return
    if entry.on_exhaust == "repeat" or not (math.isfinite(entry.max_epochs) and entry.max_epochs > 0):
        raise UserError(
            f"{where}.max_epochs",
            got=f"{entry.max_epochs} with on_exhaust {entry.on_exhaust}",
            expected="a positive number, with on_exhaust drop or stop",
            do="set both",
        )


def _check_groups(where: str, groups: Mapping[str, GroupEntry], known: Iterable[str]) -> None:
    for name, group in groups.items():
        here = f"{where}.{name}"
        for other in (name, *group.of):
            _check_known(here, other, known)
        if group.weight is not None:
            check_weight(f"{here}.weight", group.weight, or_zero=False)
        if group.share is None:
            if group.of:
                raise UserError(f"{here}.share", got="nothing", expected=f"a fraction of {group.of}", do="set it")
            continue
        if group.weight is not None:
            raise UserError(here, got="a share and a weight", expected="one of them", do="remove the other")
        if not (0 < group.share < 1 or (group.share == 1 and not group.of)):
            raise UserError(f"{here}.share", got=group.share, expected="a fraction between 0 and 1", do="correct it")
        if group.of and (name not in group.of or len(set(group.of)) < 2):
            raise UserError(
                f"{here}.of", got=group.of, expected=f"{name} itself and at least one other group", do="name them"
            )
        if chained := [other for other in group.of if other != name and groups.get(other, GroupEntry()).of]:
            raise UserError(
                f"{here}.of",
                got=f"{chained[0]}, itself a fraction of other groups",
                expected="groups with a share or weight of their own",
                do=f"give {chained[0]} or {name} a plain share",
            )


def _check_known(where: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise UserError(where, got=repr(name), expected=f"one of {sorted(known)}", do="correct the name")
