"""A fit and a check take different rows, and chunks as training makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi05_train.config.compose import compose
from pi05_train.config.schema import Config
from pi05_train.data.chunks import CHECK_ROWS, ENOUGH_HELDOUT, FIT_ROWS, check_rows, fit_rows, index_rows, read_chunks
from pi05_train.data.index import HELDOUT, RECORD, Index, build_index
from pi05_train.data.mixture import Mixture
from pi05_train.data.reader import Reader
from pi05_train.data.statistics import write_statistics
from pi05_train.errors import UserError
from pi05_train.processing.normalisation import NormStats, read_norm_stats
from pi05_train.processing.numbers import normalised_chunk
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import FilterConfig, MixtureConfig, SourceEntry
from pi05_train.samples.shards import write_shards
from tests.synthetic import CARDS, CHUNK_STEPS, synthetic_samples

CARD = CARDS["toy_arm"]
WIDTH, HORIZON = 14, CHUNK_STEPS - 2


def config(*overrides: str) -> Config:
    made = ["experiment=demo_pretrain", f"model.action_dim={WIDTH}", f"model.action_horizon={HORIZON}"]
    return compose([*made, *overrides])


def imagined(training: int, heldout: int, card: SourceCard = CARD) -> Mixture:
    """A mixture of one source of so many samples, held-out ones in between, that nobody has written."""
    records = np.zeros(training + heldout, RECORD)
    rows = np.random.default_rng(training).permutation(training + heldout)
    records["flags"][rows[training:]] = HELDOUT
    index = Index(cast("Any", None), Path("absent"), (), cast("Any", records), "")
    passed = cast("Any", np.sort(rows[:training]))
    return Mixture("one", FilterConfig(), {card.name: card}, {card.name: index}, {card.name: passed}, cast("Any", None))


@given(st.integers(2, 4 * FIT_ROWS), st.integers(0, 2 * CHECK_ROWS))
def test_no_row_is_both_fitted_and_checked(training: int, heldout: int) -> None:
    mixture = imagined(training, heldout)
    checked = check_rows(mixture, CARD.name)
    fitted = index_rows(mixture, CARD.name, fit_rows(mixture, CARD.name))
    flags = mixture.indexes[CARD.name].records["flags"]
    assert 0 < len(fitted) <= FIT_ROWS
    assert 0 < len(checked.rows) <= CHECK_ROWS
    assert len(set(fitted)) == len(fitted)
    assert len(set(checked.rows)) == len(checked.rows)
    assert not set(fitted) & set(checked.rows)
    assert not flags[fitted].any()
    assert flags[checked.rows[: checked.heldout]].all()
    assert not flags[checked.rows[checked.heldout :]].any()
    assert checked.heldout == min(heldout, CHECK_ROWS)
    assert (checked.heldout == len(checked.rows)) == (heldout >= ENOUGH_HELDOUT)


def test_a_source_says_which_rows_it_was_checked_on() -> None:
    names = [
        str(check_rows(imagined(training, heldout), CARD.name)) for training, heldout in ((99, 60), (99, 7), (99, 0))
    ]
    assert names == ["60 held-out", "7 held-out + 10 training", "10 training"]


def test_sources_without_actions_keep_no_row_back() -> None:
    card = CARDS["toy_web"]
    assert sorted(fit_rows(imagined(99, 0, card), card.name)) == list(range(99))


def test_a_source_of_one_sample_cannot_be_checked() -> None:
    with pytest.raises(UserError, match="at least 2"):
        check_rows(imagined(1, 0), CARD.name)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mixture, dict[str, NormStats]]:
    root = tmp_path_factory.mktemp("chunks")
    write_shards(root / CARD.shards, synthetic_samples(CARD), samples_per_shard=7)
    build_index(root / CARD.shards)
    path = write_statistics(root / CARD.shards, CARD, HORIZON)
    assert path is not None
    return Mixture.open(MixtureConfig("one", {CARD.name: SourceEntry(CARD, 1.0)}), root), read_norm_stats(path)


@pytest.mark.parametrize("normalisation", ["quantile", "z_score"])
@pytest.mark.parametrize("native", [False, True])
def test_chunks_are_those_of_training(
    written: tuple[Mixture, dict[str, NormStats]], normalisation: str, native: bool
) -> None:
    mixture, statistics = written
    settings = config(f"data.normalisation={normalisation}", f"tokenizer.fast_native_dims={native}")
    positions = np.random.default_rng(0).permutation(len(mixture.rows[CARD.name]))
    rows = index_rows(mixture, CARD.name, positions)
    read = read_chunks(mixture.indexes[CARD.name], rows, CARD, statistics["actions"], settings)
    reader = Reader(mixture)
    for chunk, position in zip(read, positions.tolist(), strict=True):
        sample = reader.read(CARD.name, position)
        expected, _ = normalised_chunk(sample, CARD, statistics["actions"], settings.model, normalisation)
        np.testing.assert_array_equal(chunk, expected[:, : CARD.action_dim if native else WIDTH])


def test_what_cannot_be_a_chunk_is_refused(written: tuple[Mixture, dict[str, NormStats]], tmp_path: Path) -> None:
    mixture, statistics = written
    index, rows, stats = mixture.indexes[CARD.name], np.arange(5), statistics["actions"]
    with pytest.raises(UserError, match="at least the model's action_horizon 13"):
        read_chunks(index, rows, CARD, stats, config("model.action_horizon=13"))
    with pytest.raises(UserError, match="expected 5 finite numbers"):
        read_chunks(index, rows, replace(CARD, action_dim=5), stats, config())
    bare = [replace(sample, actions=None, action_valid=None) for sample in synthetic_samples(CARD, episodes=1)]
    write_shards(tmp_path, [replace(sample, state=None) for sample in bare])
    build_index(tmp_path)
    with pytest.raises(UserError, match="5 samples without numbers"):
        read_chunks(Index.open(tmp_path), rows, CARD, stats, config())
