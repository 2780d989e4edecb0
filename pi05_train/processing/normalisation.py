"""Physical units to the network's and back: quantiles or z-scores of the source, and actions relative to the state.

The file and the formulas are openpi's (`shared/normalize.py`, `transforms.py`), so its published statistics load.
`normalise` and `unnormalise` are those formulas bit for bit; what would blow up in them is mended when statistics are
read (`floored`).
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

KINDS = ("quantile", "z_score")
"""quantile: q01 to -1 and q99 to 1 (pi0.5, pi0-FAST). z_score: mean to 0 and standard deviation to 1 (pi0)."""
EPSILON = 1e-6
RANGE_FLOOR = 1e-3
"""Smallest trusted q99 - q01, in physical units: below it noise would be blown up to huge values (decision 32)."""
STD_FLOOR = RANGE_FLOOR / 4.65
"""The same for the standard deviation: that of normal noise whose q99 - q01 is `RANGE_FLOOR`."""

logger = logging.getLogger(__name__)

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class NormStats:
    """Statistics of one vector over a source; every array is float64 [dims], in physical units."""

    q01: NDArray[np.float64] | None
    q99: NDArray[np.float64] | None
    """Both or neither: z-scores need none, and some published files hold none."""
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @property
    def dims(self) -> int:
        return int(self.mean.shape[0])


def check_kind(kind: str) -> None:
    """Refuse a normalisation that does not exist."""
    if kind not in KINDS:
        raise UserError("data.normalisation", got=repr(kind), expected="one of " + ", ".join(KINDS), do="correct it")


def check_usable(stats: NormStats, kind: str, where: str) -> None:
    """Refuse statistics that lack what this kind of normalisation needs."""
    if kind == "quantile" and (stats.q01 is None or stats.q99 is None):
        raise UserError(
            f"{where}, q01 and q99",
            got="nothing",
            expected="quantiles, for data.normalisation=quantile",
            do="compute them with `pi05 data index`, or set data.normalisation=z_score",
        )


def read_norm_stats(path: Path) -> dict[str, NormStats]:
    """Statistics under "state" and "actions" of an openpi `norm_stats.json`; see `parse_norm_stats`."""
    return parse_norm_stats(path.read_bytes() if path.is_file() else None, str(path))


def parse_norm_stats(content: bytes | None, path: str) -> dict[str, NormStats]:
    """Statistics under "state" and "actions" of an openpi `norm_stats.json`, tiny ranges and deviations floored.

    Quantiles may be absent. An absent file (None) or a broken one, or one with NaN, is refused with a `UserError`.
    """
    if content is None:
        raise UserError(
            "normalisation statistics",
            got=f"no file {path}",
            expected="norm_stats.json",
            do="write it with `pi05 data index`",
        )
    try:
        entries = dict(json.loads(content)["norm_stats"])
        return {name: floored(_parse(entry, f"{path}, {name}"), f"{path}, {name}") for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"normalisation statistics {path}",
            got=f"{type(error).__name__}: {error}",
            expected='{"norm_stats": {"state": {"mean", "std", "q01", "q99"}, "actions": {...}}}',
            do="write the file anew",
        ) from error


def _parse(entry: dict[str, Any], where: str) -> NormStats:
    vectors: dict[str, NDArray[np.float64]] = {}
    for name in ("mean", "std", "q01", "q99"):
        if entry.get(name) is not None:
            vectors[name] = np.asarray(entry[name], dtype=np.float64)
        elif name in ("mean", "std"):
            raise UserError(f"{where}.{name}", got="nothing", expected="a list of numbers", do="recompute it")
    if ("q01" in vectors) != ("q99" in vectors):
        raise UserError(where, got="one of q01 and q99", expected="both or neither", do="recompute them")
    if len({vector.shape for vector in vectors.values()}) != 1 or vectors["mean"].ndim != 1:
        problem = "vectors of unequal lengths"
    elif not all(np.isfinite(vector).all() for vector in vectors.values()) or (vectors["std"] < 0).any():
        problem = "NaN, or a negative deviation"
    elif "q01" in vectors and (vectors["q99"] < vectors["q01"]).any():
        problem = "q99 < q01"
    else:
        return NormStats(vectors.get("q01"), vectors.get("q99"), vectors["mean"], vectors["std"])
    raise UserError(where, got=problem, expected="finite ordered statistics of equal lengths", do="recompute them")


def floored(stats: NormStats, where: str) -> NormStats:
    """The same statistics with a q99 - q01 of at least `RANGE_FLOOR` and a std of at least `STD_FLOOR`, warned about.

    q99 alone is raised: a constant still maps to -1 by quantiles, and to 0 by its z-score.
    """
    if stats.q01 is not None and stats.q99 is not None:
        tiny = (stats.q99 - stats.q01) < RANGE_FLOOR
        if _warned(tiny, where, "range q99 - q01", RANGE_FLOOR):
            stats = replace(stats, q99=np.where(tiny, stats.q01 + RANGE_FLOOR, stats.q99))
    tiny = stats.std < STD_FLOOR
    if _warned(tiny, where, "standard deviation", STD_FLOOR):
        stats = replace(stats, std=np.where(tiny, STD_FLOOR, stats.std))
    return stats


def _warned(tiny: NDArray[np.bool_], where: str, what: str, floor: float) -> bool:
    if tiny.any():
        dims = np.flatnonzero(tiny).tolist()
        logger.warning("%s: dimensions %s hardly move; their %s is raised to %.2g.", where, dims, what, floor)
    return bool(tiny.any())


def write_norm_stats(path: Path, stats: dict[str, NormStats]) -> None:
    """Write openpi's `norm_stats.json`."""
    entries: dict[str, dict[str, list[float] | None]] = {}
    for key, value in stats.items():
        vectors = {"mean": value.mean, "std": value.std, "q01": value.q01, "q99": value.q99}
        entries[key] = {name: None if vector is None else vector.tolist() for name, vector in vectors.items()}
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps({"norm_stats": entries}, indent=2) + "\n")
    temporary.replace(path)


