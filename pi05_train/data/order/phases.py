"""The phases of a run, known before its first step: those a person wrote, and those that exhausted sources make."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from pi05_train.data.order.apportionment import Apportionment
from pi05_train.data.order.schedule import Phase, Schedule
from pi05_train.data.order.weights import source_weights
from pi05_train.errors import UserError
from pi05_train.samples.mixture_config import MixtureConfig, PhaseEntry

_MARGIN = 4
"""Units; a count stays within 3 of its share."""


@dataclass(frozen=True)
class PhasePlan:
    """The phases up to a step; the first begins at step 0."""

    phases: tuple[Phase, ...]
    end_step: int | None = None
    """The first step that cannot be drawn; None: none before the last step planned for."""
    end_reason: str = ""


def plan_phases(
    config: MixtureConfig, rows: Mapping[str, int], *, global_batch: int, steps: int, read_group: int = 1
) -> PhasePlan:
    """The phases that begin before `steps`, and where the data ends if it does so before; `rows` of enabled sources.

    A source leaves at the step that would take it over its last epoch: it is never seen more often than allowed, and
    fewer of its rows than a step and a read group have stay unseen. Up to any step the result is the same for every
    larger `steps`.
    Refuses (UserError) what `source_weights` refuses in any of these phases, and a source gone before its first draw.
    """
    ahead = sorted(config.phases.items(), key=lambda item: item[1].from_step)
    limits = {name: draws // read_group for name, draws in _limits(config, rows).items()}
    units = global_batch // read_group  # per step; from here on limits and counts are units too
    drawn = dict.fromkeys(rows, 0)
    phases: list[Phase] = []
    mix, start, label = _Mix(config, rows), 0, ""
    while True:
        while ahead and ahead[0][1].from_step <= start:
            label, entry = ahead.pop(0)
            mix.begin(entry)
        weights = mix.weights(label)
        if not weights:
            return PhasePlan(tuple(phases), start, "all sources are exhausted")
        shares = Apportionment(weights)
        until = min([steps, *(entry.from_step for _, entry in ahead)])
        left = {name: limits[name] - drawn[name] for name in shares.names if name in limits}
        over = start + steps_within(shares, weights, left, units) if left else until
        end = max(start, min(until, over))
        if end > start or end == steps:
            phases.append(Phase(label, start, weights))
            counts = shares.counts((end - start) * units)
            drawn |= {name: drawn[name] + count for name, count in zip(shares.names, counts, strict=True)}
        if end == steps:
            return PhasePlan(tuple(phases))
        if over < until:
            gone = _exhausted(shares, (over + 1 - start) * units, left)
            for name in gone:
                _check_was_drawn(name, drawn[name], limits[name] * read_group, global_batch)
            if stopping := [name for name in gone if config.sources[name].on_exhaust == "stop"]:
                return PhasePlan(tuple(phases), end, f"source {stopping[0]} is exhausted")
            mix.gone += gone
            label = f"without {', '.join(gone)}"
        start = end


def plan_schedule(
    config: MixtureConfig, rows: Mapping[str, int], *, seed: int, global_batch: int, steps: int, read_group: int = 1
) -> Schedule:
    """The batches of the first `steps` steps; its `end_step` tells if exhausted sources end the run earlier.

    `rows` of the enabled sources, in the declared order.
    """
    plan = plan_phases(config, rows, global_batch=global_batch, steps=steps, read_group=read_group)
    return Schedule(
        seed,
        tuple(rows),
        tuple(rows.values()),
        [plan.phases[0].share(name) for name in rows],
        global_batch,
        read_group=read_group,
        phases=plan.phases[1:],
        end_step=plan.end_step,
        end_reason=plan.end_reason,
    )


def steps_within(shares: Apportionment, weights: Mapping[str, float], left: Mapping[str, int], units: int) -> int:
    """The most whole steps, each of so many units, after which no source of `left` has given more than that."""
    total = sum(weights.values())

    def exceeds(step: int) -> bool:
        return bool(_exhausted(shares, (step + 1) * units, left))

    per_step = {name: weights[name] / total * units for name in left}
    lowest = min(int((left[name] - _MARGIN) / per_step[name]) for name in left) - 1
    highest = min(int((left[name] + _MARGIN) / per_step[name]) for name in left) + 1
    return bisect_left(range(max(0, lowest), max(0, highest)), True, key=exceeds) + max(0, lowest)


def _exhausted(shares: Apportionment, units: int, left: Mapping[str, int]) -> list[str]:
    """Sources that so many units would take over what is left of them."""
    counts = zip(shares.names, shares.counts(units), strict=True)
    return [name for name, count in counts if name in left and count > left[name]]


class _Mix:
    """Weights, groups and exhausted sources as they stand after the phases that have begun."""

    def __init__(self, config: MixtureConfig, rows: Mapping[str, int]) -> None:
        self._where = f"mixture {config.name}"
        self._entries = config.taking_part
        self._all_enabled = len(self._entries) == len(config.sources)
        self._rows = rows
        self._weights = {name: entry.weight for name, entry in self._entries.items()}
        self._groups = dict(config.groups)
        self.gone: list[str] = []

    def begin(self, phase: PhaseEntry) -> None:
        self._weights |= {name: weight for name, weight in phase.weights.items() if name in self._entries}
        self._groups |= phase.groups

    def weights(self, label: str) -> dict[str, float]:
        """Of the sources that take part; a source of weight 0 or exhausted does not."""
        present = {name: weight for name, weight in self._weights.items() if weight != 0 and name not in self.gone}
        if not present and not self.gone:
            raise UserError(
                f"{self._where}, phase {label}",
                got="no source with a weight",
                expected="at least one",
                do="give it one",
            )
        if not present:
            return {}
        return source_weights(
            present,
            self._rows,
            {name: entry.group_name for name, entry in self._entries.items()},
            self._groups,
            where=self._where + (f", phase {label}" if label else ""),
            some_left_out=not self._all_enabled or len(present) < len(self._entries),
        )


def _limits(config: MixtureConfig, rows: Mapping[str, int]) -> dict[str, int]:
    """Most draws of each source that may be exhausted."""
    limits = {}
    for name, size in rows.items():
        entry = config.sources[name]
        if entry.on_exhaust != "repeat":
            limits[name] = int((1.0 if entry.max_epochs is None else entry.max_epochs) * size)
    return limits


def _check_was_drawn(name: str, drawn: int, limit: int, global_batch: int) -> None:
    if not drawn:
        raise UserError(
            f"source {name}, max_epochs",
            got=f"{limit} draws until it is exhausted",
            expected=f"more than its share of one batch of {global_batch}",
            do="raise max_epochs, lower its weight or disable it",
        )
