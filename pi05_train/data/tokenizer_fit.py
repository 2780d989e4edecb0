"""Fit a small text tokenizer and FAST on the training rows of a mixture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pi05_train.config.build import Statistics
from pi05_train.config.schema import Config
from pi05_train.data.mixture import Mixture
from pi05_train.data.permutation import permute
from pi05_train.data.reader import Reader
from pi05_train.errors import UserError
from pi05_train.processing.numbers import normalised_chunk, normalised_state
from pi05_train.processing.sequence import prompt_text, target_text
from pi05_train.samples.schema import ACTION_KINDS, Sample
from pi05_train.tokenization.fast import fit_fast_tokenizer
from pi05_train.tokenization.text import fit_text_tokenizer
from pi05_train.tokenization.tokens import Tokens

SAMPLES_PER_SOURCE = 1000
"""Enough for tokenizers of a few thousand ids; rows are taken in a keyed order."""

Report = Callable[[int, int, str], None]


def fit_tokenizers(
    config: Config, statistics: Statistics, folder: Path, *, pieces: int, fast_size: int, report: Report
) -> Tokens:
    """Fit both on the mixture's training rows, write them into `folder/text` and `folder/fast`, and return them.

    FAST sees chunks as training will: normalised per source, relative where the card says so, padded to the model's
    action_dim unless `tokenizer.fast_native_dims` (decision 21 of the recipe). `report(done, total, what)` follows the
    reading.
    """
    mixture = Mixture.of(config)
    reader = Reader(mixture)
    corpus: list[str] = []
    chunks: list[NDArray[np.float32]] = []
    for done, (source, size) in enumerate(zip(mixture.names, mixture.sizes, strict=True)):
        report(done, len(mixture.names), source)
        rows = permute(np.arange(min(SAMPLES_PER_SOURCE, size)), size, "tokenizer", source)
        for sample in reader.read_all(source, rows.tolist()):
            corpus += _texts(sample, config, mixture, statistics)
            if sample.kind in ACTION_KINDS:
                card, stats, kind = mixture.cards[source], statistics[source]["actions"], config.data.normalisation
                chunk = normalised_chunk(sample, card, stats, config.model, kind)[0]
                chunks.append(chunk[:, : card.action_dim] if config.tokenizer.fast_native_dims else chunk)
    if not chunks:
        raise UserError(
            f"mixture {mixture.name}",
            got="no source with actions",
            expected="at least one to fit FAST on",
            do="add one",
        )
    report(len(mixture.names), len(mixture.names), "fitting")
    fast = fit_fast_tokenizer(chunks, vocab_size=fast_size)
    fast.save(folder / "fast")
    text = fit_text_tokenizer(corpus, folder / "text", pieces=pieces, fast_size=fast.vocab_size)
    return Tokens(text, fast, config.tokenizer.fast_native_dims)


def _texts(sample: Sample, config: Config, mixture: Mixture, statistics: Statistics) -> list[str]:
    templates, card = config.templates, mixture.cards[sample.source]
    stats, state = statistics.get(sample.source, {}).get("state"), None
    if stats and sample.state is not None:
        state = normalised_state(sample, card, stats, config.data.normalisation)
    prompt = prompt_text(sample, templates, state, sample.boxes)
    if sample.kind in ACTION_KINDS:
        return [prompt, templates.low_level_separator, templates.low_level_begin, templates.low_level_end]
    return [prompt, target_text(sample, templates, sample.boxes)]
