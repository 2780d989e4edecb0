"""A fit and a check take different rows of a source, and chunks as training makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi05_train.config.compose import compose
from pi05_train.config.schema import Config
from pi05_train.data.fitting.chunks import (
    CHECK_ROWS,
    ENOUGH_HELDOUT,
    FIT_ROWS,
    check_chunks,
    divide,
    fit_chunks,
    fit_rows,
)
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.sources.index import build_index
from pi05_train.data.sources.statistics import write_statistics
from pi05_train.errors import UserError
from pi05_train.processing.normalisation import NormStats, read_norm_stats
from pi05_train.processing.numbers import normalised_chunk
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import write_shards
from tests.synthetic import CARDS, CHUNK_STEPS, synthetic_samples

CARD = CARDS["toy_arm"]
WIDTH, HORIZON = 14, CHUNK_STEPS - 2


@given(st.integers(1, 4 * FIT_ROWS), st.integers(0, 2 * CHECK_ROWS))
def test_rows_are_fitted_or_checked_never_both(training: int, heldout: int) -> None:
    division = divide(training, heldout)
    assert 0 < division.fitted <= FIT_ROWS
    assert division.fitted + division.training <= training
    assert division.heldout == min(heldout, CHECK_ROWS)
    assert division.training + division.heldout <= CHECK_ROWS
    assert division.training + division.heldout > 0 or (training, heldout) == (1, 0)
    assert (division.training == 0) == (heldout >= ENOUGH_HELDOUT or training == 1)


def test_what_a_source_was_checked_on_is_said() -> None:
    names = [str(divide(99, heldout)) for heldout in (60, 7, 0)]
    assert names == ["60 held-out", "7 held-out + 10 training", "10 training"]


def config(*overrides: str) -> Config:
    made = ["experiment=demo_pretrain", f"model.action_dim={WIDTH}", f"model.action_horizon={HORIZON}"]
    return compose([*made, *overrides])


def opened(root: Path, samples: list[Sample], card: SourceCard = CARD) -> Mixture:
    """A mixture of one source with these samples."""
    write_shards(root / card.shards, samples, samples_per_shard=7)
    build_index(root / card.shards)
    return Mixture.open(MixtureConfig("one", {card.name: SourceEntry(card, 1.0)}), root)


def statistics(root: Path) -> NormStats:
    path = write_statistics(root / CARD.shards, CARD, HORIZON)
    assert path is not None
    return read_norm_stats(path)["actions"]


@pytest.mark.parametrize("heldout", [True, False])
@pytest.mark.parametrize("overrides", [(), ("data.normalisation=z_score", "tokenizer.fast_native_dims=true")])
def test_each_chunk_is_that_of_one_sample_in_training(
    tmp_path: Path, heldout: bool, overrides: tuple[str, ...]
) -> None:
    samples = synthetic_samples(CARD)
    if not heldout:
        samples = [replace(sample, split="train") for sample in samples]
    mixture, settings = opened(tmp_path, samples), config(*overrides)
    stats = statistics(tmp_path)
    sample_of = {}
    for sample in samples:
        chunk, _ = normalised_chunk(sample, CARD, stats, settings.model, settings.data.normalisation)
        sample_of[chunk[:, : CARD.action_dim if settings.tokenizer.fast_native_dims else WIDTH].tobytes()] = sample
    assert len(sample_of) == len(samples)
    checked, division = check_chunks(settings, mixture, CARD.name, stats)
    fitted = [sample_of[chunk.tobytes()] for chunk in fit_chunks(settings, mixture, CARD.name, stats)]
    checks = [sample_of[chunk.tobytes()] for chunk in checked]
    splits = [sample.split for sample in checks]
    keys = [sample.key for sample in [*fitted, *checks]]
    assert len(set(keys)) == len(keys) == len(samples)
    assert {sample.split for sample in fitted} == {"train"}
    assert (splits.count("heldout"), splits.count("train")) == (division.heldout, division.training)
    assert division == divide(*((30, 10) if heldout else (40, 0)))


def test_sources_without_actions_keep_no_row_back(tmp_path: Path) -> None:
    card = CARDS["toy_web"]
    assert sorted(fit_rows(opened(tmp_path, synthetic_samples(card), card), card.name)) == list(range(30))


def test_a_source_of_one_sample_cannot_be_checked(tmp_path: Path) -> None:
    samples = synthetic_samples(CARD, episodes=2)
    stats = statistics(opened(tmp_path / "many", samples).indexes[CARD.name].folder.parent)
    with pytest.raises(UserError, match="at least 2"):
        check_chunks(config(), opened(tmp_path / "one", samples[:1]), CARD.name, stats)
