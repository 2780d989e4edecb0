"""The two tokenizers of a run, which must agree on the ids of action tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.tokenization.fast import FastTokenizer
from pi05_train.tokenization.manifest import resolve_tokenizer
from pi05_train.tokenization.text import TextTokenizer
from pi05_train.tokenization.vocabulary import VocabularyLayout


@dataclass(frozen=True)
class Tokens:
    """Text and FAST tokenizer over one vocabulary."""

    text: TextTokenizer
    fast: FastTokenizer
    native_dims: bool = False
    """FAST sees a source's own action dims instead of the model's padded ones (decision 21; pi0-FAST's weights)."""

    def __post_init__(self) -> None:
        if self.layout.fast_size != self.fast.vocab_size:
            raise UserError(
                "tokenizers",
                got=f"room for {self.layout.fast_size} FAST tokens and a FAST vocabulary of {self.fast.vocab_size}",
                expected="the same number",
                do="use the pair that was fitted together",
            )

    @classmethod
    def load(cls, text: str | Path, fast: str | Path, *, native_dims: bool = False) -> Tokens:
        """Both tokenizers by shipped name or folder."""
        return cls(TextTokenizer.load(text), FastTokenizer.load(resolve_tokenizer(fast)), native_dims)

    @property
    def layout(self) -> VocabularyLayout:
        return self.text.layout

    def action_ids(self, chunk_HD: NDArray[np.floating[Any]], *, native_dim: int | None = None) -> list[int]:
        """Vocabulary ids of a normalised chunk, whose first `native_dim` dims are the source's own."""
        seen = chunk_HD[:, : self._seen(chunk_HD.shape[1], native_dim)]
        return [self.layout.fast_id(token) for token in self.fast.encode(seen)]

    def actions(
        self, ids: Sequence[int], *, horizon: int, dim: int, native_dim: int | None = None
    ) -> NDArray[np.float64] | None:
        """The normalised chunk [horizon, dim] behind generated ids, read up to the first that is no action.

        None if undecodable. Dims that FAST did not see are zero.
        """
        run = takewhile(self.layout.is_fast, ids)
        seen = self._seen(dim, native_dim)
        decoded = self.fast.decode([self.layout.fast_token(i) for i in run], horizon=horizon, dim=seen)
        return None if decoded is None else np.pad(decoded, ((0, 0), (0, dim - seen)))

    def _seen(self, dim: int, native_dim: int | None) -> int:
        """How many of `dim` dims FAST sees."""
        if not self.native_dims:
            return dim
        assert native_dim is not None, "FAST on native dims needs the source's"
        return native_dim
