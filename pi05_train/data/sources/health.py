"""What a person should look at before training on a source: one line per finding, from its statistics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pi05_train.data.sources.sketch import Sketch
from pi05_train.data.sources.statistics import QUANTILES, Tally
from pi05_train.processing.normalisation import RANGE_FLOOR
from pi05_train.samples.card import SourceCard

OUTLIER = 3.0
"""Numbers further outside [q01, q99] than this many times q99 - q01 (of normal noise: 16 standard deviations)."""
MANY_RADIANS = 4 * math.pi
MANY_METRES = 10.0
LARGE_SHARE = 0.5


@dataclass(frozen=True)
class Finding:
    """Something unusual; most findings have a reason that only a person knows."""

    source: str
    vector: str
    """"state", "actions" (as the network is asked for them) or "samples"."""
    dim: int | None
    """Counted from 0; None where the whole vector is meant."""
    kind: str
    """range, constant gripper, outliers, units, offset, not finite, missing, padding or idle."""
    what: str

    def __str__(self) -> str:
        place = self.vector if self.dim is None else f"{self.vector}[{self.dim}]"
        return f"{self.source}, {place}: {self.what}"


@dataclass(frozen=True)
class Health:
    """The findings of one source and the shares that a person compares between sources."""

    source: str
    samples: int
    padded_share: float
    """Of the action steps within the horizon, those past their episode's end."""
    idle_share: float
    """Of the chunks, those in which no action dimension moves by more than `RANGE_FLOOR`."""
    findings: tuple[Finding, ...]


def health(card: SourceCard, tally: Tally) -> Health:
    """What is unusual about the numbers of a source."""
    padded = 1 - tally.valid_steps / tally.steps if tally.steps else 0.0
    idle = tally.idle_chunks / tally.chunks if tally.chunks else 0.0
    findings = [
        *_not_finite(card, tally),
        *(finding for name in tally.vectors for finding in _spread(card, name, tally.vectors[name])),
        *_units(card, tally),
        *_offsets(card, tally),
    ]
    if card.has_actions and tally.without_numbers:
        what = f"{tally.without_numbers} samples have neither state nor actions; see `pi05 data verify`"
        findings.append(Finding(card.name, "samples", None, "missing", what))
    if padded > LARGE_SHARE:
        what = f"{padded:.0%} of the action steps lie past their episode's end; is the horizon right for this source?"
        findings.append(Finding(card.name, "actions", None, "padding", what))
    if idle > LARGE_SHARE:
        what = f"{idle:.0%} of the chunks stand still (no dimension moves by {RANGE_FLOOR:g}); leave idle frames out?"
        findings.append(Finding(card.name, "actions", None, "idle", what))
    return Health(card.name, tally.samples, padded, idle, tuple(findings))


def _not_finite(card: SourceCard, tally: Tally) -> Iterator[Finding]:
    for name, counts in tally.not_finite.items():
        for dim in np.flatnonzero(counts).tolist():
            what = f"{counts[dim]} NaN or Inf; drop those samples and convert the source again"
            yield Finding(card.name, name, dim, "not finite", what)


def _spread(card: SourceCard, name: str, sketch: Sketch) -> Iterator[Finding]:
    """Dimensions that hardly move, and numbers far outside the others."""
    if not sketch.count:
        return
    q01, q99 = sketch.quantiles(QUANTILES)
    reach = OUTLIER * (q99 - q01)
    outside = sketch.outside(q01 - reach, q99 + reach)
    for dim in range(sketch.dims):
        low, high, span = sketch.low[dim], sketch.high[dim], q99[dim] - q01[dim]
        if low == high:
            grip = _is_gripper(card, name, dim, sketch.dims)
            what = f"always {low:.4g}{'; a gripper that never moves?' if grip else ''}"
            yield Finding(card.name, name, dim, "constant gripper" if grip else "range", what)
        elif span < RANGE_FLOOR:
            what = f"q99 - q01 is only {span:.2g}, from {q01[dim]:.4g}; it is raised to {RANGE_FLOOR:g} for training"
            yield Finding(card.name, name, dim, "range", what)
        elif outside[dim]:
            furthest = low if q01[dim] - low > high - q99[dim] else high
            what = (
                f"{outside[dim]} of {sketch.count} numbers lie more than {OUTLIER:g} times q99 - q01 outside "
                f"[{q01[dim]:.4g}, {q99[dim]:.4g}], the furthest {furthest:.4g}"
            )
            yield Finding(card.name, name, dim, "outliers", what)


def _is_gripper(card: SourceCard, name: str, dim: int, dims: int) -> bool:
    """By custom the last dimension, or an action that stays absolute among relative ones."""
    absolute = name == "actions" and any(card.delta_mask) and not (*card.delta_mask, *[False] * dims)[dim]
    return absolute or dim == dims - 1


def _units(card: SourceCard, tally: Tally) -> Iterator[Finding]:
    limit, guess = (MANY_RADIANS, "degrees or encoder counts") if card.control_mode == "joint" else (
        MANY_METRES, "millimetres or degrees"
    )  # fmt: skip
    for name, sketch in (("state", tally.vectors.get("state")), ("actions", tally.absolute)):
        if sketch is None or not sketch.count or not card.has_actions:
            continue
        q01, q99 = sketch.quantiles(QUANTILES)
        for dim in np.flatnonzero(np.maximum(np.abs(q01), np.abs(q99)) > limit).tolist():
            what = (
                f"from {q01[dim]:.4g} to {q99[dim]:.4g} as stored; {guess}? Metres and radians stay below {limit:.3g}"
            )
            yield Finding(card.name, name, dim, "units", what)


def _offsets(card: SourceCard, tally: Tally) -> Iterator[Finding]:
    """Relative actions that are far from 0 throughout: the state is in other units, or in another order."""
    state, actions = tally.vectors.get("state"), tally.vectors.get("actions")
    if state is None or actions is None or not state.count or not actions.count:
        return
    middle = actions.quantiles([0.5])[0]
    low, high = state.quantiles(QUANTILES)
    for dim in np.flatnonzero(card.delta_mask).tolist():
        span = high[dim] - low[dim]
        if RANGE_FLOOR <= span < abs(middle[dim]):
            what = (
                f"relative to the state its median is {middle[dim]:.4g}, while the state's q99 - q01 is {span:.4g}; "
                "are state and actions in the same units and order?"
            )
            yield Finding(card.name, "actions", dim, "offset", what)


def write_health(folder: Path, report: Health) -> None:
    """Write `health.json` and, for a person, `health.md`."""
    (folder / "health.json").write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n")
    lines = [
        f"# Health of {report.source}",
        "",
        f"{report.samples} samples with numbers; {report.padded_share:.1%} of the action steps past an episode's end; "
        f"{report.idle_share:.1%} of the chunks stand still.",
        "",
        *(f"- {finding}" for finding in report.findings or ("nothing unusual",)),
    ]
    (folder / "health.md").write_text("\n".join(lines) + "\n")
