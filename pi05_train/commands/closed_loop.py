"""`pi05 evaluate --closed-loop`: a run in simulators, by task, command and condition, its modes side by side."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from pi05_train.checkpoint.integrity import a_disk_for
from pi05_train.checkpoint.run_state import latest, step_folder
from pi05_train.commands.computing import Computing
from pi05_train.commands.loop_options import LoopOptions, trials_of
from pi05_train.commands.progress import progress_bar
from pi05_train.commands.serve import read_api_key
from pi05_train.config.build import enabled_cards
from pi05_train.config.compose import read_config
from pi05_train.config.robots import read_robot
from pi05_train.config.schema import Config
from pi05_train.errors import UserError
from pi05_train.evaluation.closed_loop import FILE, FOLDER, ClosedLoop, Film, kept_file, write_closed_loop
from pi05_train.evaluation.drivers import Chunks, Plan, plan_of_levels, plan_of_remote
from pi05_train.evaluation.evaluate import told
from pi05_train.evaluation.films import chosen, make_film
from pi05_train.evaluation.kept import KeptEpisodes, Played
from pi05_train.evaluation.processes import in_processes
from pi05_train.evaluation.results import RolloutResult
from pi05_train.evaluation.rollouts import Action, Trial, run_rollouts
from pi05_train.policy.client import RemotePolicy
from pi05_train.policy.hierarchy import Hierarchy
from pi05_train.policy.load import load_policy
from pi05_train.policy.robot import RobotInterface
from pi05_train.report.closed_loop import closed_loop_tables
from pi05_train.simulation.environments import EVALUATION_TASKS
from pi05_train.trainer.code_version import code_version


def closed_loop(folders: Sequence[str], options: LoopOptions, *, ema: bool, computing: Computing) -> None:
    """Play with the newest checkpoint of every run, print its tables and write `closed_loop.json`."""
    for folder in folders:
        for table in closed_loop_tables(folder, play(Path(folder), options, ema=ema, computing=computing)):
            Console().print(table)


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and how."""

    run: Path
    step: int | None
    """Of the checkpoint: the newest one when the evaluation begins."""
    ema: bool
    computing: Computing
    config: Config
    options: LoopOptions


@dataclass(frozen=True)
class Share:
    """Episodes that one process plays."""

    subject: Subject
    episodes: Sequence[tuple[int, str, Trial]]
    """Place, mode and trial."""


Tell = Callable[[tuple[int, RolloutResult, list[Action]]], None]
"""Hears of an episode that has ended: its place, its result and what it did."""


def play(run: Path, options: LoopOptions, *, ema: bool, computing: Computing) -> ClosedLoop:
    """Play, and write `closed_loop.json` and films into the run folder; goes on where the same call was interrupted."""
    subject = Subject(run, latest(run), ema, computing, read_config(run / "config.yaml"), options)
    trials = trials_of(run, subject.config, options)
    with ExitStack() as opened:
        plans = _plans(subject, trials, opened)
        episodes = [(mode, trial) for mode in plans for trial in trials]
        kept = opened.enter_context(KeptEpisodes(kept_file(run, _fingerprint(subject, episodes))))
        left = [(place, *episode) for place, episode in enumerate(episodes) if place not in kept.episodes]
        _play(Share(subject, left), plans, kept)
        played = [kept.episodes[place] for place in range(len(episodes))]
        found = ClosedLoop(
            step=subject.step or 0,
            weights="ema" if ema else "raw",
            server=options.server or "",
            strategy=options.strategy,
            execute_steps=options.execution(subject.config.model.action_horizon).execute_steps,
            delay_steps=options.delay_steps,
            seconds=kept.seconds,
            results=tuple(one.result for one in played),
            films=tuple(_films(run / FOLDER, [trial for _, trial in episodes], played, options.films)),
        )
        write_closed_loop(run, found)
        kept.delete()
    return found


def _play(all_left: Share, plans: dict[str, Plan], kept: KeptEpisodes) -> None:
    """Play what is left, here or in processes of their own, and keep it."""
    earlier, total = len(kept.episodes), len(kept.episodes) + len(all_left.episodes)
    begin = time.perf_counter() - kept.seconds
    with progress_bar("playing") as report:
        report(earlier, total, f"goes on after the {earlier} episodes of an earlier call" if earlier else "")

        def keep(ended: tuple[int, RolloutResult, list[Action]]) -> None:
            place, result, actions = ended
            kept.add(place, result, actions, time.perf_counter() - begin)
            report(len(kept.episodes), total, told(result))

        count = all_left.subject.options.processes
        if count == 1:
            _rollouts(all_left, plans, keep)
            return
        shares = [replace(all_left, episodes=all_left.episodes[first::count]) for first in range(count)]
        with closing(in_processes(_play_share, [share for share in shares if share.episodes])) as found:
            for ended in found:
                keep(ended)


