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

    def __post_init__(self) -> None:
        if self.layout.fast_size != self.fast.vocab_size:
            raise UserError(
                "tokenizers",
                got=f"room for {self.layout.fast_size} FAST tokens and a FAST vocabulary of {self.fast.vocab_size}",
                expected="the same number",
                do="use the pair that was fitted together",
            )

    @classmethod
    def load(cls, text: str | Path, fast: str | Path) -> Tokens:
        """Both tokenizers by shipped name or folder."""
        return cls(TextTokenizer.load(text), FastTokenizer.load(resolve_tokenizer(fast)))

    @property
    def layout(self) -> VocabularyLayout:
        return self.text.layout

    def action_ids(self, chunk_HD: NDArray[np.floating[Any]]) -> list[int]:
        """Vocabulary ids of a normalised chunk."""
        return [self.layout.fast_id(token) for token in self.fast.encode(chunk_HD)]

    def actions(self, ids: Sequence[int], *, horizon: int, dim: int) -> NDArray[np.float64] | None:
        """The normalised chunk behind generated ids, read up to the first that is no action; None if undecodable."""
        run = takewhile(self.layout.is_fast, ids)
        return self.fast.decode([self.layout.fast_token(i) for i in run], horizon=horizon, dim=dim)
