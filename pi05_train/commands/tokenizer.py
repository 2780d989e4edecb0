"""`pi05 tokenizer fit`."""

from __future__ import annotations

from pathlib import Path

from pi05_train.commands.progress import progress_bar
from pi05_train.config.build import shard_statistics
from pi05_train.config.schema import Config
from pi05_train.data.tokenizer_fit import fit_tokenizers


def fit(folder: str, config: Config, *, pieces: int, fast_size: int) -> None:
    """Fit on the configuration's mixture and say what to put into the run's configuration."""
    with progress_bar("reading samples") as report:
        tokens = fit_tokenizers(
            config, shard_statistics(config), Path(folder), pieces=pieces, fast_size=fast_size, report=report
        )
    print(
        f"{tokens.layout.vocab_size} ids, {tokens.fast.vocab_size} of them FAST; train with "
        f"tokenizer.text={folder}/text tokenizer.fast={folder}/fast model.vocab_size={tokens.layout.vocab_size}"
    )
