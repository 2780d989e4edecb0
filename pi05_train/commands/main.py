"""`pi05`: parse the verb, run it, turn a UserError into one sentence. Heavy imports happen inside the verbs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from pi05_train.commands.verbs.checkpoint import add_checkpoint
from pi05_train.commands.verbs.data import add_data
from pi05_train.commands.verbs.evaluate import add_evaluate
from pi05_train.commands.verbs.explain import add_explain
from pi05_train.commands.verbs.overrides import add_overrides
from pi05_train.commands.verbs.serve import add_serve
from pi05_train.commands.verbs.tokenizer import add_tokenizer
from pi05_train.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 checkpoints differ, 2 refused with a sentence, 130 interrupted; else a bug's traceback."""
    # Loader workers share the cores with compute threads: an OpenMP thread that spins long holds up its siblings.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    arguments = parse(argv)
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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
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
    add_overrides(train)
    train.add_argument(
        "-m", "--multirun", action="store_true", help="a run for each value: ablation=none,no_web (docs/ablate.md)"
    )
    train.add_argument("--run-folder", metavar="FOLDER", help="what this run folder says, in place of overrides")
    train.add_argument(
        "--prepare",
        action="store_true",
        help="check everything, write run folders and a copy of the code, print where they are; train nothing",
    )
    train.set_defaults(verb=_train)

    plan = verbs.add_parser("plan", help="what a run needs of a cluster: memory, time, traffic, disk; needs no GPU")
    add_overrides(plan)
    plan.add_argument("--engine", help="show this engine in detail (default: the quickest that fits)")
    plan.set_defaults(verb=_plan)

    add_evaluate(verbs.add_parser("evaluate", help="measure a run on held-out episodes and in simulators"))
    add_serve(verbs.add_parser("serve", help="a policy for robots, by openpi's websocket protocol"))

    add_explain(verbs.add_parser("explain", help="one request as a page: what the network saw, said and did, and how"))

    report = verbs.add_parser("report", help="one HTML page of a run folder, of a folder of stages, or of a study")
    report.add_argument(
        "folder", help="a run folder, a folder with a report.json that names its stages, or a folder of runs to compare"
    )
    report.add_argument("--baseline", help="of a study: the run that the others are compared with (default: none)")
    report.set_defaults(verb=_report)

    add_data(verbs.add_parser("data", help="simulate, index, describe"))
    add_tokenizer(verbs.add_parser("tokenizer", help="fit the text and action tokenizers"))
    add_checkpoint(verbs.add_parser("checkpoint", help="weights of openpi, LeRobot and PaliGemma in and out"))
    return parser


def _demo(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.demo import demo

    demo(arguments.folder)


def _train(arguments: argparse.Namespace) -> None:
    from pi05_train.commands import train

    given = arguments.overrides, arguments.config_dir
    if arguments.run_folder is not None:
        if arguments.overrides or arguments.multirun or arguments.prepare:
            raise UserError("--run-folder", got="more than a folder", expected="a run folder alone", do="drop the rest")
        train.train_run(arguments.run_folder)
    elif arguments.prepare:
        code, folders = train.prepare_variants(*given) if arguments.multirun else train.prepare(*given)
        print(code, *folders, sep="\n")
    elif arguments.multirun:
        train.train_variants(*given)
    else:
        train.train(*given)


def _plan(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.plan import plan
    from pi05_train.config.compose import compose_plan

    plan(*compose_plan(arguments.overrides, arguments.config_dir), engine=arguments.engine)


def _report(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.report import report

    report(arguments.folder, baseline=arguments.baseline)


if __name__ == "__main__":
    sys.exit(main())
