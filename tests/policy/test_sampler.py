from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pi05_train.model.batch import Batch
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.sampler import denoise, generate_text, sample_actions

VOCABULARY = 12
STOP = 1


@dataclass
class StraightFlow:
    """A network whose flow is known: every x_t is carried on a straight line to `data`."""

    data: Tensor
    prefills: int = 0
    times: list[float] = field(default_factory=list)

    def prefill(self, _: Batch) -> str:
        self.prefills += 1
        return "cache"

    def velocity(self, cache: str, x: Tensor, time: Tensor) -> Tensor:
        assert cache == "cache"
        assert time.shape == (len(x),)
        self.times.append(time[0].item())
        return (x - self.data) / time[:, None, None]


@settings(deadline=None, max_examples=25)
@given(steps=st.integers(1, 40), seed=st.integers(0, 1000))
def test_straight_flow_lands_on_the_data_whatever_the_number_of_steps(steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = StraightFlow(torch.randn(3, 5, 2, generator=generator))
    noise = torch.randn(3, 5, 2, generator=generator)
    actions = sample_actions(cast(Pi05, model), cast(Batch, None), noise, steps=steps)
    torch.testing.assert_close(actions, model.data, atol=2e-5, rtol=1e-4)
    assert model.prefills == 1
    assert len(model.times) == steps


def test_ten_steps_visit_the_times_of_the_reference_sampler() -> None:
    model = StraightFlow(torch.zeros(1, 2, 2))
    sample_actions(cast(Pi05, model), cast(Batch, None), torch.ones(1, 2, 2), steps=10)
    assert model.times == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], abs=1e-6)


def test_the_path_starts_at_the_noise_and_is_a_straight_line() -> None:
    model = StraightFlow(torch.full((1, 2, 2), 3.0))
    noise = torch.ones(1, 2, 2)
    for t, x in denoise(cast(Pi05, model), cast(Any, "cache"), noise, steps=4):
        torch.testing.assert_close(x, t * noise + (1 - t) * model.data, atol=1e-5, rtol=1e-5)


def test_padded_dims_stay_zero_as_in_training() -> None:
    model = StraightFlow(torch.full((2, 3, 4), 5.0))
    noise = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[True, True, False, False], [True, True, True, True]])
    for t, x in denoise(cast(Pi05, model), cast(Any, "cache"), noise, steps=5, dims_BD=real):
        expected = (t * noise + (1 - t) * model.data) * real[:, None]
        torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-5)


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

    def __getattr__(self, name: str) -> Tensor:
        assert name == "last_logits_BV"
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
