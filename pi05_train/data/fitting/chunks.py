"""Action chunks of a source as FAST sees them: those a fit takes, and others to check it on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pi05_train.config.schema import Config
from pi05_train.data.cache import Cache
from pi05_train.data.loading.reader import Reader
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.permutation import permute
from pi05_train.data.sources.index import HELDOUT
from pi05_train.data.sources.rows import filter_rows
from pi05_train.errors import UserError
from pi05_train.processing.normalisation import NormStats
from pi05_train.processing.numbers import normalised_chunk
from pi05_train.samples.mixture_config import FilterConfig

FIT_ROWS = 1000
"""Most rows per source that a fit takes: enough for tokenizers of a few thousand ids."""
CHECK_ROWS = 1000
"""Most rows per source that a check takes."""
ENOUGH_HELDOUT = 50
"""A source with fewer held-out rows is checked on a tenth of its training rows too, and the fit leaves them alone."""


@dataclass(frozen=True)
class Division:
    """How many rows of a source are for what. The training rows to check on follow those of the fit."""

    fitted: int
    training: int
    heldout: int

    def __str__(self) -> str:
        """What is checked."""
        named = {"held-out": self.heldout, "training": self.training}
        return " + ".join(f"{count} {name}" for name, count in named.items() if count)


def divide(training: int, heldout: int) -> Division:
    """Of a source with so many training and held-out rows. A source of a single row has nothing to check."""
    if heldout >= ENOUGH_HELDOUT:
        return Division(min(FIT_ROWS, training), 0, min(CHECK_ROWS, heldout))
    fitted = min(FIT_ROWS, max(1, training - training // 10 - 1))
    return Division(fitted, min(training - fitted, CHECK_ROWS - heldout), heldout)


def fit_rows(mixture: Mixture, source: str) -> NDArray[np.int64]:
    """Positions among the source's filtered rows that a fit takes, in a keyed order."""
    size = len(mixture.rows[source])
    fitted = _division(mixture, source).fitted if mixture.cards[source].has_actions else min(FIT_ROWS, size)
    return permute(np.arange(fitted), size, "tokenizer", source)


def fit_chunks(config: Config, mixture: Mixture, source: str, stats: NormStats) -> list[NDArray[np.float32]]:
    """The normalised chunks [H, D] that a fit takes, as training gives them to FAST.

    D is the model's action_dim, or the source's with `tokenizer.fast_native_dims`.
    """
    return _read(config, mixture, source, stats, fit_rows(mixture, source).tolist())


def check_chunks(
    config: Config, mixture: Mixture, source: str, stats: NormStats
) -> tuple[list[NDArray[np.float32]], Division]:
    """Other chunks, which no fit on this mixture takes: held-out ones, and training ones where those are few.

    UserError for a source of a single row.
    """
    division, size = _division(mixture, source), len(mixture.rows[source])
    if not division.training + division.heldout:
        raise UserError(
            f"source {source}", got="1 sample", expected="at least 2: to fit FAST on and to check it", do="add samples"
        )
    after = np.arange(division.fitted, division.fitted + division.training)
    chunks = _read(config, mixture, source, stats, permute(after, size, "tokenizer", source).tolist())
    if division.heldout:
        rows = filter_rows(source, mixture.indexes[source], FilterConfig(split="heldout"), Cache(config.data.cache))
        taken = permute(np.arange(division.heldout), len(rows), "tokenizer check", source).tolist()
        chunks += _read(config, replace(mixture, rows={source: rows}), source, stats, taken)
    return chunks, division


def _division(mixture: Mixture, source: str) -> Division:
    heldout = int(np.count_nonzero(mixture.indexes[source].records["flags"] & HELDOUT))
    return divide(len(mixture.rows[source]), heldout)


def _read(
    config: Config, mixture: Mixture, source: str, stats: NormStats, rows: Iterable[int]
) -> list[NDArray[np.float32]]:
    card, model, kind = mixture.cards[source], config.model, config.data.normalisation
    dims = card.action_dim if config.tokenizer.fast_native_dims else model.action_dim
    samples = Reader(mixture).read_all(source, rows)
    return [normalised_chunk(sample, card, stats, model, kind)[0][:, :dims] for sample in samples]
