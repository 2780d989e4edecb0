"""`pi05 tokenizer`: its verbs and their arguments."""

from __future__ import annotations

import argparse

from pi05_train.commands.verbs.overrides import add_overrides


def add_tokenizer(tokenizer: argparse.ArgumentParser) -> None:
    """Add the verbs of `pi05 tokenizer`."""
    verbs = tokenizer.add_subparsers(title="verbs", metavar="VERB", required=True)
    fit = verbs.add_parser("fit", help="fit a small text tokenizer and FAST on a mixture's training split")
    fit.add_argument("folder", help="gets the sub-folders text and fast; nothing if FAST loses too much")
    add_overrides(fit)
    fit.add_argument("--pieces", type=int, default=1000, help="most SentencePiece pieces (default: %(default)s)")
    fit.add_argument("--fast-size", type=int, default=512, help="FAST vocabulary (default: %(default)s)")
    fit.add_argument(
        "--scale", type=float, default=10, help="FAST steps per unit; more lose less and make more tokens (default: 10)"
    )
    fit.add_argument("--source", help="fit FAST on this source alone (default: on all with actions)")
    _add_max_error(fit)
    fit.set_defaults(verb=_fit)
    check = verbs.add_parser(
        "check", help="what tokenizer.fast loses on every source and its tokens per chunk; exit status 1 if too much"
    )
    add_overrides(check)
    _add_max_error(check)
    check.set_defaults(verb=_check)


def _add_max_error(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--max-error",
        type=float,
        default=0.05,
        help="largest RMSE of any action dimension, where q01 to q99 is 2 (default: %(default)s)",
    )


def _fit(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from pi05_train.commands.tokenizer import describe, fit
    from pi05_train.config.compose import compose
    from pi05_train.data.fitting.tokenizer_fit import FastOptions

    folder, config = Path(arguments.folder), compose(arguments.overrides, arguments.config_dir)
    options = FastOptions(arguments.fast_size, arguments.scale, arguments.source, arguments.max_error)
    print(describe(folder, fit(folder, config, options, pieces=arguments.pieces)))


def _check(arguments: argparse.Namespace) -> int:
    from pi05_train.commands.tokenizer import check
    from pi05_train.config.compose import compose

    return check(compose(arguments.overrides, arguments.config_dir), max_error=arguments.max_error)
