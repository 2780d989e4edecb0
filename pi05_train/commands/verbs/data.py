"""`pi05 data`: its verbs and their arguments."""

from __future__ import annotations

import argparse
import os

from pi05_train.commands.verbs.overrides import add_overrides


def add_data(data: argparse.ArgumentParser) -> None:
    """Add the verbs of `pi05 data`."""
    verbs = data.add_subparsers(title="verbs", metavar="VERB", required=True)
    simulate = verbs.add_parser("simulate", help="record the demo's six sources in simulators")
    simulate.add_argument("root", help="folder that gets one sub-folder per source")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--workers", type=int, default=2, help="processes; never changes the result")
    simulate.add_argument("--times", type=int, default=1, help="so many times the demo's amounts (default: 1)")
    simulate.set_defaults(verb=_simulate)
    _add_convert(verbs.add_parser("convert", help="a data set of another format to shards, card and statistics"))
    index = verbs.add_parser("index", help="index the shards of a source and compute its statistics")
    index.add_argument("cards", nargs="+", help="names of cards in data_mixtures/source, or paths of card files")
    index.add_argument("--root", required=True, help="folder that the cards' relative `shards` start from")
    index.add_argument(
        "--horizon", type=int, default=50, help="action steps of the model to train (default: %(default)s)"
    )
    index.set_defaults(verb=_index)
    verify = verbs.add_parser("verify", help="every byte of a source against its index; exit status 1 for any problem")
    _add_cards(verify)
    verify.add_argument("--repair", action="store_true", help="write damaged index files anew from whole shards")
    verify.set_defaults(verb=_verify)
    stats = verbs.add_parser("stats", help="norm_stats.json and a health report of sources, and of each embodiment")
    _add_cards(stats)
    stats.add_argument(
        "--horizon", type=int, default=50, help="action steps of the model to train (default: %(default)s)"
    )
    stats.set_defaults(verb=_stats)
    show = verbs.add_parser("inspect", help="one sample as a person wants to see it")
    show.add_argument("card", help="name of a card in data_mixtures/source, or path of a card file")
    show.add_argument("--root", required=True, help="folder that the card's relative `shards` starts from")
    which = show.add_mutually_exclusive_group()
    which.add_argument("--key", help="the sample's key")
    which.add_argument("--row", type=int, default=0, help="its row in the index (default: %(default)s)")
    show.add_argument("--html", metavar="FILE", help="write a page with pictures, boxes, plots and all text instead")
    show.set_defaults(verb=_show)
    explain = verbs.add_parser("explain", help="the exact samples of a step, from the indexes alone")
    explain.add_argument("--step", type=int, required=True)
    add_overrides(explain)
    explain.set_defaults(verb=_explain)
    count = verbs.add_parser("count", help="tokens of every sample, for micro-batches by budget")
    count.add_argument("--workers", type=int, default=2, help="processes; never changes the result")
    add_overrides(count)
    count.set_defaults(verb=_count)
    mixture = verbs.add_parser("mixture", help="requested and realised shares of a mixture, epochs, what is missing")
    add_overrides(mixture)
    mixture.add_argument("--then", metavar="EXPERIMENT", help="the next stage, for the epochs over both")
    mixture.set_defaults(verb=_mixture)


def _add_cards(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("cards", nargs="+", help="names of cards in data_mixtures/source, or paths of card files")
    verb.add_argument("--root", required=True, help="folder that the cards' relative `shards` start from")
    verb.add_argument("--workers", type=int, default=2, help="processes; never changes the result")


def _add_convert(convert: argparse.ArgumentParser) -> None:
    from pi05_train.convert.formats import FORMATS

    listed = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
    convert.add_argument("format", choices=tuple(FORMATS), metavar="FORMAT", help=listed.replace("%", "%%"))
    convert.add_argument("path", help="file or folder of the data set")
    convert.add_argument("folder", help="gets shards, card, index and statistics; its parent is the data.root")
    convert.add_argument("--name", required=True, help="name of the source and of its card")
    convert.add_argument("--kind", required=True, choices=("MM", "ME", "CE", "HL", "WD", "VI"))
    convert.add_argument("--horizon", type=int, default=64, help="action steps stored per chunk (default: %(default)s)")
    convert.add_argument("--image-size", type=int, default=224, help="side in pixels (default: %(default)s)")
    convert.add_argument("--quality", type=int, default=95, help="JPEG quality (default: %(default)s)")
    convert.add_argument("--stride", type=int, default=1, help="take every n-th frame (default: %(default)s)")
    convert.add_argument("--heldout", type=float, default=0.05, help="share of episodes (default: %(default)s)")
    convert.add_argument("--tier", default="train", choices=("train", "master"), help="master: whole episodes, as is")
    convert.add_argument("--allow-missing", action="store_true", help="take what is there")
    convert.add_argument("--dataset", default="", help="entry of the format's table, or the annotations' file")
    convert.add_argument("--robot", help="card of the robot that recorded it: data_mixtures/robot, or a path")
    convert.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; never changes the result")
    convert.set_defaults(verb=_convert)


def _simulate(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.data import simulate

    simulate(arguments.root, seed=arguments.seed, workers=arguments.workers, times=arguments.times)


def _convert(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.convert import convert_source
    from pi05_train.convert.source import Options

    options = Options(
        name=arguments.name,
        kind=arguments.kind,
        horizon=arguments.horizon,
        image_size=arguments.image_size,
        jpeg_quality=arguments.quality,
        stride=arguments.stride,
        heldout=arguments.heldout,
        tier=arguments.tier,
        allow_missing=arguments.allow_missing,
        dataset=arguments.dataset,
    )
    paths = (arguments.path, arguments.folder)
    convert_source(arguments.format, *paths, options, workers=arguments.workers, robot=arguments.robot)


def _index(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.data import index

    index(arguments.cards, arguments.root, horizon=arguments.horizon)


def _verify(arguments: argparse.Namespace) -> int:
    from pi05_train.commands.data import verify

    return verify(arguments.cards, arguments.root, workers=arguments.workers, repair=arguments.repair)


def _stats(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.data import stats

    stats(arguments.cards, arguments.root, horizon=arguments.horizon, workers=arguments.workers)


def _show(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.sample import show

    show(arguments.card, arguments.root, key=arguments.key, row=arguments.row, page=arguments.html)


def _explain(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.data import explain
    from pi05_train.config.compose import compose

    explain(compose(arguments.overrides, arguments.config_dir), arguments.step)


def _count(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.count import count
    from pi05_train.config.compose import compose

    count(compose(arguments.overrides, arguments.config_dir), workers=arguments.workers)


def _mixture(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.mixture import mixture
    from pi05_train.config.compose import compose

    stages = [arguments.overrides]
    if arguments.then:
        kept = [override for override in arguments.overrides if not override.startswith("experiment=")]
        stages.append([*kept, f"experiment={arguments.then}"])
    mixture([compose(overrides, arguments.config_dir) for overrides in stages])
