"""The best answers that ignore the input, fitted on training samples of one source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from pi05_train.evaluation.answers import Truth
from pi05_train.samples.schema import Box


class Unigram:
    """Token frequencies of training targets, as a distribution over the whole vocabulary.

    Witten-Bell smoothing: T kinds of token seen N times in all leave T / (N + T) for tokens never seen, in equal parts.
    """

    def __init__(self, targets: Iterable[Sequence[int]], vocab_size: int) -> None:
        counts = Counter(token for target in targets for token in target)
        assert counts, "a source without targets has no token frequencies"
        kinds, total = len(counts), sum(counts.values())
        unseen = vocab_size - kinds
        scale = total + (kinds if unseen else 0)
        self._cost = {token: -log(count / scale) for token, count in counts.items()}
        self._unseen_cost = -log(kinds / (scale * unseen)) if unseen else 0.0

    def cross_entropy(self, target: Sequence[int]) -> float:
        """Nats per token of one target."""
        return sum(self._cost.get(token, self._unseen_cost) for token in target) / len(target)


def most_frequent(answers: Iterable[str]) -> str:
    """The answer given most often; the alphabetically first among equals."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def most_frequent_target(targets: Iterable[Sequence[int]]) -> list[int]:
    """The token at each place that stands there most often, as far as half of the targets reach."""
    rows = [list(target) for target in targets]
    length = int(np.median([len(row) for row in rows]))
    columns = [Counter(row[place] for row in rows if len(row) > place) for place in range(length)]
    return [min(column, key=lambda token: (-column[token], token)) for column in columns]


def mean_boxes(boxes: Iterable[Box]) -> dict[str, Box]:
    """The mean box of every label."""
    by_label: dict[str, list[Box]] = {}
    for box in boxes:
        by_label.setdefault(box.label, []).append(box)
    return {label: _mean_box(label, group) for label, group in by_label.items()}


def _mean_box(label: str, boxes: Sequence[Box]) -> Box:
    y_min, x_min, y_max, x_max = np.mean([(b.y_min, b.x_min, b.y_max, b.x_max) for b in boxes], axis=0).tolist()
    return Box(label, y_min, x_min, y_max, x_max)


def mean_chunk(chunks: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float32]:
    """Mean over the valid entries [H, D]: the constant with the least squared error; 0 where nothing is valid."""
    count = np.sum(masks, axis=0)
    total = np.sum([np.where(mask, chunk, 0.0) for chunk, mask in zip(chunks, masks, strict=True)], axis=0)
    return np.asarray(total / np.maximum(count, 1), dtype=np.float32)


@dataclass(frozen=True)
class ConstantPredictor:
    """What to answer for a source without looking."""

    unigram: Unigram | None
    """None where nothing is to be said."""
    target: list[int]
    """For token accuracy."""
    answer: str
    """The most frequent subtask or answer; "" for sources with actions."""
    boxes: dict[str, Box]
    """By label."""
    chunk_HD: NDArray[np.float32] | None
    """Normalised actions; None for text sources."""


def fit_constant(training: Truth, vocab_size: int) -> ConstantPredictor:
    """The constant predictor of one source's training samples."""
    targets = [example.target_ids for example in training.examples]
    return ConstantPredictor(
        unigram=Unigram(targets, vocab_size) if training.has_targets else None,
        target=most_frequent_target(targets),
        answer="" if training.has_actions else most_frequent(training.answers),
        boxes=mean_boxes(box for boxes in training.boxes for box in boxes),
        chunk_HD=mean_chunk(training.chunks, training.masks) if training.has_actions else None,
    )