def _play_share(share: Share, tell: Tell) -> None:
    """In a process of its own, with its own copy of the policy and one thread: cores are for the other processes."""
    torch.set_num_threads(1)
    with ExitStack() as opened:
        plans = _plans(share.subject, [trial for _, _, trial in share.episodes], opened)
        _rollouts(share, plans, tell)


def _rollouts(share: Share, plans: dict[str, Plan], tell: Tell) -> None:
    """Mode by mode."""
    places = {(mode, trial): place for place, mode, trial in share.episodes}
    options, model = share.subject.options, share.subject.config.model
    for mode, plan in plans.items():
        run_rollouts(
            Chunks(plan, lambda: options.execution(model.action_horizon), delay_steps=options.delay_steps),
            [trial for _, name, trial in share.episodes if name == mode],
            policy=mode,
            image_size=model.vision.image_size,
            worlds=options.worlds,
            ended=lambda episode, result: tell((places[result.policy, episode.trial], result, episode.actions)),
        )


def _fingerprint(subject: Subject, episodes: Sequence[tuple[str, Trial]]) -> str:
    """Of everything that decides how the episodes end, the code included."""
    options, config = subject.options, subject.config
    checkpoint = step_folder(subject.run, subject.step or 0)
    weights = [file.read_text() for file in sorted(checkpoint.glob("*.json"))]  # with checksums
    execution = (options.strategy, options.execution(config.model.action_horizon).execute_steps, options.delay_steps)
    computed = (weights, subject.ema, subject.computing, options.server)
    decides = (code_version().version, config, checkpoint.name, computed, execution)
    return hashlib.sha256(repr((decides, episodes)).encode()).hexdigest()[:12]


def _films(folder: Path, trials: Sequence[Trial], played: Sequence[Played], per_outcome: int) -> Iterator[Film]:
    """Films of some episodes, in place of those of an earlier call: what names those goes first."""
    with a_disk_for(folder):
        (folder.parent / FILE).unlink(missing_ok=True)
        folder.mkdir(exist_ok=True)
        for old in folder.glob("*.mp4"):
            old.unlink()
        for place in chosen([one.result for one in played], per_outcome):
            yield make_film(folder, trials[place], played[place].result, played[place].actions)


def _plans(subject: Subject, trials: Sequence[Trial], opened: ExitStack) -> dict[str, Plan]:
    """What plans, by mode."""
    run, config, options = subject.run, subject.config, subject.options
    if options.server is not None:
        remote = opened.enter_context(_remote(subject, trials, options.server))
        return {remote.about["mode"]: plan_of_remote(remote)}
    checkpoint = run if subject.step is None else step_folder(run, subject.step)
    policy = load_policy(
        checkpoint, ema=subject.ema, device=subject.computing.device, bfloat16=subject.computing.bfloat16
    )
    policy.batch_samples = options.worlds
    above = [name for name, card in enabled_cards(config).items() if card.kind == "HL"]
    modes = options.modes or ("flat",)
    if "hierarchical" in modes and len(above) != 1:
        raise UserError(
            f"closed loop of {run}, hierarchical", got=f"the high-level sources {above}", expected="one", do="leave it"
        )
    limit = config.evaluation.max_text_tokens
    sources = {mode: above[0] if mode == "hierarchical" else None for mode in modes}
    return {
        mode: plan_of_levels(Hierarchy(policy, mode, high_level_source=source, max_text_tokens=limit))
        for mode, source in sources.items()
    }


def _remote(subject: Subject, trials: Sequence[Trial], server: str) -> RemotePolicy:
    """The run behind a server; refuses a server of another robot, run, checkpoint, weights or mode."""
    sources = sorted({EVALUATION_TASKS[trial.task].source for trial in trials})
    if len(sources) != 1:
        raise UserError(
            "--server", got=f"tasks of {', '.join(sources)}", expected="tasks of one robot", do="choose --tasks"
        )
    card = enabled_cards(subject.config)[sources[0]]
    if not card.robot:
        raise UserError(f"source {card.name}", got="no robot", expected="a robot's card", do="name it in the card")
    api_key = read_api_key(subject.options.api_key_file)
    remote = RemotePolicy(server, RobotInterface(read_robot(card.robot), card), api_key=api_key)
    own = {"run": subject.run.resolve().name, "step": subject.step, "weights": "ema" if subject.ema else "raw"}
    modes = subject.options.modes or ("flat", "hierarchical")
    theirs = {name: remote.about.get(name) for name in (*own, "mode")}
    if theirs["mode"] not in modes or theirs != own | {"mode": theirs["mode"]}:
        expected = own | {"mode": " or ".join(modes)}
        raise UserError(f"server {server}", got=theirs, expected=expected, do="serve this run so")
    return remote
