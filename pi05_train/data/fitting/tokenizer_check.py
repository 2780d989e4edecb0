"""What a FAST tokenizer loses on the sources of a mixture, on chunks that no fit has taken."""

from __future__ import annotations

from collections.abc import Iterable

from pi05_train.config.build import Statistics
from pi05_train.config.schema import Config
from pi05_train.data.fitting.chunks import check_chunks
from pi05_train.data.fitting.fast_report import Measured
from pi05_train.data.order.mixture import Mixture
from pi05_train.errors import UserError
from pi05_train.processing.normalisation import normalise
from pi05_train.tokenization.fast import FastTokenizer
from pi05_train.tokenization.reconstruction import reconstruct


def action_sources(mixture: Mixture, only: str | None = None) -> list[str]:
    """Names of the sources with actions, or `only` that one; UserError where there is none."""
    names = [name for name in mixture.names if mixture.cards[name].has_actions]
    if not names:
        raise UserError(
            f"mixture {mixture.name}", got="no source with actions", expected="at least one for FAST", do="add one"
        )
    if only is not None and only not in names:
        raise UserError("--source", got=only, expected=f"a source with actions: one of {names}", do="correct it")
    return names if only is None else [only]


def measure_sources(
    config: Config,
    statistics: Statistics,
    mixture: Mixture,
    fast: FastTokenizer,
    names: Iterable[str],
    *,
    max_error: float,
) -> dict[str, Measured]:
    """The tokenizer measured on the `check_chunks` of each of these sources; nothing is refused."""
    found: dict[str, Measured] = {}
    for name in names:
        card, stats = mixture.cards[name], statistics[name]["actions"]
        chunks, division = check_chunks(config, mixture, name, stats)
        span_D = None
        if stats.q01 is not None and stats.q99 is not None:
            low, high = (
                normalise(q[: card.action_dim], stats, config.data.normalisation) for q in (stats.q01, stats.q99)
            )
            span_D = high - low
        found[name] = Measured(
            rows=str(division),
            normalisation=config.data.normalisation,
            horizon=config.model.action_horizon,
            dims=chunks[0].shape[1],
            max_error=max_error,
            result=reconstruct(fast, chunks, dims=card.action_dim, rate_hz=card.rate_hz, span_D=span_D),
        )
    return found
