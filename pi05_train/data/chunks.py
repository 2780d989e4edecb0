"""Action chunks of a source as FAST sees them: which rows a fit takes, which a check takes, and their numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi05_train.config.schema import Config
from pi05_train.data.index import HELDOUT, Index
from pi05_train.data.lowdim import read_blocks
from pi05_train.data.mixture import Mixture
from pi05_train.data.permutation import permute
from pi05_train.errors import UserError
from pi05_train.processing.normalisation import NormStats
from pi05_train.processing.numbers import normalised_actions
from pi05_train.samples.card import SourceCard

FIT_ROWS = 1000
"""Most rows per source that a fit takes: enough for tokenizers of a few thousand ids."""
CHECK_ROWS = 1000
"""Most rows per source that a check takes."""
ENOUGH_HELDOUT = 50
"""A source with fewer held-out rows is checked on a tenth of its training rows too, and the fit leaves them alone."""


def fit_rows(mixture: Mixture, source: str) -> NDArray[np.int64]:
    """Positions among the source's filtered rows that a fit takes, in a keyed order."""
    return _training(mixture, source, 0, _fit_size(mixture, source))


def index_rows(mixture: Mixture, source: str, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of the source's index at these positions among its filtered rows."""
    return np.array([mixture.rows[source][position] for position in positions.tolist()], np.int64)


@dataclass(frozen=True)
class CheckRows:
    """Index rows to measure a tokenizer on; no fit on the same mixture has taken them."""

    rows: NDArray[np.int64]
    heldout: int
    """Of the held-out split; they come first."""

    def __str__(self) -> str:
        named = {"held-out": self.heldout, "training": len(self.rows) - self.heldout}
        return " + ".join(f"{count} {name}" for name, count in named.items() if count)


def check_rows(mixture: Mixture, source: str) -> CheckRows:
    """Held-out rows, and training rows where those are few; UserError if the source has a single row."""
    heldout = _heldout(mixture, source)
    taken = min(CHECK_ROWS, len(heldout))
    rows = heldout[permute(np.arange(taken), len(heldout), "tokenizer check", source)] if taken else heldout
    if taken < ENOUGH_HELDOUT:
        start = _fit_size(mixture, source)
        more = _training(mixture, source, start, min(len(mixture.rows[source]), start + CHECK_ROWS - taken))
        rows = np.concatenate([rows, index_rows(mixture, source, more)])
    if not len(rows):
        raise UserError(
            f"source {source}", got="1 sample", expected="at least 2: to fit FAST on and to check it", do="add samples"
        )
    return CheckRows(rows, taken)


def _heldout(mixture: Mixture, source: str) -> NDArray[np.int64]:
    return np.flatnonzero(mixture.indexes[source].records["flags"] & HELDOUT)


def _fit_size(mixture: Mixture, source: str) -> int:
    size = len(mixture.rows[source])
    checked = mixture.cards[source].has_actions and len(_heldout(mixture, source)) < ENOUGH_HELDOUT
    left_alone = size // 10 + 1 if checked else 0
    return min(FIT_ROWS, max(1, size - left_alone))


def _training(mixture: Mixture, source: str, start: int, stop: int) -> NDArray[np.int64]:
    return permute(np.arange(start, stop), len(mixture.rows[source]), "tokenizer", source)


def read_chunks(
    index: Index, rows: NDArray[np.int64], card: SourceCard, stats: NormStats, config: Config
) -> NDArray[np.float32]:
    """The normalised chunks [N, H, D] of these index rows, in their order, as training gives them to FAST.

    Of each sample only the numbers are read. D is the model's action_dim, or the source's with
    `tokenizer.fast_native_dims`. UserError for a sample without finite actions of the card's width.
    """
    dims = card.action_dim if config.tokenizer.fast_native_dims else config.model.action_dim
    chunks = np.empty((len(rows), config.model.action_horizon, dims), np.float32)
    order = np.argsort(rows, kind="stable")
    ascending, done = rows[order], 0
    for block in read_blocks(index, ascending):
        places = order[np.searchsorted(ascending, block.rows)]
        where = f"source {card.name}, index row {block.rows[0]}"
        actions, state = block.arrays.get("actions"), block.arrays.get("state")
        read = normalised_actions(actions, state, card, stats, config.model, config.data.normalisation, where=where)
        chunks[places] = read[..., :dims]
        done += len(places)
    if done < len(rows):
        raise UserError(
            f"source {card.name}",
            got=f"{len(rows) - done} samples without numbers",
            expected=f"actions in every sample, for kind {card.kind}",
            do="convert the source again",
        )
    return chunks
