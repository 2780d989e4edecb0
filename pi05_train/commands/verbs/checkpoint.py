"""`pi05 checkpoint`: its verbs and their arguments."""

from __future__ import annotations

import argparse


def add_checkpoint(checkpoint: argparse.ArgumentParser) -> None:
    """Add the verbs of `pi05 checkpoint`."""
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
