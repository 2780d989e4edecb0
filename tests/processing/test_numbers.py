"""States and action chunks in the network's units: openpi's padding, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.model.config import ModelConfig
from pi05_train.processing.normalisation import KINDS, NormStats, floored, to_absolute, unnormalise
from pi05_train.processing.numbers import normalised_chunk, normalised_state
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Sample
from pi05_train.tokenization.state import state_bins
from tests.golden_numbers import golden
from tests.model.batches import TINY

CARD = SourceCard(
    name="arm", kind="ME", shards="arm", cameras=["base_0_rgb"], control_mode="joint", rate_hz=10, state_dim=8,
    action_dim=8,
)  # fmt: skip


def model(horizon: int, dims: int = 32) -> ModelConfig:
    return replace(TINY, action_horizon=horizon, action_dim=dims)


def test_chunks_are_padded_as_openpi_pads() -> None:
    numbers = golden("preprocessing/numerics")
    unchanged = NormStats(None, None, np.zeros(8), np.full(8, 1.0) - 1e-6)
    actions, state = numbers["delta.actions"], numbers["delta.state"]
    sample = Sample("k", "arm", "ME", {}, state=state, actions=actions)
    chunk, mask = normalised_chunk(sample, CARD, unchanged, model(len(actions)), "z_score")
    np.testing.assert_array_equal(chunk, numbers["pad32.actions"].astype(np.float32))
    assert mask[:, :8].all()
    assert not mask[:, 8:].any()
    padded = np.zeros(32)
    padded[:8] = normalised_state(sample, CARD, unchanged, "z_score")
    np.testing.assert_array_equal(padded, numbers["pad32.state"])


def test_relative_chunks_are_openpis() -> None:
    """The reference leaves the eighth dimension absolute because its mask is shorter, the seventh by its mask."""
    numbers = golden("preprocessing/numerics")
    unchanged = NormStats(None, None, np.zeros(8), np.full(8, 1.0) - 1e-6)
    card = replace(CARD, delta_mask=numbers["delta.mask"].tolist())
    sample = Sample("k", "arm", "ME", {}, state=numbers["delta.state"], actions=numbers["delta.actions"])
    chunk, _ = normalised_chunk(sample, card, unchanged, model(len(numbers["delta.actions"])), "z_score")
    np.testing.assert_array_equal(chunk[:, :8], numbers["delta.out"].astype(np.float32))


@given(
    st.sampled_from(KINDS),
    st.integers(1, 8),
    st.integers(0, 4),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 1e-9, 1e-3, 1.0, 300.0]),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_robot_s_chunk_stays_small_and_comes_back(
    kind: str, dims: int, extra: int, seed: int, spread: float, data: st.DataObject
) -> None:
    """Dimensions that never move included: their floor keeps them and their noise small."""
    rng = np.random.default_rng(seed)
    mask = data.draw(st.lists(st.booleans(), max_size=dims))
    card = replace(CARD, state_dim=dims, action_dim=dims, delta_mask=mask)
    still = rng.random(dims) < 0.4
    scale = np.where(still, spread, 1.0)
    origin = rng.normal(size=dims)
    actions, state = origin + scale * rng.uniform(-1, 1, (6, dims)), origin + scale * rng.uniform(-1, 1, dims)
    moved = np.zeros(dims, bool)
    moved[: len(mask)] = mask
    centre, width = np.where(moved, 0.0, origin), np.where(moved, 4 * scale, 2 * scale)
    stats = floored(NormStats(centre - width / 2, centre + width / 2, centre, width / 4), "arm")
    sample = Sample("k", "arm", "ME", {}, state=state, actions=actions)
    chunk, valid = normalised_chunk(sample, card, stats, model(5, dims + extra), kind)
    assert np.abs(chunk).max() <= 2.001
    assert valid[:, :dims].all()
    assert not valid[:, dims:].any()
    back = to_absolute(unnormalise(chunk[:, :dims].astype(np.float64), stats, kind), state, mask)
    np.testing.assert_allclose(back, actions[:5], atol=1e-6 * (1 + 4 * width.max()))


@pytest.mark.parametrize("kind", KINDS)
def test_states_outside_the_statistics_are_neither_clipped_nor_lost(kind: str) -> None:
    """The text says -1 below the range and 255 above; pi0's state token has the number itself."""
    stats = NormStats(np.full(8, -0.5), np.full(8, 0.5), np.zeros(8), np.full(8, 0.25))
    state = np.array([-9.0, -0.5001, -0.49, 0.0, 0.25, 0.499, 0.5001, 9.0])
    normalised = normalised_state(Sample("k", "arm", "ME", {}, state=state), CARD, stats, kind)
    np.testing.assert_allclose(unnormalise(normalised, stats, kind), state, atol=1e-12)
    assert np.abs(normalised[[0, 7]]).min() > 17
    bins = state_bins(normalised)
    assert (bins[0], bins[7]) == (-1, 255)
    if kind == "quantile":
        assert bins.tolist() == [-1, -1, 2, 127, 191, 255, 255, 255]
