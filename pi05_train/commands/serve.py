"""`pi05 serve`: a policy for a robot, until SIGTERM or SIGINT."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path

from pi05_train.commands.computing import Computing
from pi05_train.config.compose import read_config
from pi05_train.errors import UserError
from pi05_train.policy.hierarchy import Hierarchy, RobotState, Turn
from pi05_train.policy.load import run_folder
from pi05_train.policy.policy import Policy
from pi05_train.policy.robot import RobotInterface
from pi05_train.policy.served import load_served
from pi05_train.policy.server.events import Events
from pi05_train.policy.server.kept import KeptRequests
from pi05_train.policy.server.limits import Limits
from pi05_train.policy.server.process import serve_until_signal
from pi05_train.policy.server.server import PolicyServer


def serve(
    where: str,
    robot: str,
    overrides: Sequence[str],
    *,
    source: str | None,
    asset: str | None,
    mode: str,
    high_level_source: str | None,
    ema: bool,
    computing: Computing,
    compiled: bool,
    host: str,
    port: int,
    api_key_file: str | None,
    keep_requests: str | None,
    limits: Limits,
) -> None:
    """Serve a run's newest checkpoint, one of its checkpoints, or other weights; events go to standard output."""
    events, api_key = Events(sys.stdout), read_api_key(api_key_file)
    kept = None if keep_requests is None else KeptRequests(Path(keep_requests))
    served = load_served(
        where,
        robot,
        source,
        overrides,
        asset=asset,
        ema=ema,
        device=computing.device,
        bfloat16=computing.bfloat16,
        compiled=compiled,
    )
    policy = served.policy
    levels = levels_of(policy, where, mode, high_level_source)
    policy.batch_samples = limits.batch_samples
    about = {
        **served.about,
        "precision": computing.precision,
        "action_horizon": policy.model.config.action_horizon,
    }
    server = PolicyServer(
        served.robot, levels.act, events, mode=mode, limits=limits, api_key=api_key, metadata=about, kept=kept
    )
    if api_key is None and not _loopback(host):
        events("warning", why=f"anybody who reaches {host} may use this server: give it an --api-key-file")

    warm_up(levels, served.robot)

    def started(bound: int) -> None:
        address = {"host": host, "port": bound, "device": str(policy.device)}
        names = {"robot": served.robot.robot.name, "source": served.robot.source.name, "mode": mode}
        events("serving", **names, **address, **about, limits=asdict(limits))

    serve_until_signal(server, host, port, events, started)


def levels_of(policy: Policy, where: str, mode: str, source: str | None) -> Hierarchy:
    """The policy in a mode; without a name, the high level has the cameras of the run's only source for it."""
    if mode != "hierarchical":
        if source is not None:
            got = f"{source} with --mode {mode}"
            raise UserError("--high-level-source", got=got, expected="--mode hierarchical", do="leave it out")
        return Hierarchy(policy, mode)
    known = sorted(name for name, card in policy.processor.cards.items() if card.kind == "HL")
    if not known:
        raise UserError(
            f"serve {where}, --mode hierarchical",
            got="weights without a high-level source, which have not learnt to name subtasks",
            expected="a run with a source of kind HL in its mixture",
            do="serve it flat",
        )
    if source not in known and not (source is None and len(known) == 1):
        got = repr(source) if source else f"nothing, and {len(known)} high-level sources"
        raise UserError(
            f"serve {where}, --high-level-source", got=got, expected=f"one of {known}", do="name the one it resembles"
        )
    limit = read_config(run_folder(Path(where)) / "config.yaml").evaluation.max_text_tokens
    return Hierarchy(policy, mode, high_level_source=source or known[0], max_text_tokens=limit)


def warm_up(levels: Hierarchy, robot: RobotInterface) -> None:
    """One answer before the first robot asks: kernels are compiled and recorded by then."""
    sample = robot.request(robot.blank()).sample
    if levels.policy.has_expert:
        levels.act([Turn(sample, RobotState(), time_s=0.0, seed=0)])
    else:  # what is written about nothing need not be a chunk
        levels.policy.fast_actions([sample], max_tokens=8)


def read_api_key(path: str | None) -> str | None:
    """The key in a file; None: none."""
    if path is None:
        return None
    try:
        key = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api-key-file {path}", got=error, expected="a text file", do="correct it") from error
    if not key or not key.isascii() or not key.isprintable():
        raise UserError(
            f"--api-key-file {path}", got="no key", expected="one line of ASCII", do="write the key into it"
        )
    return key


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
