"""What `pi05 evaluate --closed-loop` plays: its options, and the episodes of a run that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pi05_train.config.build import enabled_cards
from pi05_train.config.schema import Config
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.sources.rows import environments
from pi05_train.errors import UserError
from pi05_train.evaluation.rollouts import Trial, known_task, plan_trials
from pi05_train.policy.execution import Execution
from pi05_train.policy.hierarchy import MODES
from pi05_train.simulation.environments import EVALUATION_TASKS
from pi05_train.simulation.rooms import CONDITIONS, ROOMS, Room, room_name

EXECUTE_STEPS = 5


@dataclass(frozen=True)
class LoopOptions:
    """What to play; see `pi05 evaluate --help`."""

    tasks: Sequence[str] = ()
    """None named: all that the run has learnt."""
    modes: Sequence[str] = ()
    """None named: flat; with a server, the one it acts in."""
    commands: str = "task"
    conditions: Sequence[str] = tuple(name.replace(" ", "-") for name in CONDITIONS)
    episodes: int = 10
    strategy: str = "receding_horizon"
    execute_steps: int | None = None
    """None: 5, or what the strategy has."""
    delay_steps: int = 0
    worlds: int = 8
    processes: int = 1
    films: int = 1
    server: str | None = None
    api_key_file: str | None = None

    def __post_init__(self) -> None:
        leasts = {"episodes": 1, "execute_steps": 1, "delay_steps": 0, "worlds": 1, "processes": 1, "films": 0}
        for name, least in leasts.items():
            if (value := getattr(self, name)) is not None and value < least:
                option = f"--{name.replace('_', '-')}"
                raise UserError(option, got=value, expected=f"at least {least}", do="correct it")
        if unknown := [mode for mode in self.modes if mode not in MODES]:
            raise UserError("--modes", got=repr(unknown[0]), expected="of " + ", ".join(MODES), do="correct it")
        if self.server and (len(self.modes) > 1 or "oracle" in self.modes):
            got, expected = f"{', '.join(self.modes)} with --server", "its one mode, flat or hierarchical"
            raise UserError("--modes", got=got, expected=expected, do="leave one out")
        if self.strategy == "open_loop" and self.execute_steps is not None:
            expected = "another strategy: an open loop executes whole chunks"
            raise UserError("--execute-steps", got="it with open_loop", expected=expected, do="leave one out")

    def execution(self, horizon: int) -> Execution:
        """How one robot spends its chunks of `horizon` steps."""
        steps = min(EXECUTE_STEPS, horizon) if self.execute_steps is None else self.execute_steps
        return Execution(self.strategy, horizon=horizon, execute_steps=steps, delay_steps=self.delay_steps)

    @property
    def needs_subtasks(self) -> bool:
        return self.commands == "high-level" or "oracle" in self.modes


def trials_of(run: Path, config: Config, options: LoopOptions) -> list[Trial]:
    """What is played; refuses what this run cannot play."""
    if not config.stage.objective.expert:
        raise UserError(
            f"closed loop of {run}",
            got="a run without an action expert",
            expected="a post-trained one",
            do="post-train it",
        )
    for name, steps in (("--execute-steps", options.execute_steps), ("--delay-steps", options.delay_steps)):
        if steps is not None and steps > (horizon := config.model.action_horizon):
            raise UserError(name, got=steps, expected=f"at most a chunk, {horizon}", do="lower it")
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
