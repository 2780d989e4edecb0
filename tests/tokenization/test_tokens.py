"""Text and FAST share one vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pi05_train.errors import UserError
from pi05_train.tokenization.fast import fit_fast_tokenizer
from pi05_train.tokenization.text import fit_text_tokenizer
from pi05_train.tokenization.tokens import Tokens

CHUNKS = [np.random.default_rng(seed).normal(size=(4, 2)) for seed in range(40)]


def test_actions_come_back_from_generated_ids(tmp_path: Path) -> None:
    fit_text_tokenizer(["a b c"], tmp_path / "text", pieces=400, fast_size=300)
    fit_fast_tokenizer(CHUNKS, vocab_size=300).save(tmp_path / "fast")
    tokens = Tokens.load(tmp_path / "text", tmp_path / "fast")
    ids = tokens.action_ids(CHUNKS[0])
    assert all(tokens.layout.is_fast(i) for i in ids)
    decoded = tokens.actions([*ids, *tokens.text.encode("|", eos=True)], horizon=4, dim=2)
    assert decoded is not None
    np.testing.assert_allclose(decoded, CHUNKS[0], atol=0.2)
    assert tokens.actions(tokens.text.encode("sorry"), horizon=4, dim=2) is None


def test_tokenizers_of_different_fits_are_refused(tmp_path: Path) -> None:
    fit_text_tokenizer(["a b c"], tmp_path / "text", pieces=400, fast_size=256)
    fit_fast_tokenizer(CHUNKS, vocab_size=300).save(tmp_path / "fast")
    with pytest.raises(UserError, match="fitted together"):
        Tokens.load(tmp_path / "text", tmp_path / "fast")
