"""How recordings are kept and fed; the recording itself needs CUDA and is stood in for by running again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from pi05_train.policy import graphs
from pi05_train.policy.graphs import Recorded


@dataclass(frozen=True)
class Part:
    weights: Tensor
    times: int


@dataclass(frozen=True)
class Whole:
    x: Tensor
    parts: tuple[Part, ...]


class Again:
    """A graph that computes anew, into the tensor that recording gave."""

    def __init__(self, run: Callable[[], Tensor], result: Tensor) -> None:
        self.run, self.result = run, result

    def replay(self) -> None:
        self.result.copy_(self.run())


def combine(inputs: Whole) -> Tensor:
    """Sum of x times every part."""
    return torch.stack([inputs.x * part.weights * part.times for part in inputs.parts]).sum(0)


def whole(size: int, times: int = 2) -> Whole:
    return Whole(torch.randn(size), (Part(torch.randn(size), times), Part(torch.randn(size), 1)))


def leaves_of(inputs: Whole) -> list[Tensor]:
    return [leaf for leaf in graphs.leaves(inputs) if isinstance(leaf, Tensor)]


@pytest.fixture
def recorded_shapes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes that were recorded, in order."""
    found: list[int] = []

    def record(run: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        result = run()
        found.append(len(result))
        return Again(run, result), result

    monkeypatch.setattr(graphs, "record", record)
    return found


def test_every_call_gets_its_own_answer_and_keeps_its_own_tensors(recorded_shapes: list[int]) -> None:
    recorded = Recorded(combine)
    calls = [whole(size) for size in (3, 4, 3, 3, 4)]
    before = [[leaf.clone() for leaf in leaves_of(inputs)] for inputs in calls]
    answers = [recorded(inputs) for inputs in calls]
    for inputs, answer, kept in zip(calls, answers, before, strict=True):
        torch.testing.assert_close(answer, combine(inputs))
        assert all(torch.equal(a, b) for a, b in zip(leaves_of(inputs), kept, strict=True))
    assert recorded_shapes == [3, 4]


def test_what_is_no_tensor_makes_a_recording_of_its_own(recorded_shapes: list[int]) -> None:
    recorded = Recorded(combine)
    for times in (2, 5):
        inputs = whole(3, times)
        torch.testing.assert_close(recorded(inputs), combine(inputs))
    assert len(recorded_shapes) == 2


def test_the_latest_shapes_are_kept(recorded_shapes: list[int]) -> None:
    recorded = Recorded(combine, kept=2)
    for size in (3, 4, 3, 5, 3, 4):
        recorded(whole(size))
    assert recorded_shapes == [3, 4, 5, 4]
