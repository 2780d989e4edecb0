"""`pi05`: parse the verb, run it, turn a UserError into one sentence. Heavy imports happen inside the verbs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from pi05_train.errors import UserError

OVERRIDES_HELP = "Hydra overrides, e.g. experiment=demo_pretrain run.steps=10 mixture.sources.sim_web.enabled=false"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 checkpoints differ, 2 refused with a sentence, 130 interrupted; else a bug's traceback."""
    # Loader workers share the cores with compute threads: an OpenMP thread that spins long holds up its siblings.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    arguments = _parse(argv)
    verb: Callable[[argparse.Namespace], int | None] = arguments.verb
    try:
        return verb(arguments) or 0
    except UserError as error:
        if arguments.debug:
            raise
        print(f"pi05: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pi05: interrupted; start the same command again: what was finished is kept.", file=sys.stderr)
        return 130


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; overrides may stand before and after options, which argparse alone does not allow."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    stray = [word for word in rest if word.startswith("-") or not hasattr(arguments, "overrides")]
    if stray:
        parser.error(f"unrecognized arguments: {' '.join(stray)}")
    if rest:
        arguments.overrides += rest
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pi05", description="Train pi0.5 the way its paper says.")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a refusal")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    demo = verbs.add_parser("demo", help="the whole recipe, small but real, in about ten minutes on two CPU cores")
    demo.add_argument("--folder", default="runs/demo", help="run folder (default: %(default)s)")
    demo.set_defaults(verb=_demo)

    train = verbs.add_parser("train", help="train one stage, or go on where it stopped")
    _add_overrides(train)
    train.set_defaults(verb=_train)

    evaluate = verbs.add_parser("evaluate", help="measure a run on held-out episodes and in simulators")
    evaluate.add_argument("run", help="run folder of a stage")
    evaluate.add_argument(
        "--weights", choices=("ema", "raw"), default="ema", help="which weights (default: %(default)s)"
    )
    evaluate.set_defaults(verb=_evaluate)

    report = verbs.add_parser("report", help="one HTML page of a run folder, or of a folder of stages")
    report.add_argument("folder", help="a run folder, or a folder with a report.json that names its stages")
    report.set_defaults(verb=_report)

    _add_data(verbs.add_parser("data", help="simulate, index, describe"))
    _add_tokenizer(verbs.add_parser("tokenizer", help="fit the text and action tokenizers"))
    _add_checkpoint(verbs.add_parser("checkpoint", help="weights of openpi, LeRobot and PaliGemma in and out"))
    return parser


