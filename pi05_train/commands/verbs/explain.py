"""`pi05 explain`: its arguments."""

from __future__ import annotations

import argparse

from pi05_train.commands.verbs.computing import add_computing


def add_explain(explain: argparse.ArgumentParser) -> None:
    """Add the arguments of `pi05 explain`."""
    explain.add_argument("run", help="run folder, or one of its checkpoint folders")
    which = explain.add_mutually_exclusive_group(required=True)
    which.add_argument("--sample", metavar="SOURCE:KEY", help="a sample of the run's data")
    which.add_argument(
        "--observation", metavar="FILE", help="a robot's observation as openpi-client packs it (serve --keep-requests)"
    )
    explain.add_argument("--robot", help="whose observation: a card in data_mixtures/robot, or path of a card file")
    explain.add_argument(
        "--source", help="source whose statistics count (default: the only one whose card names the robot)"
    )
    explain.add_argument(
        "--mode",
        choices=("oracle", "flat", "hierarchical"),
        default="oracle",
        help="actions follow the sample's own subtask if it has one (as pi05 serve), the command, or the network's "
        "own subtask (default: %(default)s)",
    )
    explain.add_argument("--high-level-source", help="its cameras are the high level's (default: the robot's own)")
    explain.add_argument("--seed", type=int, help="of the noise (default: the observation's own, or 0)")
    add_computing(explain)
    explain.add_argument("--html", metavar="FILE", default="explain.html", help="the page (default: %(default)s)")
    explain.set_defaults(verb=_explain)


def _explain(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.computing import Computing
    from pi05_train.commands.explain import explain

    explain(
        arguments.run,
        arguments.html,
        sample=arguments.sample,
        observation=arguments.observation,
        robot=arguments.robot,
        source=arguments.source,
        mode=arguments.mode,
        high_level_source=arguments.high_level_source,
        seed=arguments.seed,
        ema=arguments.weights == "ema",
        computing=Computing.of(arguments.device, arguments.precision),
    )