def normalise(x: Floats, stats: NormStats, kind: str = "quantile") -> NDArray[np.float64]:
    """The last axis in the network's units, never clipped; x may have fewer dims than the statistics.

    quantile: (x - q01) / (q99 - q01 + 1e-6) * 2 - 1; z_score: (x - mean) / (std + 1e-6).
    """
    if kind == "z_score":
        mean, std = stats.mean[: x.shape[-1]], stats.std[: x.shape[-1]]
        return np.asarray((x - mean) / (std + EPSILON), dtype=np.float64)
    q01, q99 = _quantiles(stats, kind, x.shape[-1])
    return np.asarray((x - q01) / (q99 - q01 + EPSILON) * 2.0 - 1.0, dtype=np.float64)


def unnormalise(y: Floats, stats: NormStats, kind: str = "quantile") -> NDArray[np.float64]:
    """The inverse of `normalise`.

    Dimensions beyond the statistics pass unchanged by quantiles, and as if their std were 1 by z-scores (openpi pads
    the statistics there: the factor is 1 + 1e-6).
    """
    if kind == "z_score":
        beyond = max(y.shape[-1] - stats.dims, 0)
        mean = np.pad(stats.mean, (0, beyond))[: y.shape[-1]]
        std = np.pad(stats.std, (0, beyond), constant_values=1.0)[: y.shape[-1]]
        return np.asarray(y * (std + EPSILON) + mean, dtype=np.float64)
    dims = min(y.shape[-1], stats.dims)
    q01, q99 = _quantiles(stats, kind, dims)
    physical = (y[..., :dims] + 1.0) / 2.0 * (q99 - q01 + EPSILON) + q01
    return np.concatenate([physical, y[..., dims:]], axis=-1, dtype=np.float64)


def _quantiles(stats: NormStats, kind: str, dims: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    check_kind(kind)
    check_usable(stats, kind, "normalisation statistics")
    assert stats.q01 is not None
    assert stats.q99 is not None
    return stats.q01[:dims], stats.q99[:dims]


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
