"""`pi05 explain`: one request, a robot's or a training sample, as a page."""

from __future__ import annotations

from pathlib import Path

from pi05_train.checkpoint.run_state import find_checkpoint
from pi05_train.commands.computing import Computing
from pi05_train.config.build import enabled_cards
from pi05_train.config.compose import read_config
from pi05_train.config.robots import read_robot
from pi05_train.config.schema import Config
from pi05_train.data.sources.inspect import inspect
from pi05_train.errors import UserError
from pi05_train.policy.explain import explain as explain_sample
from pi05_train.policy.load import load_policy, run_folder
from pi05_train.policy.policy import Policy
from pi05_train.policy.robot import MOST_SEED, Request, RobotInterface
from pi05_train.policy.served import source_of
from pi05_train.policy.server.wire import unpack
from pi05_train.report.explain_page import explain_page
from pi05_train.samples.address import source_address
from pi05_train.samples.schema import Sample


def explain(
    run: str,
    page: str,
    *,
    sample: str | None,
    observation: str | None,
    robot: str | None,
    source: str | None,
    mode: str,
    high_level_source: str | None,
    seed: int | None,
    ema: bool,
    computing: Computing,
) -> None:
    """Write the page of a sample `SOURCE:KEY`, or of a robot's observation in a file; prints its path."""
    _check(sample, robot, source, seed)
    folder = run_folder(Path(run).resolve())
    config = read_config(folder / "config.yaml")
    recorded = None if sample is None else _recorded(config, sample)
    observed = None if observation is None else unpack(_content(observation))
    card = None if robot is None else read_robot(robot)
    policy = load_policy(Path(run), ema=ema, device=computing.device, bfloat16=computing.bfloat16)
    if recorded is not None:
        interface, request = _interface(policy, recorded), Request(recorded, None, None)
    else:
        assert robot is not None
        assert card is not None
        interface = RobotInterface(card, source_of(policy, robot, source, f"explain {run}"))
        request = interface.request(observed, kept=True)
    explained = explain_sample(
        policy,
        request.sample,
        next(number for number in (seed, request.seed, 0) if number is not None),
        remainder=request.remainder,
        mode=mode,
        high_level_source=high_level_source,
        max_text_tokens=config.evaluation.max_text_tokens,
    )
    facts = {
        "run": folder.name,
        "checkpoint": find_checkpoint(Path(run)).name,
        "weights": "ema" if ema else "raw",
        "device": computing.device,
        "precision": computing.precision,
        "robot": interface.robot.name if interface is not None else "",
        "observation": observation or "",
    }
    path = Path(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(explain_page(explained, {k: v for k, v in facts.items() if v}, interface), encoding="utf-8")
    print(path)


def _check(sample: str | None, robot: str | None, source: str | None, seed: int | None) -> None:
    """Refuse options that do not go together."""
    if sample is None and robot is None:
        raise UserError("--robot", got="nothing", expected="the robot that was observed", do="name its card")
    if sample is not None and (robot or source):
        given = "--robot" if robot else "--source"
        raise UserError(given, got=robot or source, expected="nothing beside --sample", do="leave it out")
    if seed is not None and not 0 <= seed <= MOST_SEED:
        raise UserError("--seed", got=seed, expected="a whole number from 0 to 2**63 - 1", do="correct it")


def _recorded(config: Config, address: str) -> Sample:
    """The sample `SOURCE:KEY` of the run's data."""
    source, _, key = address.partition(":")
    cards = enabled_cards(config)
    if source not in cards or not key:
        expected = f"SOURCE:KEY with a source among {sorted(cards)}"
        raise UserError("--sample", got=repr(address), expected=expected, do="correct it")
    return inspect(source_address(config.data.root, cards[source].shards), cards[source], key=key).sample


def _interface(policy: Policy, sample: Sample) -> RobotInterface | None:
    """The robot that the sample's source names."""
    card = policy.processor.cards[sample.source]
    return RobotInterface(read_robot(card.robot), card) if card.robot else None


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"--observation {path}", got=error, expected="a file", do="correct the path") from error
