"""FAST: bit for bit the published codec, and a fit of our own that loses little."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.tokenization.fast import FastTokenizer, fit_fast_tokenizer

SHARED = Path(os.environ.get("PI05_SHARED", Path(__file__).resolve().parents[2] / ".." / "shared"))
GOLDEN = SHARED / "golden" / "fast_tokenizer"
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="reference numbers are not present")
HORIZON, DIM = 20, 6


def smooth_chunk(seed: int, horizon: int = HORIZON, dim: int = DIM) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, horizon)[:, None]
    waves = [rng.normal(size=dim) / (k + 1) * np.cos(np.pi * k * time + rng.normal(size=dim)) for k in range(4)]
    return np.clip(sum(waves) / 2, -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> FastTokenizer:
    return fit_fast_tokenizer([smooth_chunk(seed) for seed in range(300)], vocab_size=512)


@golden
@pytest.mark.parametrize("folder", ["universal", "shipped manifest"])
def test_published_tokens_and_chunks_are_reproduced(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if folder == "universal":
        fast = FastTokenizer.load(GOLDEN / "universal")
    else:
        monkeypatch.setenv("PI05_FAST_TOKENIZER", str(GOLDEN / "universal"))
        fast = FastTokenizer.load(Path(__file__).resolve().parents[2] / "tokenizers" / "fast_universal")
    chunks = np.load(GOLDEN / "fast_chunks.npz")
    expected = json.loads((GOLDEN / "fast_tokens.json").read_text())
    assert fast.vocab_size == 2048
    for name, entry in expected["chunks"].items():
        assert fast.encode(chunks[f"{name}.chunk"]) == entry["ids"], name
        horizon, dim = entry["shape"]
        decoded = fast.decode(entry["ids"], horizon=horizon, dim=dim)
        assert decoded is not None
        np.testing.assert_array_equal(decoded, chunks[f"{name}.decoded"].reshape(horizon, dim))
    demo = expected["cleanup_demo"]
    kept = fast.decode(demo["ids"], horizon=1, dim=len(demo["coeffs"]))
    assert kept is not None
    np.testing.assert_allclose(kept[0] * fast.scale, demo["decoded_cleanup_false"])


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
