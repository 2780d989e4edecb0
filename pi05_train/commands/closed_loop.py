"""`pi05 evaluate --closed-loop`: a run in simulators, by task, command and condition, its modes side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from pi05_train.checkpoint.run_state import latest
from pi05_train.commands.progress import Report, progress_bar
from pi05_train.commands.serve import read_api_key
from pi05_train.config.build import enabled_cards
from pi05_train.config.compose import read_config
from pi05_train.config.robots import read_robot
from pi05_train.config.schema import Config
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.sources.rows import environments
from pi05_train.errors import UserError
from pi05_train.evaluation.closed_loop import FILE, FOLDER, ClosedLoop, Film, write_closed_loop
from pi05_train.evaluation.drivers import Chunks, Plan, plan_of, plan_of_levels
from pi05_train.evaluation.evaluate import told
from pi05_train.evaluation.films import chosen, make_film
from pi05_train.evaluation.results import RolloutResult
from pi05_train.evaluation.rollouts import Action, Episode, Trial, known_task, plan_trials, run_rollouts
from pi05_train.policy.client import RemotePolicy
from pi05_train.policy.hierarchy import MODES, Hierarchy
from pi05_train.policy.load import load_policy
from pi05_train.policy.robot import RobotInterface
from pi05_train.report.closed_loop import closed_loop_tables
from pi05_train.simulation.environments import EVALUATION_TASKS
from pi05_train.simulation.rooms import CONDITIONS, ROOMS, Room, room_name


@dataclass(frozen=True)
class LoopOptions:
    """What to play; see `pi05 evaluate --help`."""

    tasks: Sequence[str] = ()
    """None named: all that the run has learnt."""
    modes: Sequence[str] = ("flat",)
    commands: str = "task"
    conditions: Sequence[str] = tuple(name.replace(" ", "-") for name in CONDITIONS)
    episodes: int = 10
    execute_steps: int = 5
    worlds: int = 8
    films: int = 1
    server: str | None = None
    api_key_file: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("execute_steps", 1), ("worlds", 1), ("films", 0)):
            if (value := getattr(self, name)) < least:
                option = f"--{name.replace('_', '-')}"
                raise UserError(option, got=value, expected=f"at least {least}", do="correct it")
        if unknown := [mode for mode in self.modes if mode not in MODES]:
            raise UserError("--modes", got=repr(unknown[0]), expected="of " + ", ".join(MODES), do="correct it")
        if self.server and tuple(self.modes) != ("flat",):
            got = f"{', '.join(self.modes)} with --server"
            raise UserError("--modes", got=got, expected="flat: servers act on the command", do="leave one out")

    @property
    def needs_subtasks(self) -> bool:
        return self.commands == "high-level" or "oracle" in self.modes


def closed_loop(folders: Sequence[str], options: LoopOptions, *, ema: bool) -> None:
    """Play with the newest checkpoint of every run, print its tables and write `closed_loop.json`."""
    for folder in folders:
        for table in closed_loop_tables(folder, play(Path(folder), options, ema=ema)):
            Console().print(table)


@dataclass
class Tape:
    """Hears of episodes as they end: what they did, for the films, and how far it all is."""

    total: int
    report: Report
    actions: dict[tuple[str, Trial], list[Action]] = field(default_factory=dict)
    """By mode and trial."""

    def ended(self, episode: Episode, result: RolloutResult) -> None:
        self.actions[result.policy, episode.trial] = episode.actions
        self.report(len(self.actions), self.total, told(result))


def play(run: Path, options: LoopOptions, *, ema: bool) -> ClosedLoop:
    """Play, and write `closed_loop.json` and films into the run folder."""
    begin = time.perf_counter()
    config = read_config(run / "config.yaml")
    trials = _trials(run, config, options)
    results: list[RolloutResult] = []
    with ExitStack() as opened, progress_bar("playing") as report:
        tape = Tape(len(options.modes) * len(trials), report)
        for mode, plan in _plans(run, config, trials, options, ema=ema, opened=opened):
            results += run_rollouts(
                Chunks(plan, options.execute_steps),
                trials,
                policy=mode,
                image_size=config.model.vision.image_size,
                worlds=options.worlds,
                ended=tape.ended,
            )
    found = ClosedLoop(
        step=latest(run) or 0,
        weights="ema" if ema else "raw",
        server=options.server or "",
        execute_steps=options.execute_steps,
        seconds=time.perf_counter() - begin,
        results=tuple(results),
        films=tuple(_films(run / FOLDER, trials, results, tape, options.films)),
    )
    write_closed_loop(run, found)
    return found


def _films(
    folder: Path, trials: Sequence[Trial], results: Sequence[RolloutResult], tape: Tape, per_outcome: int
) -> Iterator[Film]:
    """Films of some episodes, in place of those of an earlier call: what names those goes first."""
    (folder.parent / FILE).unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.mp4"):
        old.unlink()
    for place in chosen(results, per_outcome):
        trial, result = trials[place % len(trials)], results[place]
        yield make_film(folder, trial, result, tape.actions[result.policy, trial])


def _trials(run: Path, config: Config, options: LoopOptions) -> list[Trial]:
    """What is played; refuses what this run cannot play."""
    if not config.stage.objective.expert:
        raise UserError(
            f"closed loop of {run}",
            got="a run without an action expert",
            expected="a post-trained one",
            do="post-train it",
        )
    if options.execute_steps > config.model.action_horizon:
        raise UserError(
            "--execute-steps",
            got=options.execute_steps,
            expected=f"at most a chunk, {config.model.action_horizon}",
            do="lower it",
        )
    conditions = [condition for condition in CONDITIONS if condition.replace(" ", "-") in options.conditions]
    rooms, high_level = _trained_rooms(config), options.commands == "high-level"
    trials = plan_trials(
        _tasks(run, config, options), options.episodes, conditions, high_level=high_level, trained_rooms=rooms
    )
    if not trials:
        raise UserError("--conditions", got=conditions, expected="one that the tasks have", do="name another")
    return trials


def _tasks(run: Path, config: Config, options: LoopOptions) -> Sequence[str]:
    """Names of tasks that the run has learnt, and that can be played so."""
    sources = {name for name, card in enabled_cards(config).items() if card.has_actions}
    learnt = [name for name, task in EVALUATION_TASKS.items() if task.source in sources]
    for task in map(known_task, options.tasks):
        if task.name not in learnt:
            raise UserError(
                f"closed loop of {run}, task {task.name}",
                got=f"a run without the source {task.source}",
                expected=f"one of {sorted(sources)}",
                do="name another task or run",
            )
        if options.needs_subtasks and not task.high_level:
            raise UserError(
                f"task {task.name}",
                got="high-level commands or the oracle",
                expected="a task with subtasks",
                do="leave it out",
            )
    tasks = options.tasks or [t for t in learnt if EVALUATION_TASKS[t].high_level or not options.needs_subtasks]
    if not tasks:
        raise UserError(
            f"closed loop of {run}",
            got=f"the sources {sorted(sources)}",
            expected="one of a simulator",
            do="name another run",
        )
    return tasks


def _trained_rooms(config: Config) -> Callable[[str], Sequence[Room]] | None:
    """By source, the rooms the run was trained in; None: all, since nothing was left out."""
    if config.mixture.filters.environments is None:
        return None
    mixture = Mixture.of(config)
    found = {name: environments(mixture.indexes[name], mixture.rows[name]) for name in mixture.names}
    return lambda source: [room for room in ROOMS if room_name(source, room) in found[source]]


def _plans(
    run: Path, config: Config, trials: Sequence[Trial], options: LoopOptions, *, ema: bool, opened: ExitStack
) -> Iterator[tuple[str, Plan]]:
    """What plans in each mode."""
    if options.server is not None:
        yield "flat", plan_of(opened.enter_context(_remote(run, config, trials, options)))
        return
    policy = load_policy(run, ema=ema)
    policy.batch_samples = options.worlds
    above = [name for name, card in enabled_cards(config).items() if card.kind == "HL"]
    if "hierarchical" in options.modes and len(above) != 1:
        raise UserError(
            f"closed loop of {run}, hierarchical", got=f"the high-level sources {above}", expected="one", do="leave it"
        )
    for mode in options.modes:
        source = above[0] if mode == "hierarchical" else None
        limit = config.evaluation.max_text_tokens
        yield mode, plan_of_levels(Hierarchy(policy, mode, high_level_source=source, max_text_tokens=limit))


def _remote(run: Path, config: Config, trials: Sequence[Trial], options: LoopOptions) -> RemotePolicy:
    """The run behind a server; refuses a server of another robot, run, checkpoint or mode."""
    assert options.server is not None
    sources = sorted({EVALUATION_TASKS[trial.task].source for trial in trials})
    if len(sources) != 1:
        raise UserError(
            "--server", got=f"tasks of {', '.join(sources)}", expected="tasks of one robot", do="choose --tasks"
        )
    card = enabled_cards(config)[sources[0]]
    if not card.robot:
        raise UserError(f"source {card.name}", got="no robot", expected="a robot's card", do="name it in the card")
    remote = RemotePolicy(
        options.server, RobotInterface(read_robot(card.robot), card), api_key=read_api_key(options.api_key_file)
    )
    own = {"run": run.resolve().name, "step": latest(run), "mode": "flat"}
    if (theirs := {name: remote.about.get(name) for name in own}) != own:
        remote.close()
        raise UserError(f"server {options.server}", got=theirs, expected=own, do="serve this run so")
    return remote
