"""Physical units to about [-1, 1] and back: quantiles of the source, and actions relative to the state.

The file and the formulas are openpi's (`shared/normalize.py`, `transforms.py`), so its published statistics load.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError

EPSILON = 1e-6
RANGE_FLOOR = 1e-3
"""Smallest trusted q99 - q01, in physical units: below it noise would be blown up to huge values (decision 32)."""

logger = logging.getLogger(__name__)

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class NormStats:
    """Statistics of one vector over a source; every array is float64 [dims], in physical units."""

    q01: NDArray[np.float64]
    q99: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @property
    def dims(self) -> int:
        return int(self.q01.shape[0])


def read_norm_stats(path: Path) -> dict[str, NormStats]:
    """Statistics under "state" and "actions" of an openpi `norm_stats.json`, tiny ranges floored.

    A file that is absent, misses quantiles or holds NaN is refused with a `UserError`.
    """
    if not path.is_file():
        raise UserError(
            "normalisation statistics",
            got=f"no file {path}",
            expected="norm_stats.json",
            do="write it with `pi05 data index`",
        )
    try:
        entries = dict(json.loads(path.read_text())["norm_stats"])
        return {name: floored(_parse(entry, f"{path}, {name}"), f"{path}, {name}") for name, entry in entries.items()}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"normalisation statistics {path}",
            got=f"{type(error).__name__}: {error}",
            expected='{"norm_stats": {"state": {"mean", "std", "q01", "q99"}, "actions": {...}}}',
            do="write the file anew",
        ) from error


def _parse(entry: dict[str, Any], where: str) -> NormStats:
    vectors: dict[str, NDArray[np.float64]] = {}
    for name in ("q01", "q99", "mean", "std"):
        if entry.get(name) is None:
            raise UserError(f"{where}.{name}", got="nothing", expected="a list of numbers", do="compute the quantiles")
        vectors[name] = np.asarray(entry[name], dtype=np.float64)
    shapes = {vector.shape for vector in vectors.values()}
    finite = all(np.isfinite(vector).all() for vector in vectors.values())
    if len(shapes) != 1 or not finite or (vectors["q99"] < vectors["q01"]).any():
        raise UserError(
            where, got="unequal lengths, NaN, or q99 < q01", expected="finite ordered statistics", do="recompute them"
        )
    return NormStats(**vectors)


def floored(stats: NormStats, where: str) -> NormStats:
    """The same statistics with q99 raised to q01 + `RANGE_FLOOR` where needed; a constant still maps to -1."""
    tiny = (stats.q99 - stats.q01) < RANGE_FLOOR
    if not tiny.any():
        return stats
    logger.warning(
        "%s: dimensions %s hardly move; their range is raised to %g.", where, np.flatnonzero(tiny).tolist(), RANGE_FLOOR
    )
    return replace(stats, q99=np.where(tiny, stats.q01 + RANGE_FLOOR, stats.q99))


def write_norm_stats(path: Path, stats: dict[str, NormStats]) -> None:
    """Write openpi's `norm_stats.json`."""
    names = ("mean", "std", "q01", "q99")
    entries = {key: {name: getattr(value, name).tolist() for name in names} for key, value in stats.items()}
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps({"norm_stats": entries}, indent=2) + "\n")
    temporary.replace(path)


def normalise(x: Floats, stats: NormStats) -> NDArray[np.float64]:
    """(x - q01) / (q99 - q01 + 1e-6) * 2 - 1 on the last axis, never clipped; x may have fewer dims than the stats."""
    q01, q99 = stats.q01[: x.shape[-1]], stats.q99[: x.shape[-1]]
    scaled: NDArray[np.float64] = (x - q01) / (q99 - q01 + EPSILON) * 2.0 - 1.0
    return scaled


def unnormalise(y: Floats, stats: NormStats) -> NDArray[np.float64]:
    """The inverse of `normalise`; dimensions beyond the statistics pass unchanged."""
    dims = min(y.shape[-1], stats.dims)
    q01, q99 = stats.q01[:dims], stats.q99[:dims]
    physical = (y[..., :dims] + 1.0) / 2.0 * (q99 - q01 + EPSILON) + q01
    return np.concatenate([physical, y[..., dims:]], axis=-1, dtype=np.float64)


def to_delta(actions: Floats, state: Floats, mask: Sequence[bool]) -> Floats:
    """Actions [..., H, D] with the masked leading dimensions taken relative to the chunk's first state."""
    return _shift(actions, state, mask, -1.0)


def to_absolute(actions: Floats, state: Floats, mask: Sequence[bool]) -> Floats:
    """The inverse of `to_delta`."""
    return _shift(actions, state, mask, 1.0)


def _shift(actions: Floats, state: Floats, mask: Sequence[bool], sign: float) -> Floats:
    dims = len(mask)
    assert dims <= min(actions.shape[-1], state.shape[-1]), (dims, actions.shape, state.shape)
    shifted = actions.copy()
    shifted[..., :dims] += sign * np.where(np.asarray(mask, dtype=bool), state[..., :dims], 0.0)[..., None, :]
    return shifted
