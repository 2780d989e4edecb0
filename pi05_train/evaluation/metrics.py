"""Numbers on predictions: plain functions of arrays, boxes and strings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pi05_train.evaluation.tally import Tally
from pi05_train.samples.schema import Box


def masked_rmse(
    predicted: Sequence[NDArray[np.floating]],
    truth: Sequence[NDArray[np.floating]],
    masks: Sequence[NDArray[np.bool_]],
) -> float:
    """Root mean square error over every entry of every chunk [H, D] whose mask is True."""
    return squared_errors(predicted, truth, masks).value


def squared_errors(
    predicted: Sequence[NDArray[np.floating]],
    truth: Sequence[NDArray[np.floating]],
    masks: Sequence[NDArray[np.bool_]],
) -> Tally:
    """What `masked_rmse` is made of, chunk by chunk."""
    totals, counts = [], []
    for p, a, mask in zip(predicted, truth, masks, strict=True):
        assert p.shape == a.shape == mask.shape, (p.shape, a.shape, mask.shape)
        difference = (p.astype(np.float64) - a.astype(np.float64))[mask]
        totals.append(float(np.square(difference).sum()))
        counts.append(float(difference.size))
    assert sum(counts) > 0, "no valid action to compare"
    return Tally(tuple(totals), tuple(counts), root=True)


def iou(a: Box, b: Box) -> float:
    """Area of the intersection over area of the union, 0 where both are empty."""
    height = min(a.y_max, b.y_max) - max(a.y_min, b.y_min)
    width = min(a.x_max, b.x_max) - max(a.x_min, b.x_min)
    overlap = max(height, 0.0) * max(width, 0.0)
    union = _area(a) + _area(b) - overlap
    return overlap / union if union > 0 else 0.0


def best_match_iou(predicted: Sequence[Box], truth: Sequence[Box]) -> list[float]:
    """For each true box the best overlap with a predicted box of the same label, 0 where there is none."""
    return [max((iou(p, t) for p in predicted if p.label == t.label), default=0.0) for t in truth]


def aligned_accuracy(predicted: Sequence[int], truth: Sequence[int]) -> float:
    """Share of the true tokens that stand at the same place in the prediction."""
    assert truth, "an empty target has no accuracy"
    return sum(p == t for p, t in zip(predicted, truth, strict=False)) / len(truth)


def _area(box: Box) -> float:
    return max(box.y_max - box.y_min, 0.0) * max(box.x_max - box.x_min, 0.0)
