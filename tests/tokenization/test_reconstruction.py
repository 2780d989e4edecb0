"""What FAST loses: never more than rounding does, counted as a person would count it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pi05_train.tokenization.fast import FastTokenizer, _coefficients, fit_fast_tokenizer
from pi05_train.tokenization.reconstruction import reconstruct
from tests.golden_numbers import complete_path

HORIZON, DIM, OWN = 12, 5, 4
"""The last dim is padding."""


def chunks(seed: int, count: int) -> NDArray[np.float32]:
    made = np.random.default_rng(seed).uniform(-1, 1, (count, HORIZON, DIM)).astype(np.float32)
    made[:, :, OWN:] = 0
    return made


@pytest.fixture(scope="module")
def fitted() -> FastTokenizer:
    return fit_fast_tokenizer(list(chunks(0, 100)), vocab_size=400)


@given(st.integers(0, 10**6), st.sampled_from([2.0, 10.0, 37.0]))
@settings(max_examples=30, deadline=None)
def test_coefficients_come_back_exactly_and_no_dim_loses_more_than_rounding(seed: int, scale: float) -> None:
    """Half a step per coefficient, and the transform is orthonormal, so half a step is the bound of every RMSE."""
    made = chunks(seed, 6)
    fast = fit_fast_tokenizer(list(made), vocab_size=300, scale=scale)
    for chunk in made:
        decoded = fast.decode(fast.encode(chunk), horizon=HORIZON, dim=DIM)
        assert decoded is not None
        np.testing.assert_array_equal(_coefficients(decoded, scale), _coefficients(chunk, scale))
    measured = reconstruct(fast, made, dims=OWN, rate_hz=10, span_D=None)
    assert measured.undecodable == 0
    assert measured.worst_rmse is not None
    assert measured.normalised is not None
    assert measured.normalised.rmse <= measured.worst_rmse <= 0.5 / scale + 1e-6


def test_numbers_are_those_of_counting_one_by_one(fitted: FastTokenizer) -> None:
    made, span, rate = chunks(1, 23), np.array([2.0, 1.0, 4.0, 0.5]), 20.0
    measured = reconstruct(fitted, made, dims=OWN, rate_hz=rate, span_D=span)
    errors: dict[int, list[float]] = {dim: [] for dim in range(OWN)}
    lengths, used = [], set()
    for chunk in made:
        ids = fitted.encode(chunk)
        lengths.append(len(ids))
        used |= set(ids)
        decoded = fitted.decode(ids, horizon=HORIZON, dim=DIM)
        assert decoded is not None
        for step in range(HORIZON):
            for dim in range(OWN):
                errors[dim].append(abs(float(decoded[step, dim]) - float(chunk[step, dim])))
    everything = sorted(error for of_dim in errors.values() for error in of_dim)
    percent = sorted(100 * error / span[dim] for dim, of_dim in errors.items() for error in of_dim)
    rmse = {dim: float(np.sqrt(np.mean(np.square(of_dim)))) for dim, of_dim in errors.items()}
    worst = max(rmse, key=lambda dim: rmse[dim])
    assert measured.normalised is not None
    assert measured.percent is not None
    assert measured.normalised.largest == pytest.approx(everything[-1])
    assert measured.normalised.p99 == pytest.approx(np.quantile(everything, 0.99))
    assert measured.normalised.rmse == pytest.approx(np.sqrt(np.mean(np.square(everything))))
    assert measured.percent.largest == pytest.approx(percent[-1])
    assert measured.percent.rmse == pytest.approx(np.sqrt(np.mean(np.square(percent))))
    assert (measured.worst_dim, measured.worst_rmse) == (worst, pytest.approx(rmse[worst]))
    assert (measured.chunks, measured.tokens_max) == (23, max(lengths))
    assert measured.tokens_mean == pytest.approx(sum(lengths) / 23)
    assert (measured.tokens_p50, measured.tokens_p99) == (np.median(lengths), np.quantile(lengths, 0.99))
    assert measured.tokens_per_second == pytest.approx(sum(lengths) / (23 * HORIZON / rate))
    assert measured.compression == pytest.approx(23 * HORIZON * OWN / sum(lengths))
    assert measured.vocabulary_used == pytest.approx(len(used) / 400)


def test_padded_dims_do_not_dilute_the_error(fitted: FastTokenizer) -> None:
    narrow, wide = (reconstruct(fitted, chunks(2, 20), dims=dims, rate_hz=1, span_D=None) for dims in (OWN, DIM))
    assert narrow.normalised is not None
    assert wide.normalised is not None
    assert narrow.normalised.rmse > wide.normalised.rmse


def test_one_dim_that_saturates_is_named(fitted: FastTokenizer) -> None:
    made = chunks(3, 20)
    made[:, :, 2] -= 100
    measured = reconstruct(fitted, made, dims=OWN, rate_hz=1, span_D=None)
    assert measured.worst_dim == 2
    assert measured.worst_rmse is not None
    assert measured.worst_rmse > 50


def test_chunks_that_do_not_decode_are_counted_and_left_out_of_the_error() -> None:
    """The published fit forgets integers that no chunk had; ours writes every integer."""
    seen = [chunk.round() for chunk in chunks(4, 50)]
    fast = fit_fast_tokenizer(seen, vocab_size=400, original=True)
    strange = chunks(5, 10) * 3
    lost = [fast.decode(fast.encode(chunk), horizon=HORIZON, dim=DIM) is None for chunk in [*seen, *strange]]
    measured = reconstruct(fast, [*seen, *strange], dims=OWN, rate_hz=1, span_D=None)
    assert 0 < measured.undecodable == sum(lost) < len(lost)
    assert measured.normalised is not None
    all_lost = [chunk for chunk, gone in zip([*seen, *strange], lost, strict=True) if gone]
    nothing_left = reconstruct(fast, all_lost, dims=OWN, rate_hz=1, span_D=np.ones(OWN))
    assert nothing_left.undecodable == nothing_left.chunks == len(all_lost)
    assert nothing_left.normalised is nothing_left.percent is nothing_left.worst_dim is nothing_left.worst_rmse is None


def test_the_published_tokenizer_loses_what_rounding_loses() -> None:
    fast = FastTokenizer.load(Path(complete_path("fast_tokenizer/universal")))
    measured = reconstruct(fast, chunks(6, 30), dims=OWN, rate_hz=1, span_D=None)
    assert measured.undecodable == 0
    assert measured.worst_rmse is not None
    assert measured.worst_rmse < 0.05
