"""From a configuration to the parts that training, evaluation and a robot all build the same way."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pi05_train.config.schema import Config
from pi05_train.errors import UserError
from pi05_train.processing.normalisation import (
    NormStats,
    check_usable,
    parse_norm_stats,
    read_norm_stats,
    write_norm_stats,
)
from pi05_train.processing.processor import Processor
from pi05_train.samples.address import open_store, source_address
from pi05_train.samples.card import SourceCard
from pi05_train.tokenization.manifest import tokenizer_fingerprint
from pi05_train.tokenization.tokens import Tokens

Statistics = dict[str, dict[str, NormStats]]
"""Per source: normalisation statistics under "state" and "actions"."""


def enabled_cards(config: Config) -> dict[str, SourceCard]:
    """Cards of the sources that take part."""
    return {name: entry.card for name, entry in config.mixture.taking_part.items()}


def shard_statistics(config: Config) -> Statistics:
    """Statistics beside the shards of every enabled source with actions; they hold what `data.normalisation` needs."""
    cards = {name: card for name, card in enabled_cards(config).items() if card.has_actions}
    found = {name: _source_statistics(config, card) for name, card in cards.items()}
    for name, stats in found.items():
        for key, of in stats.items():
            check_usable(of, config.data.normalisation, f"source {name}, statistics of {key}")
    return found


def _source_statistics(config: Config, card: SourceCard) -> dict[str, NormStats]:
    where = source_address(config.data.root, card.shards)
    content = open_store(where, patience_seconds=config.data.patience_seconds).read_whole("norm_stats.json")
    return parse_norm_stats(content, f"{where}/norm_stats.json")


def save_statistics(run: Path, statistics: Statistics) -> None:
    """Keep the statistics in the run folder, where a robot without shards finds them (openpi's layout of assets)."""
    for name, stats in statistics.items():
        folder = run / "assets" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_norm_stats(folder / "norm_stats.json", stats)


def run_statistics(run: Path) -> Statistics:
    """The statistics a run folder keeps."""
    return {path.parent.name: read_norm_stats(path) for path in sorted((run / "assets").glob("*/norm_stats.json"))}


def fingerprints(config: Config, statistics: Statistics) -> dict[str, str]:
    """sha256 of what besides the shards decides the numbers of a run: tokenizers and statistics."""
    found = {
        "tokenizer.text": tokenizer_fingerprint(config.tokenizer.text, "text"),
        "tokenizer.fast": tokenizer_fingerprint(config.tokenizer.fast, "fast"),
    }
    parts = ("q01", "q99") if config.data.normalisation == "quantile" else ("mean", "std")
    for name, stats in statistics.items():
        content = {key: [getattr(of, part).tolist() for part in parts] for key, of in stats.items()}
        found[f"{name}/norm_stats.json"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return found


def build_processor(config: Config, statistics: Statistics) -> Processor:
    """The processor of a run. Refuses tokenizers whose ids do not fit the model's embedding."""
    tokenizer = config.tokenizer
    tokens = Tokens.load(tokenizer.text, tokenizer.fast, native_dims=tokenizer.fast_native_dims)
    if tokens.layout.vocab_size > config.model.vocab_size:
        raise UserError(
            "model.vocab_size",
            got=config.model.vocab_size,
            expected=f"at least {tokens.layout.vocab_size}, the ids of tokenizer {tokenizer.text}",
            do=f"set model.vocab_size={tokens.layout.vocab_size}",
        )
    return Processor(
        model=config.model,
        cards=enabled_cards(config),
        statistics=statistics,
        tokens=tokens,
        templates=config.templates,
        augmentation=config.augmentation if config.augmentation.enabled else None,
        stage_has_expert=config.stage.objective.expert,
        stage_has_text=config.stage.objective.text,
        normalisation=config.data.normalisation,
        padded_dims_trained=config.stage.objective.openpi_exact,
    )
