"""`pi05 tokenizer`: its verbs and their arguments."""

from __future__ import annotations

import argparse

from pi05_train.commands.verbs.overrides import add_overrides


def add_tokenizer(tokenizer: argparse.ArgumentParser) -> None:
    """Add the verbs of `pi05 tokenizer`."""
    verbs = tokenizer.add_subparsers(title="verbs", metavar="VERB", required=True)
    fit = verbs.add_parser("fit", help="fit a small text tokenizer and FAST on a mixture's training split")
    fit.add_argument("folder", help="gets the sub-folders text and fast")
    add_overrides(fit)
    fit.add_argument("--pieces", type=int, default=1000, help="most SentencePiece pieces (default: %(default)s)")
    fit.add_argument("--fast-size", type=int, default=512, help="FAST vocabulary (default: %(default)s)")
    fit.set_defaults(verb=_fit)


def _fit(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from pi05_train.commands.tokenizer import describe, fit
    from pi05_train.config.compose import compose

    folder, config = Path(arguments.folder), compose(arguments.overrides, arguments.config_dir)
    tokens = fit(folder, config, pieces=arguments.pieces, fast_size=arguments.fast_size)
    print(describe(folder, tokens))
