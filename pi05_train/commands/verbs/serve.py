"""`pi05 serve`: its arguments."""

from __future__ import annotations

import argparse
from dataclasses import fields

from pi05_train.commands.verbs.computing import add_computing


def add_serve(serve: argparse.ArgumentParser) -> None:
    """Add the arguments of `pi05 serve`."""
    from pi05_train.policy.server.limits import Limits

    serve.add_argument("where", help="run folder, one of its checkpoints, weights of openpi or LeRobot, imported ones")
    serve.add_argument("overrides", nargs="*", help="how weights that are no run's are talked to: model=pi0 ...")
    serve.add_argument("--robot", required=True, help="name of a card in data_mixtures/robot, or path of a card file")
    serve.add_argument(
        "--source",
        help="a run's source whose statistics count (default: the only one whose card names the robot); for other "
        "weights a card in data_mixtures/source, or path of a card file",
    )
    serve.add_argument("--asset", help="which statistics below assets/ of other weights (default: the only ones)")
    serve.add_argument(
        "--mode",
        choices=("flat", "hierarchical"),
        default="flat",
        help="act on the command, or on subtasks that the network names (default: %(default)s)",
    )
    serve.add_argument(
        "--high-level-source", help="its cameras are the high level's (default: the run's only one of kind HL)"
    )
    add_computing(serve)
    serve.add_argument(
        "--compile", action="store_true", help="faster answers on a GPU, for a slower start (torch.compile)"
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    serve.add_argument("--port", type=int, default=8000, help="0: a free one (default: %(default)s)")
    serve.add_argument("--api-key-file", metavar="FILE", help="with the key that clients must send")
    serve.add_argument(
        "--keep-requests", metavar="FOLDER", help="with the latest 100 requests, for pi05 explain (default: none)"
    )
    limits = {
        "clients": "most clients at once",
        "message_megabytes": "largest request, in 10^6 bytes",
        "requests_per_second": "most requests of one client",
        "idle_seconds": "longest time without a request",
        "batch_samples": "most requests that are computed together",
    }
    for field in fields(Limits):
        option = f"--{field.name.replace('_', '-')}"
        kind = type(field.default)
        serve.add_argument(
            option, type=kind, default=field.default, help=f"{limits[field.name]} (default: %(default)s)"
        )
    serve.set_defaults(verb=_serve)


def _serve(arguments: argparse.Namespace) -> None:
    from pi05_train.commands.computing import Computing
    from pi05_train.commands.serve import serve
    from pi05_train.policy.server.limits import Limits

    serve(
        arguments.where,
        arguments.robot,
        arguments.overrides,
        source=arguments.source,
        asset=arguments.asset,
        mode=arguments.mode,
        high_level_source=arguments.high_level_source,
        ema=arguments.weights == "ema",
        computing=Computing.of(arguments.device, arguments.precision),
        compiled=arguments.compile,
        host=arguments.host,
        port=arguments.port,
        api_key_file=arguments.api_key_file,
        keep_requests=arguments.keep_requests,
        limits=Limits(**{field: getattr(arguments, field) for field in Limits.__dataclass_fields__}),
    )
