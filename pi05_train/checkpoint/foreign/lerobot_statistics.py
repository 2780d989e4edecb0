"""A source's statistics in LeRobot's formulas, and back.

LeRobot 0.4.4 (`processor/normalize_processor.py`) computes 2 (x - q01) / (q99 - q01) - 1 and its inverse, or
(x - mean) / (std + 1e-8) and y std + mean; openpi adds 1e-6 to q99 - q01 and to std, both ways. So the statistics
written here carry what LeRobot's formula lacks: q99 + 1e-6, and std + 1e-6 (in the forward direction without LeRobot's
own 1e-8). They are float32, as LeRobot reads them: its numbers are then openpi's to that precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pi05_train.errors import UserError

EPSILON, THEIR_EPSILON = 1e-6, 1e-8
MODES = {"quantile": "QUANTILES", "z_score": "MEAN_STD"}
"""Our kinds of normalisation by their names for them."""

_BOUNDS = {"QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90"), "MIN_MAX": ("min", "max")}
"""Their modes that map a lower statistic to -1 and an upper one to 1."""
_FEATURES = {"state": ("observation.state", "STATE"), "actions": ("action", "ACTION")}
"""Our vectors: their feature and its type."""

Vector = NDArray[np.float64]
Entry = Mapping[str, Sequence[float]]
"""Statistics of one vector as in openpi's `norm_stats.json`: mean, std and, where they are known, q01 and q99."""


def tensors_of(statistics: Mapping[str, Entry], *, inverse: bool) -> dict[str, Tensor]:
    """LeRobot's names and float32 arrays for its normaliser, or (`inverse`) its unnormaliser."""
    tensors: dict[str, Tensor] = {}
    for vector, entry in statistics.items():
        stats = {name: np.asarray(values, dtype=np.float64) for name, values in entry.items()}
        stats["std"] = stats["std"] + _lacking_in_std(inverse)
        if "q99" in stats:
            stats["q99"] = _distinct(stats["q01"], stats["q99"] + EPSILON)
        feature, _ = _FEATURES[vector]
        tensors |= {f"{feature}.{name}": torch.from_numpy(values.astype(np.float32)) for name, values in stats.items()}
    return tensors


def kind_of(modes: Mapping[str, str]) -> str:
    """Our kind of normalisation for their modes of "STATE" and "ACTION"."""
    return "z_score" if modes.get("STATE") == modes.get("ACTION") == MODES["z_score"] else "quantile"


def entry_of(path: Path, vector: str, modes: Mapping[str, str]) -> dict[str, list[float]]:
    """The statistics of "state" or "actions" from LeRobot's file for their direction, in openpi's formula.

    q01 and q99 are those of the mode in force. Where mean and std are not stored, they are the bounds' middle and half
    their distance, so that either formula gives the same numbers.
    """
    stored = _read(path, _FEATURES[vector][0])
    mode = modes.get(_FEATURES[vector][1], "IDENTITY")
    lacking = _lacking_in_std(inverse=vector == "actions")
    needed = _BOUNDS.get(mode, ("mean", "std") if mode == MODES["z_score"] else ())
    missing = [name for name in needed if name not in stored]
    if missing or not stored:
        raise UserError(
            f"{path}, statistics of {vector}",
            got=f"no {' and '.join(missing) or 'array'}",
            expected=f"what mode {mode} needs",
            do="save the policy's processors again with statistics",
        )
    if kind_of(modes) == "z_score":
        entry = {"mean": stored["mean"], "std": np.maximum(stored["std"] - lacking, 0.0)}
        if "q01" in stored and "q99" in stored:
            entry |= {"q01": stored["q01"], "q99": np.maximum(stored["q99"] - EPSILON, stored["q01"])}
        return _lists(entry)
    lower, upper = _bounds(stored, mode, lacking)
    mean, std = (lower + upper) / 2.0, (upper - lower) / 2.0
    if "mean" in stored and "std" in stored:
        mean, std = stored["mean"], stored["std"]
    std = np.maximum(std - lacking, 0.0)
    return _lists({"mean": mean, "std": std, "q01": lower, "q99": np.maximum(upper - EPSILON, lower)})


def _bounds(stored: Mapping[str, Vector], mode: str, lacking: float) -> tuple[Vector, Vector]:
    """What LeRobot maps to -1 and to 1."""
    if mode in _BOUNDS:
        lower, upper = _BOUNDS[mode]
        return stored[lower], stored[upper]
    if mode == MODES["z_score"]:
        half = stored["std"] + EPSILON - lacking
        return stored["mean"] - half, stored["mean"] + half
    dims = next(iter(stored.values())).shape
    return np.full(dims, -1.0), np.full(dims, 1.0)


def _lacking_in_std(inverse: bool) -> float:
    return EPSILON if inverse else EPSILON - THEIR_EPSILON


def _distinct(lower: Vector, upper: Vector) -> Vector:
    """`upper`, or the next float32 above `lower` where both would round to one: LeRobot would divide by 1e-8 there."""
    above = np.nextafter(lower.astype(np.float32), np.float32(np.inf))
    return np.maximum(upper, above.astype(np.float64))


def _read(path: Path, feature: str) -> dict[str, Vector]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            str(path), got=f"{type(error).__name__}: {error}", expected="statistics", do="fetch the folder again"
        ) from error
    names = ("mean", "std", *(name for bounds in _BOUNDS.values() for name in bounds))
    found = {name: tensors[f"{feature}.{name}"] for name in names if f"{feature}.{name}" in tensors}
    return {name: tensor.double().numpy() for name, tensor in found.items()}


def _lists(entry: Mapping[str, Vector]) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in entry.items()}
