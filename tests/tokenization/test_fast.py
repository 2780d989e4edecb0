"""FAST: bit for bit the published codec, and a fit of our own that loses little."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.tokenization.fast import FastTokenizer, _coefficients, fit_fast_tokenizer
from tests.golden_numbers import Arrays, complete_path, golden, golden_json

HORIZON, DIM = 20, 6
CASES = ("t10d7_0", "t50d14_0", "t16d8_0", "t32d32pad_0", "t1d1_0", "zeros_t10d7", "const_t10d7", "outlier_t10d7")
SCALE, MIN_TOKEN = 10, -354
"""The published tokenizer's."""


def smooth_chunk(seed: int, horizon: int = HORIZON, dim: int = DIM) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, horizon)[:, None]
    waves = [rng.normal(size=dim) / (k + 1) * np.cos(np.pi * k * time + rng.normal(size=dim)) for k in range(4)]
    return np.clip(sum(waves) / 2, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> FastTokenizer:
    return fit_fast_tokenizer([smooth_chunk(seed) for seed in range(300)], vocab_size=512)


@pytest.fixture
def chunks() -> Arrays:
    return golden("fast_tokenizer/fast_chunks")


@pytest.mark.parametrize("name", CASES)
def test_coefficients_are_the_published_ones(chunks: Arrays, name: str) -> None:
    """Everything but the BPE, whose file is not part of the repository."""
    chunk, coefficients = chunks[f"{name}.chunk"], chunks[f"{name}.dct_coeff"]
    np.testing.assert_array_equal(_coefficients(chunk, SCALE).reshape(chunk.shape), coefficients)


@pytest.fixture(params=["published files", "shipped manifest"])
def published(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FastTokenizer:
    folder = complete_path("fast_tokenizer/universal")
    if request.param == "published files":
        return FastTokenizer.load(folder)
    monkeypatch.setenv("PI05_FAST_TOKENIZER", str(folder))
    return FastTokenizer.load(Path(__file__).resolve().parents[2] / "tokenizers" / "fast_universal")


@pytest.mark.parametrize("name", CASES)
def test_published_tokens_and_chunks_are_reproduced(published: FastTokenizer, chunks: Arrays, name: str) -> None:
    entry = golden_json("fast_tokenizer/fast_tokens")["chunks"][name]
    chunk = chunks[f"{name}.chunk"]
    assert (published.vocab_size, published.scale, published.min_token) == (2048, SCALE, MIN_TOKEN)
    assert published.encode(chunk) == entry["ids"]
    horizon, dim = chunk.shape
    decoded = published.decode(entry["ids"], horizon=horizon, dim=dim)
    assert decoded is not None
    np.testing.assert_array_equal(decoded, chunks[f"{name}.decoded"])
    assert np.abs(decoded - chunk).max() == pytest.approx(entry["max_abs_err"], rel=1e-6)
    for wrong in (entry["ids"][:-1], [*entry["ids"], *entry["ids"]]):
        assert published.decode(wrong, horizon=horizon, dim=dim) is None, "the original returns zero coefficients"


def test_coefficients_below_the_lowest_integer_saturate(published: FastTokenizer, chunks: Arrays) -> None:
    chunk, coefficients = chunks["outlier_t10d7.chunk"], chunks["outlier_t10d7.dct_coeff"]
    decoded = published.decode(published.encode(chunk), horizon=10, dim=7)
    assert decoded is not None
    assert coefficients.min() < MIN_TOKEN
    np.testing.assert_array_equal(_coefficients(decoded, SCALE).reshape(10, 7), np.maximum(coefficients, MIN_TOKEN))


def test_spaces_among_coefficients_survive(published: FastTokenizer) -> None:
    """transformers 4.53 deletes coefficient -322, a space, before some others; we follow 5.23."""
    demo = golden_json("fast_tokenizer/fast_tokens")["cleanup_demo"]
    kept = published.decode(demo["ids"], horizon=1, dim=len(demo["coeffs"]))
    assert kept is not None
    np.testing.assert_allclose(kept[0] * SCALE, demo["decoded_cleanup_false"])


def test_the_original_fit_is_reproduced_token_for_token() -> None:
    expected = golden_json("fast_tokenizer/fit")
    rng = np.random.default_rng(11)
    made = [(np.cumsum(rng.integers(-3, 4, (15, 4)), axis=0) / 17).astype(np.float32) for _ in range(90)]
    fast = fit_fast_tokenizer(made[:80], vocab_size=expected["vocab_size"], scale=expected["scale"], original=True)
    assert fast.min_token == expected["min_token"]
    merges = json.loads(fast._bpe.to_str())["model"]["merges"]
    assert hashlib.sha256(json.dumps(merges).encode()).hexdigest() == expected["merges_sha256"]
    assert [fast.encode(chunk) for chunk in made[80:]] == expected["ids"]
    for chunk, ids in zip(made[80:], expected["ids"], strict=True):
        decoded = fast.decode(ids, horizon=15, dim=4)
        assert decoded is None or np.abs(decoded - chunk).max() < 0.3


def test_the_original_fit_refuses_a_range_wider_than_its_vocabulary() -> None:
    with pytest.raises(UserError, match="vocab_size: got 20, expected at least"):
        fit_fast_tokenizer([smooth_chunk(1) * 9], vocab_size=20, original=True)


@given(st.integers(1000, 100_000))
@settings(max_examples=40, deadline=None)
def test_unseen_smooth_chunks_lose_less_than_two_percent(fitted: FastTokenizer, seed: int) -> None:
    chunk = smooth_chunk(seed)
    decoded = fitted.decode(fitted.encode(chunk), horizon=HORIZON, dim=DIM)
    assert decoded is not None
    assert np.sqrt(np.mean((decoded - chunk) ** 2)) < 0.02 * 2
    assert np.abs(decoded - chunk).max() < 0.2


def test_the_fit_shortens_chunks(fitted: FastTokenizer) -> None:
    lengths = [len(fitted.encode(smooth_chunk(seed))) for seed in range(1000, 1050)]
    assert np.mean(lengths) < 0.5 * HORIZON * DIM
    assert max(max(fitted.encode(smooth_chunk(seed))) for seed in range(1000, 1050)) < fitted.vocab_size


@given(st.floats(1, 1000), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_numbers_above_all_seen_are_still_written(fitted: FastTokenizer, factor: float, seed: int) -> None:
    chunk = np.abs(np.random.default_rng(seed).normal(size=(1, 3))) * factor
    decoded = fitted.decode(fitted.encode(chunk), horizon=1, dim=3)
    assert decoded is not None
    np.testing.assert_allclose(decoded, chunk, atol=0.5 / fitted.scale + 1e-9)


def test_same_chunks_same_tokenizer(fitted: FastTokenizer, tmp_path: Path) -> None:
    again = fit_fast_tokenizer([smooth_chunk(seed) for seed in range(300)], vocab_size=512)
    fitted.save(tmp_path / "a")
    again.save(tmp_path / "b")
    for name in ("tokenizer.json", "manifest.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_saved_and_pickled_tokenizers_are_the_same(fitted: FastTokenizer, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    for copy in (FastTokenizer.load(tmp_path), pickle.loads(pickle.dumps(fitted))):
        assert (copy.vocab_size, copy.scale, copy.min_token) == (512, 10, fitted.min_token)
        assert copy.encode(smooth_chunk(7)) == fitted.encode(smooth_chunk(7))


@given(st.lists(st.integers(-3, 600), max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_generated_tokens_give_a_chunk_or_none(fitted: FastTokenizer, ids: list[int]) -> None:
    decoded = fitted.decode(ids, horizon=2, dim=3)
    assert decoded is None or (decoded.shape == (2, 3) and np.isfinite(decoded).all())


def test_cut_tokens_are_undecodable(fitted: FastTokenizer) -> None:
    ids = fitted.encode(smooth_chunk(3))
    assert fitted.decode(ids[:-1], horizon=HORIZON, dim=DIM) is None
    assert fitted.decode(ids, horizon=HORIZON, dim=DIM + 1) is None
    assert fitted.decode([*ids[:-1], 512], horizon=HORIZON, dim=DIM) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused(fitted: FastTokenizer, bad: float) -> None:
    chunk = smooth_chunk(1)
    chunk[2, 3] = bad
    with pytest.raises(UserError, match="1 NaN or infinite"):
        fitted.encode(chunk)


def test_impossible_fits_are_refused() -> None:
    with pytest.raises(UserError, match="at least 256"):
        fit_fast_tokenizer([smooth_chunk(1)], vocab_size=100)
    with pytest.raises(UserError, match="no chunk"):
        fit_fast_tokenizer([], vocab_size=300)
