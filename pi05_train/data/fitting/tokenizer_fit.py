"""Fit FAST, and a small text tokenizer beside it, on the training rows of a mixture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pi05_train.config.build import Statistics
from pi05_train.config.schema import Config
from pi05_train.data.fitting.chunks import fit_chunks, fit_rows
from pi05_train.data.fitting.fast_report import MAX_ERROR, Measured, check_positive, refuse_complaints, write_report
from pi05_train.data.fitting.tokenizer_check import action_sources, measure_sources
from pi05_train.data.loading.reader import Reader
from pi05_train.data.order.mixture import Mixture
from pi05_train.processing.numbers import normalised_state
from pi05_train.processing.sequence import prompt_text, target_text
from pi05_train.samples.schema import ACTION_KINDS, Sample
from pi05_train.tokenization.fast import FastTokenizer, fit_fast_tokenizer
from pi05_train.tokenization.text import fit_text_tokenizer
from pi05_train.tokenization.tokens import Tokens

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class FastOptions:
    """How FAST is fitted."""

    vocab_size: int
    scale: float = 10
    """Steps per unit of a DCT coefficient; finer steps lose less and cost more tokens (paper: 10)."""
    source: str | None = None
    """The source to fit it on alone; None: all sources with actions, equally many chunks of each."""
    max_error: float = MAX_ERROR
    """Largest RMSE of any dim that is accepted, in the network's units."""

    def __post_init__(self) -> None:
        check_positive("--scale", self.scale)
        check_positive("--max-error", self.max_error)


def fit_tokenizers(
    config: Config, statistics: Statistics, folder: Path, options: FastOptions, *, pieces: int, report: Report
) -> tuple[Tokens, dict[str, Measured]]:
    """Fit both into `folder/text` and `folder/fast`; the tokenizers, and what FAST was measured to lose.

    Text is fitted on every source. A FAST that loses too much is refused (UserError) before anything is written.
    `report(done, total, what)` follows the reading.
    """
    mixture = Mixture.of(config)
    fast, measured = fit_fast(config, statistics, mixture, options)
    reader = Reader(mixture)
    corpus: list[str] = []
    for done, source in enumerate(mixture.names):
        report(done, len(mixture.names), source)
        for sample in reader.read_all(source, fit_rows(mixture, source).tolist()):
            corpus += _texts(sample, config, mixture, statistics)
    report(len(mixture.names), len(mixture.names), "fitting")
    text = fit_text_tokenizer(corpus, folder / "text", pieces=pieces, fast_size=fast.vocab_size)
    fast.save(folder / "fast")
    write_report(folder / "fast", measured)
    return Tokens(text, fast, config.tokenizer.fast_native_dims), measured


def fit_fast(
    config: Config, statistics: Statistics, mixture: Mixture, options: FastOptions
) -> tuple[FastTokenizer, dict[str, Measured]]:
    """FAST fitted on chunks as training will give them to it, and what it was measured to lose on others.

    They are normalised per source, relative where the card says so, padded to the model's action_dim unless
    `tokenizer.fast_native_dims` (decision 21 of the recipe). Refuses (UserError) what loses too much.
    """
    names = action_sources(mixture, options.source)
    chunks = [chunk for name in names for chunk in fit_chunks(config, mixture, name, statistics[name]["actions"])]
    fast = fit_fast_tokenizer(chunks, vocab_size=options.vocab_size, scale=options.scale)
    measured = measure_sources(config, statistics, mixture, fast, names, max_error=options.max_error)
    refuse_complaints(
        f"FAST fitted at scale {options.scale:g}, chunks encoded and decoded",
        measured,
        do="raise --scale, look for outliers with `pi05 data stats`, or accept more with --max-error",
    )
    return fast, measured


def _texts(sample: Sample, config: Config, mixture: Mixture, statistics: Statistics) -> list[str]:
    templates, card = config.templates, mixture.cards[sample.source]
    stats, state = statistics.get(sample.source, {}).get("state"), None
    if stats and sample.state is not None:
        state = normalised_state(sample, card, stats, config.data.normalisation)
    prompt = prompt_text(sample, templates, state, sample.boxes)
    if sample.kind in ACTION_KINDS:
        return [prompt, templates.low_level_separator, templates.low_level_begin, templates.low_level_end]
    return [prompt, target_text(sample, templates, sample.boxes)]
