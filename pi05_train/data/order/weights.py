"""From what a person asks of a mixture to numbers: powers of row counts, and shares of groups."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pi05_train.errors import UserError
from pi05_train.samples.mixture_config import GroupEntry, PowerWeight

_CLOSE = 1e-9


def number(weight: float | PowerWeight, rows: int) -> float:
    """The weight of something with that many rows."""
    if isinstance(weight, PowerWeight):
        # Twelve digits, because C libraries differ in the last one of a power and the order of the data must not.
        return float(f"{math.pow(weight.rows or rows, weight.power):.12g}")
    return float(weight)


def source_weights(
    weights: Mapping[str, float | PowerWeight],
    rows: Mapping[str, int],
    group_of: Mapping[str, str],
    groups: Mapping[str, GroupEntry],
    *,
    where: str = "mixture",
    some_left_out: bool = False,
) -> dict[str, float]:
    """A positive number per source, relative to the others'; `weights` names the sources that take part.

    `some_left_out`: sources are switched off, so shares of groups that no longer fill the whole are scaled up to do so.
    Refuses (UserError, beginning with `where`) shares that exceed the whole or leave nothing to others, and numbers
    beside powers of row counts, which are thousands of times larger.
    """
    plain = {name: number(weight, rows[name]) for name, weight in weights.items()}
    named = {*groups, *(other for group in groups.values() for other in group.of)}
    members: dict[str, list[str]] = {group: [] for group in sorted(named)}
    for name in plain:
        if group_of[name] in named:
            members[group_of[name]].append(name)
    members = {group: names for group, names in members.items() if names}
    by_power = {name: isinstance(weight, PowerWeight) for name, weight in weights.items()}
    if not members:
        _check_alike(where, by_power)
        return plain
    free_by_power = {name: power for name, power in by_power.items() if group_of[name] not in named}
    for group, names in members.items():
        _check_alike(f"{where}, group {group}", {name: by_power[name] for name in names})
        entry = groups.get(group, GroupEntry())
        if entry.share is None:
            asked = weights[names[0]] if entry.weight is None else entry.weight
            free_by_power[f"group {group}"] = isinstance(asked, PowerWeight)
    _check_alike(where, free_by_power)
    lone = {name: weight for name, weight in plain.items() if group_of[name] not in named}
    shares = _unit_shares(_group_weights(members, plain, rows, groups), lone, groups, where, some_left_out)
    resolved: dict[str, float] = {}
    for name, weight in plain.items():
        group = group_of[name]
        if group in members:
            resolved[name] = shares[group] * weight / math.fsum(plain[other] for other in members[group])
        else:
            resolved[name] = shares[_lone(name)]
    return resolved


def _check_alike(where: str, by_power: Mapping[str, bool]) -> None:
    if len(set(by_power.values())) > 1:
        numbers, powers = ([name for name, power in by_power.items() if power == kind] for kind in (False, True))
        raise UserError(
            f"{where}, weights",
            got=f"a number for {numbers[0]} beside a power of rows for {powers[0]}",
            expected="all of one sort among those that share something",
            do="put one sort into a group with a share (mixture.groups)",
        )


def _lone(name: str) -> str:
    """Key of a source outside the named groups; a group may have a source's name."""
    return f"source {name}"


def _group_weights(
    members: Mapping[str, list[str]],
    plain: Mapping[str, float],
    rows: Mapping[str, int],
    groups: Mapping[str, GroupEntry],
) -> dict[str, float]:
    weights = {}
    for group, names in members.items():
        asked = groups[group].weight if group in groups else None
        if asked is None:
            weights[group] = math.fsum(plain[name] for name in names)
        else:
            weights[group] = number(asked, sum(rows[name] for name in names))
    return weights


def _unit_shares(
    group_weights: Mapping[str, float],
    lone: Mapping[str, float],
    groups: Mapping[str, GroupEntry],
    where: str,
    some_left_out: bool,
) -> dict[str, float]:
    """Shares of the present groups and of the lone sources (under `_lone`); they sum to 1."""
    asked = {group: groups.get(group, GroupEntry()) for group in group_weights}
    tied = {group: entry for group, entry in asked.items() if entry.of}
    fixed = {group: entry.share for group, entry in asked.items() if entry.share is not None and not entry.of}
    free = {group: weight for group, weight in group_weights.items() if group not in tied and group not in fixed}
    free |= {_lone(name): weight for name, weight in lone.items()}
    # A group that is f of itself and others is f / (1 - f) of the others: it comes on top of each of them.
    on_top = {group: float(entry.share or 0) / (1 - float(entry.share or 0)) for group, entry in tied.items()}
    for group, entry in tied.items():
        if not any(other in group_weights for other in entry.of if other != group):
            raise UserError(
                f"{where}, group {group}",
                got=f"a share of {entry.of} without any other of them",
                expected="an enabled source in one of the others",
                do=f"enable one, or give {group} a share of all examples (of: [])",
            )

    def multiple(unit: str) -> float:
        return 1 + math.fsum(on_top[group] for group, entry in tied.items() if unit in entry.of)

    taken = math.fsum(share * multiple(group) for group, share in fixed.items())
    if taken > 1 + _CLOSE or (free and taken > 1 - _CLOSE):
        raise UserError(
            f"{where}, shares of groups",
            got=f"{taken:.6g} in all",
            expected=f"less than 1, to leave something for {next(iter(free))}" if free else "at most 1",
            do="lower them",
        )
    shares = dict(fixed)
    if free:
        total = math.fsum(weight * multiple(unit) for unit, weight in free.items())
        shares |= {unit: (1 - taken) * weight / total for unit, weight in free.items()}
    elif taken < 1 - _CLOSE and not some_left_out:
        raise UserError(
            f"{where}, shares of groups",
            got=f"{taken:.6g} in all",
            expected="1, since no other source is there to take the rest",
            do="correct them, or leave out the share of one group",
        )
    else:
        shares = {group: share / taken for group, share in shares.items()}
    for group, entry in tied.items():
        shares[group] = on_top[group] * math.fsum(shares[other] for other in entry.of if other in shares)
    return shares
