from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.evaluation.baselines import Unigram, mean_boxes, mean_chunk, most_frequent, most_frequent_target
from pi05_train.evaluation.metrics import masked_rmse
from pi05_train.samples.schema import Box

targets = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=8)


@settings(deadline=None, max_examples=50)
@given(targets, st.integers(10, 30))
def test_token_frequencies_are_a_distribution_over_the_vocabulary(rows: list[list[int]], vocabulary: int) -> None:
    unigram = Unigram(rows, vocabulary)
    assert sum(exp(-unigram.cross_entropy([token])) for token in range(vocabulary)) == pytest.approx(1)


@settings(deadline=None, max_examples=50)
@given(targets)
def test_no_other_constant_distribution_is_better_on_the_training_tokens(rows: list[list[int]]) -> None:
    flat = [token for row in rows for token in row]
    vocabulary = len(set(flat))
    unigram = Unigram([[sorted(set(flat)).index(token) for token in flat]], vocabulary)
    own = unigram.cross_entropy([sorted(set(flat)).index(token) for token in flat])
    assert own <= log(vocabulary) + 1e-9
    counts = np.unique(flat, return_counts=True)[1] / len(flat)
    assert own == pytest.approx(float(-(counts * np.log(counts)).sum()), abs=1e-9)


def test_a_token_never_seen_has_a_finite_cost() -> None:
    unigram = Unigram([[1, 1, 2]], 100)
    assert unigram.cross_entropy([1]) < unigram.cross_entropy([2]) < unigram.cross_entropy([50]) < log(1000)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_the_mean_chunk_has_the_least_squared_error_of_all_constants(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chunks = list(rng.normal(size=(6, 4, 3)).astype(np.float32))
    masks = list(rng.random((6, 4, 3)) < 0.7)
    masks[0][:] = True
    best = mean_chunk(chunks, masks)
    other = best + rng.normal(size=best.shape).astype(np.float32) / 10
    assert masked_rmse([best] * 6, chunks, masks) <= masked_rmse([other] * 6, chunks, masks)


def test_the_most_frequent_answer_and_target() -> None:
    assert most_frequent(["pick", "open", "open", "pick", "close"]) == "open"
    assert most_frequent_target([[5, 1], [5, 6, 1], [7, 6, 1]]) == [5, 6, 1]


def test_the_mean_box_of_each_label() -> None:
    boxes = [Box("cup", 0.0, 0.2, 0.4, 0.6), Box("cup", 0.2, 0.4, 0.6, 0.8), Box("plate", 0, 0, 1, 1)]
    means = mean_boxes(boxes)
    assert set(means) == {"cup", "plate"}
    assert (means["cup"].y_min, means["cup"].x_max) == pytest.approx((0.1, 0.7))
