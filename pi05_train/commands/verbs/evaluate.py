"""`pi05 evaluate`: its arguments."""

from __future__ import annotations

import argparse
from typing import Any

from pi05_train.commands.verbs.computing import add_computing
from pi05_train.errors import UserError


def add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    """Add the arguments of `pi05 evaluate`."""
    evaluate.add_argument("runs", nargs="+", metavar="run", help="run folder of a stage, or of each variant of a study")
    add_computing(evaluate)
    evaluate.add_argument("--closed-loop", action="store_true", help="only play in simulators, in detail:")
    loop = evaluate.add_argument_group("with --closed-loop")
    loop.add_argument("--tasks", nargs="+", metavar="TASK", help="default: all of the simulators the run has learnt")
    loop.add_argument(
        "--modes", nargs="+", metavar="MODE", help="hierarchical, flat, oracle (default: flat, or the server's)"
    )
    loop.add_argument(
        "--commands", choices=("task", "high-level"), help="say the task, or what a high level has to think of"
    )
    loop.add_argument(
        "--conditions", nargs="+", choices=("seen", "unseen-environment", "unseen-object"), help="default: all three"
    )
    loop.add_argument("--episodes", type=int, help="of each task, command, condition and mode (default: 10)")
    loop.add_argument(
        "--strategy",
        choices=("open_loop", "receding_horizon", "real_time"),
        help="how chunks follow each other, docs/policy.md (default: receding_horizon)",
    )
    loop.add_argument("--execute-steps", type=int, help="control steps between two looks (default: 5)")
    loop.add_argument("--delay-steps", type=int, help="control steps from a look until its chunk is there (default: 0)")
    loop.add_argument("--worlds", type=int, help="played side by side in a process; changes no result (default: 8)")
    loop.add_argument(
        "--processes", type=int, help="share the episodes, each with its own policy; changes no result (default: 1)"
    )
    loop.add_argument("--films", type=int, help="of each mode, task and outcome (default: 1)")
    loop.add_argument("--server", metavar="URL", help="ask a `pi05 serve` of the run, ws://host:port (default: none)")
    loop.add_argument("--api-key-file", metavar="FILE", help="with the server's key")
    evaluate.set_defaults(verb=_evaluate)


LOOP = (
    "tasks", "modes", "commands", "conditions", "episodes",
    "strategy", "execute_steps", "delay_steps", "worlds", "processes", "films", "server", "api_key_file",
)  # fmt: skip
"""Options that need --closed-loop."""


def _evaluate(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.computing import Computing

    ema, computing = arguments.weights == "ema", Computing.of(arguments.device, arguments.precision)
    given = {name: _once(value) for name in LOOP if (value := getattr(arguments, name)) is not None}
    if arguments.closed_loop:
        from pi05_train.commands.closed_loop import closed_loop
        from pi05_train.commands.loop_options import LoopOptions

        closed_loop(arguments.runs, LoopOptions(**given), ema=ema, computing=computing)
        return
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError("evaluate", got=options, expected="it with --closed-loop", do="add --closed-loop")
    from pi05_train.commands.evaluate import evaluate

    evaluate(arguments.runs, ema=ema, computing=computing)


def _once(value: Any) -> Any:
    """A name said twice counts once."""
    return tuple(dict.fromkeys(value)) if isinstance(value, list) else value
