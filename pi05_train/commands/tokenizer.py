"""`pi05 tokenizer fit`."""

from __future__ import annotations

from pathlib import Path

from pi05_train.commands.progress import progress_bar
from pi05_train.config.build import shard_statistics
from pi05_train.config.schema import Config
from pi05_train.data.tokenizer_fit import fit_tokenizers
from pi05_train.tokenization.tokens import Tokens


def fit(folder: Path, config: Config, *, pieces: int, fast_size: int) -> Tokens:
    """Fit both tokenizers on the configuration's mixture into `folder/text` and `folder/fast`."""
    statistics = shard_statistics(config)
    with progress_bar("reading samples") as report:
        return fit_tokenizers(config, statistics, folder, pieces=pieces, fast_size=fast_size, report=report)


def describe(folder: Path, tokens: Tokens) -> str:
    """What to put into a run's configuration to train with them."""
    size, fast_size = tokens.layout.vocab_size, tokens.fast.vocab_size
    overrides = f"tokenizer.text={folder}/text tokenizer.fast={folder}/fast model.vocab_size={size}"
    return f"{size} ids, {fast_size} of them FAST; train with {overrides}"
