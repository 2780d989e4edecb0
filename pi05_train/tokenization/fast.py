"""FAST: an action chunk as a short token sequence (arXiv 2501.09747; files of `physical-intelligence/fast`).

Normalised chunk [H, D] -> orthonormal DCT-II along time -> round(scale * C) -> flat, all dims of the lowest
frequency first -> minus `min_token`, one character per integer -> byte-level BPE. Tokens carry no shape: decoding
needs H and D.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, idct
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pi05_train.errors import UserError
from pi05_train.tokenization.manifest import MANIFEST, read_manifest, write_tokenizer

TOKENIZER_FILE = "tokenizer.json"
PUBLISHED_SETTINGS = "processor_config.json"
LAST_CHARACTER = 0xD7FF
"""Integers are written as characters, and the surrogates above this one have no UTF-8."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
BYTES = 256

Chunk = NDArray[np.floating[Any]]


class FastTokenizer:
    """The codec; `encode` and `decode` work on plain FAST tokens 0..vocab_size - 1."""

    def __init__(self, bpe: Tokenizer, *, vocab_size: int, scale: float, min_token: int, source: str) -> None:
        self._bpe = bpe
        self.vocab_size = vocab_size
        self.scale = scale
        self.min_token = min_token
        self.source = source

    @classmethod
    def load(cls, folder: Path) -> FastTokenizer:
        """From a folder with a fast manifest, or with the published `tokenizer.json` and `processor_config.json`."""
        if (folder / MANIFEST).is_file() or not (folder / PUBLISHED_SETTINGS).is_file():
            manifest = read_manifest(folder, "fast")
            path, source = manifest.file(TOKENIZER_FILE), manifest.source
            settings = {name: manifest.setting(name) for name in ("vocab_size", "scale", "min_token")}
        else:
            path, source = folder / TOKENIZER_FILE, "published files"
            settings = json.loads((folder / PUBLISHED_SETTINGS).read_text())
        bpe = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        vocab_size = int(settings["vocab_size"])
        if bpe.get_vocab_size() > vocab_size:
            raise UserError(
                f"FAST tokenizer {folder}",
                got=f"{bpe.get_vocab_size()} pieces",
                expected=f"at most vocab_size {vocab_size}",
                do="correct vocab_size",
            )
        scale, min_token = float(settings["scale"]), int(settings["min_token"])
        return cls(bpe, vocab_size=vocab_size, scale=scale, min_token=min_token, source=source)

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and the manifest."""
        settings: dict[str, int | float] = {"vocab_size": self.vocab_size, "scale": self.scale}
        settings["min_token"] = self.min_token
        write_tokenizer(folder, "fast", TOKENIZER_FILE, self._bpe.to_str().encode(), settings, self.source)

    def encode(self, chunk_HD: Chunk) -> list[int]:
        """FAST tokens of a normalised chunk. Coefficients below `min_token` saturate."""
        text = _as_text(_coefficients(chunk_HD, self.scale), self.min_token)
        return list(self._bpe.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], *, horizon: int, dim: int) -> NDArray[np.float64] | None:
        """The normalised chunk [horizon, dim], or None where the tokens do not make exactly that many numbers."""
        if not all(0 <= token < self.vocab_size for token in ids):
            return None
        text = self._bpe.decode(list(ids), skip_special_tokens=False)
        if len(text) != horizon * dim or REPLACEMENT in text:
            return None
        quantised = np.array([ord(character) for character in text]) + self.min_token
        chunk: NDArray[np.float64] = idct(quantised.reshape(horizon, dim) / self.scale, axis=0, norm="ortho")
        return chunk


def fit_fast_tokenizer(
    chunks: Sequence[Chunk], *, vocab_size: int, scale: float = 10, original: bool = False
) -> FastTokenizer:
    """Fit the BPE on normalised chunks [H, D] (paper: 1024 tokens for one dataset, 2048 for all).

    The alphabet is all 256 bytes, so that every integer can be written, also those no chunk had. `min_token` lies a
    quarter of the seen range lower than any seen coefficient, because lower ones saturate. With `original` the fit is
    that of the published code, token for token: nothing lies below the lowest seen coefficient, and integers that no
    chunk had may vanish from what is encoded.
    """
    if not chunks:
        raise UserError("FAST tokenizer", got="no chunk", expected="at least one", do="name sources with actions")
    coefficients = [_coefficients(chunk, scale) for chunk in chunks]
    low = min(int(c.min()) for c in coefficients)
    high = max(int(c.max()) for c in coefficients)
    least = high - low if original else BYTES
    if vocab_size < least:
        raise UserError("FAST tokenizer, vocab_size", got=vocab_size, expected=f"at least {least}", do="ask for more")
    min_token = low if original else low - (high - low) // 4 - 1
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=[chr(i) for i in range(high - low + 1)] if original else pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=10000,
    )
    bpe.train_from_iterator((_as_text(c, min_token) for c in coefficients), trainer=trainer, length=len(coefficients))
    source = f"FAST fitted on {len(chunks)} chunks by pi05 tokenizer fit"
    return FastTokenizer(bpe, vocab_size=vocab_size, scale=scale, min_token=min_token, source=source)


def _coefficients(chunk_HD: Chunk, scale: float) -> NDArray[np.int64]:
    """Quantised DCT coefficients, flat, all dims of frequency 0 first."""
    if chunk_HD.ndim != 2 or not chunk_HD.size or not np.isfinite(chunk_HD).all():
        raise UserError(
            "FAST, action chunk",
            got=f"shape {chunk_HD.shape}, {int(np.sum(~np.isfinite(chunk_HD)))} NaN or infinite numbers",
            expected="finite numbers [horizon, dims]",
            do="check the source's actions and statistics",
        )
    rounded = np.around(dct(chunk_HD, axis=0, norm="ortho") * scale)
    return np.asarray(rounded, dtype=np.int64).flatten()


def _as_text(coefficients: NDArray[np.int64], min_token: int) -> str:
    return np.clip(coefficients - min_token, 0, LAST_CHARACTER).astype("<u4").tobytes().decode("utf-32-le")