def _add_overrides(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("overrides", nargs="*", help=OVERRIDES_HELP)
    verb.add_argument("--config-dir", help="a folder of your own with experiment/, mixture/, source/ ...")


def _add_data(data: argparse.ArgumentParser) -> None:
    verbs = data.add_subparsers(title="verbs", metavar="VERB", required=True)
    simulate = verbs.add_parser("simulate", help="record the demo's six sources in simulators")
    simulate.add_argument("root", help="folder that gets one sub-folder per source")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--workers", type=int, default=2, help="processes; never changes the result")
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
    _add_overrides(explain)
    explain.set_defaults(verb=_explain)
    mixture = verbs.add_parser("mixture", help="requested and realised shares of a mixture, epochs per source")
    _add_overrides(mixture)
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
    convert.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; never changes the result")
    convert.set_defaults(verb=_convert)


def _add_tokenizer(tokenizer: argparse.ArgumentParser) -> None:
    verbs = tokenizer.add_subparsers(title="verbs", metavar="VERB", required=True)
    fit = verbs.add_parser("fit", help="fit a small text tokenizer and FAST on a mixture's training split")
    fit.add_argument("folder", help="gets the sub-folders text and fast")
    _add_overrides(fit)
    fit.add_argument("--pieces", type=int, default=1000, help="most SentencePiece pieces (default: %(default)s)")
    fit.add_argument("--fast-size", type=int, default=512, help="FAST vocabulary (default: %(default)s)")
    fit.set_defaults(verb=_fit)


def _add_checkpoint(checkpoint: argparse.ArgumentParser) -> None:
    verbs = checkpoint.add_subparsers(title="verbs", metavar="VERB", required=True)
    import_ = verbs.add_parser("import", help="another program's checkpoint to weights that a run can start from")
    import_.add_argument("checkpoint", help="folder, file, or gs:// s3:// https:// address")
    import_.add_argument("folder", help="gets the weights")
    import_.add_argument(
        "overrides", nargs="*", help="the network, if not model=pi05: model=pi0 model.action_horizon=10 adaptation=..."
    )
    import_.add_argument("--config-dir", help="a folder of your own with model/, adaptation/ ...")
    import_.add_argument("--float32-only", action="store_true", help="refuse a checkpoint that holds bfloat16")
    import_.add_argument(
        "--take", metavar="NAME", help="the stored array that counts, where an embedding and its tied head differ"
    )
    import_.set_defaults(verb=_import)
    export = verbs.add_parser("export", help="weights of a run for openpi, LeRobot or transformers; LoRA is merged")
    export.add_argument("run", help="run folder, one of its checkpoints, or imported weights")
    export.add_argument("folder", help="gets the checkpoint")
    export.add_argument("--to", required=True, choices=("openpi", "openpi_torch", "lerobot", "paligemma"))
    export.add_argument(
        "--weights", choices=("ema", "raw"), help="which of a run's (default: averaged, if it has them)"
    )
    export.add_argument("--source", help="the robot the policy is for, where the mixture has several")
    export.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    export.set_defaults(verb=_export)
    inspect = verbs.add_parser("inspect", help="which format it is, which network, its tensors")
    inspect.add_argument("checkpoint", help="folder, file or address")
    inspect.set_defaults(verb=_inspect)
    diff = verbs.add_parser("diff", help="compare two checkpoints of any formats; exit status 1 where they differ")
    diff.add_argument("first")
    diff.add_argument("second")
    diff.set_defaults(verb=_diff)


def _demo(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.demo import demo

    demo(arguments.folder)


def _train(arguments: argparse.Namespace) -> None:
    from pi05_train.config.compose import compose
    from pi05_train.train import train

    train(compose(arguments.overrides, arguments.config_dir))


def _evaluate(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.evaluate import evaluate

    evaluate(arguments.run, ema=arguments.weights == "ema")


def _report(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.report import report

    report(arguments.folder)


def _simulate(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.data import simulate

    simulate(arguments.root, seed=arguments.seed, workers=arguments.workers)


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
        allow_missing=arguments.allow_missing,
        dataset=arguments.dataset,
        tier=arguments.tier,
    )
    convert_source(arguments.format, arguments.path, arguments.folder, options, workers=arguments.workers)


def _index(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.data import index

    index(arguments.cards, arguments.root, horizon=arguments.horizon)


def _mixture(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.data import mixture
    from pi05_train.config.compose import compose

    mixture(compose(arguments.overrides, arguments.config_dir))


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


def _fit(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from pi05_train.commands.tokenizer import describe, fit
    from pi05_train.config.compose import compose

    folder, config = Path(arguments.folder), compose(arguments.overrides, arguments.config_dir)
    tokens = fit(folder, config, pieces=arguments.pieces, fast_size=arguments.fast_size)
    print(describe(folder, tokens))


def _import(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.checkpoint import import_

    checkpoint, folder, overrides = arguments.checkpoint, arguments.folder, arguments.overrides
    options = {"float32_only": arguments.float32_only, "take": arguments.take}
    import_(checkpoint, folder, overrides, arguments.config_dir, **options)


def _export(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.export import export

    options = {"weights": arguments.weights, "source": arguments.source, "dtype": arguments.dtype}
    export(arguments.run, arguments.folder, arguments.to, **options)


def _inspect(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.checkpoint import inspect

    inspect(arguments.checkpoint)


def _diff(arguments: argparse.Namespace) -> int:
    from pi05_train.commands.checkpoint import diff

    return diff(arguments.first, arguments.second)


if __name__ == "__main__":
    sys.exit(main())
