from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.evaluation.metrics import aligned_accuracy, best_match_iou, iou, masked_rmse
from pi05_train.samples.schema import Box

fraction = st.floats(0, 1)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    (y0, y1), (x0, x1) = sorted([draw(fraction), draw(fraction)]), sorted([draw(fraction), draw(fraction)])
    return Box("cup", y0, x0, y1, x1)


def pixels(box: Box, n: int = 100) -> np.ndarray:
    grid = (np.arange(n) + 0.5) / n
    rows, columns = (grid > box.y_min) & (grid < box.y_max), (grid > box.x_min) & (grid < box.x_max)
    return rows[:, None] & columns[None, :]


@settings(deadline=None, max_examples=50)
@given(boxes(), boxes())
def test_iou_is_symmetric_and_between_zero_and_one(a: Box, b: Box) -> None:
    assert iou(a, b) == iou(b, a)
    assert 0 <= iou(a, b) <= 1 + 1e-9


@settings(deadline=None, max_examples=30)
@given(st.tuples(*[st.integers(0, 20)] * 8))
def test_iou_agrees_with_counting_pixels(corners: tuple[int, ...]) -> None:
    c = [corner / 20 for corner in corners]
    a = Box("cup", min(c[0], c[1]), min(c[2], c[3]), max(c[0], c[1]), max(c[2], c[3]))
    b = Box("cup", min(c[4], c[5]), min(c[6], c[7]), max(c[4], c[5]), max(c[6], c[7]))
    union = (pixels(a) | pixels(b)).sum()
    expected = (pixels(a) & pixels(b)).sum() / union if union else 0.0
    assert iou(a, b) == pytest.approx(expected, abs=1e-9)


def test_boxes_match_by_label_and_a_missing_label_counts_as_zero() -> None:
    truth = [Box("cup", 0, 0, 0.5, 0.5), Box("plate", 0.5, 0.5, 1, 1)]
    predicted = [Box("cup", 0, 0, 0.5, 0.25), Box("cup", 0, 0, 0.5, 0.5), Box("fork", 0.5, 0.5, 1, 1)]
    assert best_match_iou(predicted, truth) == [1.0, 0.0]
    assert best_match_iou([], truth) == [0.0, 0.0]


def test_action_error_ignores_masked_entries() -> None:
    truth, predicted = np.zeros((4, 3)), np.full((4, 3), 2.0)
    predicted[:, 2] = 1e6
    mask = np.ones((4, 3), dtype=bool)
    mask[:, 2] = False
    assert masked_rmse([predicted], [truth], [mask]) == pytest.approx(2.0)


def test_action_error_weighs_every_entry_of_every_chunk_alike() -> None:
    short, long = np.array([[True], [False], [False]]), np.ones((3, 1), dtype=bool)
    error = masked_rmse([np.full((3, 1), 2.0), np.zeros((3, 1))], [np.zeros((3, 1))] * 2, [short, long])
    assert error == pytest.approx(np.sqrt(4 / 4))


def test_a_short_prediction_misses_the_tokens_it_does_not_reach() -> None:
    assert aligned_accuracy([5, 6], [5, 6, 7, 8]) == 0.5
    assert aligned_accuracy([5, 6, 7, 8, 9], [5, 6, 7, 8]) == 1.0
