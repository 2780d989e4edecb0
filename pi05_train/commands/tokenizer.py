"""`pi05 tokenizer`: fit, check."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pi05_train.commands.progress import progress_bar
from pi05_train.config.build import shard_statistics
from pi05_train.config.schema import Config
from pi05_train.data.fitting.fast_report import Measured, check_positive, read_report, write_report
from pi05_train.data.fitting.tokenizer_check import action_sources, measure_sources
from pi05_train.data.fitting.tokenizer_fit import FastOptions, fit_tokenizers
from pi05_train.data.order.mixture import Mixture
from pi05_train.tokenization.fast import FastTokenizer
from pi05_train.tokenization.manifest import resolve_tokenizer
from pi05_train.tokenization.reconstruction import Reconstruction
from pi05_train.tokenization.tokens import Tokens


def fit(folder: Path, config: Config, options: FastOptions, *, pieces: int) -> Tokens:
    """Fit both tokenizers on the configuration's mixture into `folder/text` and `folder/fast`; print FAST's report."""
    statistics = shard_statistics(config)
    with progress_bar("reading samples") as report:
        tokens, measured = fit_tokenizers(config, statistics, folder, options, pieces=pieces, report=report)
    _print(f"FAST, {tokens.fast.vocab_size} tokens at scale {tokens.fast.scale:g}", measured)
    return tokens


def describe(folder: Path, tokens: Tokens) -> str:
    """What to put into a run's configuration to train with them."""
    size, fast_size = tokens.layout.vocab_size, tokens.fast.vocab_size
    overrides = f"tokenizer.text={folder}/text tokenizer.fast={folder}/fast model.vocab_size={size}"
    return f"{size} ids, {fast_size} of them FAST; train with {overrides}"


def check(config: Config, *, max_error: float) -> int:
    """Print what the configuration's FAST tokenizer loses on its sources with actions; 1 if it is too much for any.

    In a folder that `fit` wrote, the report takes the findings in.
    """
    check_positive("--max-error", max_error)
    folder = resolve_tokenizer(config.tokenizer.fast)
    fast, report = FastTokenizer.load(folder), read_report(folder)
    mixture = Mixture.of(config)
    names = action_sources(mixture)
    measured = measure_sources(config, shard_statistics(config), mixture, fast, names, max_error=max_error)
    _print(f"FAST {config.tokenizer.fast}", measured)
    if report is not None:
        write_report(folder, report | measured)
    complaints = [f"{name}: {one.complaint}" for name, one in measured.items() if one.complaint]
    for complaint in complaints:
        print(f"{complaint}: too much")
    return min(len(complaints), 1)


def _print(title: str, measured: Mapping[str, Measured]) -> None:
    wide = Console(width=max(Console().width, 120))
    wide.print(_errors(title, measured))
    wide.print(_tokens(measured))


def _errors(title: str, measured: Mapping[str, Measured]) -> Table:
    caption = "errors in the network's units, in brackets % of q99 - q01"
    table = Table("source", title=title, caption=caption)
    table.add_column("chunks", no_wrap=True)
    for name in ("undecodable", "RMSE", "p99", "largest", "worst dim's RMSE"):
        table.add_column(name, justify="right")
    for source, one in measured.items():
        result = one.result
        worst = "–" if result.worst_dim is None else f"{result.worst_rmse:.4f}, dim {result.worst_dim}"
        sizes = [_size(result, which) for which in ("rmse", "p99", "largest")]
        table.add_row(source, one.rows, str(result.undecodable), *sizes, worst)
    return table


def _size(result: Reconstruction, which: str) -> str:
    if result.normalised is None:
        return "–"
    percent = "" if result.percent is None else f" ({getattr(result.percent, which):.1f})"
    return f"{getattr(result.normalised, which):.4f}{percent}"


def _tokens(measured: Mapping[str, Measured]) -> Table:
    caption = "binning: one token per dim of the source and step"
    table = Table("source", title="tokens per chunk", caption=caption)
    for name in ("chunk", "mean", "p50", "p99", "max", "per second", "binning / mean", "vocabulary used"):
        table.add_column(name, justify="right")
    for source, one in measured.items():
        result = one.result
        table.add_row(
            source,
            f"{one.horizon} × {one.dims}",
            f"{result.tokens_mean:.1f}",
            f"{result.tokens_p50:g}",
            f"{result.tokens_p99:.0f}",
            str(result.tokens_max),
            f"{result.tokens_per_second:.1f}",
            f"{result.compression:.1f}",
            f"{result.vocabulary_used:.0%}",
        )
    return table
