from __future__ import annotations

from typing import Any, cast

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pi05_train.model.batch import Batch
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.writing import generate_text

VOCABULARY = 12
STOP = 1


class Speller:
    """A network that writes given scripts, one per segment, then the stop id for ever."""

    def __init__(self, scripts: list[list[int]], second: int = 2) -> None:
        self.scripts, self.second, self.decoded = scripts, second, 0
        self.num_segments = len(scripts)

    def logits(self) -> Tensor:
        logits = torch.zeros(len(self.scripts), VOCABULARY)
        logits[:, self.second] = 1.0
        for segment, script in enumerate(self.scripts):
            logits[segment, script[self.decoded] if self.decoded < len(script) else STOP] = 2.0
        return logits

    def prefill(self, _: Any) -> Speller:
        return self

    def first_logits(self, _: Any) -> Tensor:
        return self.logits()

    def decode(self, _: Any, token_ids: Tensor) -> Tensor:
        assert token_ids.shape == (len(self.scripts),)
        self.decoded += 1
        return self.logits()


def write(model: Speller, **options: Any) -> list[list[int]]:
    return generate_text(cast(Pi05, model), cast(Batch, model), stop_id=STOP, **options)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(2, VOCABULARY - 1), max_size=6), min_size=1, max_size=4), st.integers(1, 8))
def test_every_segment_stops_at_its_own_stop_id_or_at_the_limit(scripts: list[list[int]], limit: int) -> None:
    model = Speller(scripts)
    assert write(model, max_tokens=limit) == [script[:limit] for script in scripts]
    assert model.decoded <= limit - 1


def test_nothing_after_the_stop_id_is_returned() -> None:
    assert write(Speller([[3, STOP, 4, 5], [6, 7, 8, 9]]), max_tokens=4) == [[3], [6, 7, 8, 9]]


def test_forbidden_ids_are_never_written() -> None:
    assert write(Speller([[5, 9, 6]], second=2), max_tokens=3, forbidden=slice(8, 11)) == [[5, 2, 6]]
