"""The loop: draw, step, log, save, until the steps are done or somebody asks to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from pi05_train.checkpoint.config import CheckpointConfig
from pi05_train.checkpoint.ranks import Ranks
from pi05_train.checkpoint.run_state import DataState, check_data_state, latest, load, step_folder
from pi05_train.checkpoint.saver import Saver
from pi05_train.config.run_parts import ScheduleConfig
from pi05_train.data.loading.loader import LostWorker
from pi05_train.data.loading.quarantine import Quarantine
from pi05_train.engine.protocol import Engine
from pi05_train.engine.schedule import learning_rate
from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.model.config import ModelConfig
from pi05_train.trainer.metrics import Losses, Row, Speed, memory_row
from pi05_train.trainer.progress import ProgressView
from pi05_train.trainer.run_folder import RunRecords
from pi05_train.trainer.stop import StopRequest, stop_requests
from pi05_train.trainer.trackers import Tracker

LoaderFactory = Callable[[int], Iterator[list[Batch]]]
"""From the first step to the micro-batches of each step from there on."""


@dataclass(frozen=True)
class Plan:
    """What the loop needs of a run's configuration."""

    steps: int
    data_state: Callable[[int], DataState]
    """Where the data stands before a step; a checkpoint made on other data is refused."""
    peak_learning_rate: float
    schedule: ScheduleConfig
    checkpoint: CheckpointConfig
    log_every_steps: int
    mixture_row: Callable[[int], Row]
    """What the steps before one asked of the sources, for its row."""
    kinds: Mapping[str, str]
    """Kind of each source, for losses per kind."""
    model: ModelConfig


def fit(
    engine: Engine,
    make_loader: LoaderFactory,
    plan: Plan,
    folder: RunRecords,
    trackers: Sequence[Tracker] = (),
    after_step: Callable[[int], None] | None = None,
    console: Console | None = None,
    quarantine: Quarantine | None = None,
) -> int:
    """Train until `plan.steps` optimizer steps are done, from the folder's newest checkpoint on; return the steps done.

    SIGTERM finishes the step, saves and returns; SIGINT does so and raises KeyboardInterrupt; a second SIGINT, later,
    interrupts at once. However it ends, a checkpoint that was begun is complete. A signal to one rank stops all of
    them, after the same step. Interrupted or not, the same rows and weights result. `after_step` hears the steps done;
    `quarantine` is what the loader adds bad samples to.
    """
    world = engine.world
    ranks = Ranks.join()
    start, losses = resume(engine, plan, folder, ranks)
    if start == plan.steps:
        return start
    loader, speed = make_loader(start), Speed(plan.model, engine.device_name)
    saved = done = start
    console = console or Console(quiet=world.rank > 0)
    saving = Saver(folder.path, plan.checkpoint, ranks, engine.state(), pinned=engine.device_name != "cpu")
    with stop_requests() as stop, ProgressView(start, plan.steps, console) as view, saving as saver:
        while done < plan.steps:
            saver.before_step()
            with speed.waiting_for_data():
                micro_batches = _draw(loader, stop)
            bad = quarantine.waiting if quarantine else []
            stopping, any_bad = world.max([micro_batches is None, bool(bad)])
            if any_bad and quarantine:
                entries = [entry for of_rank in world.gather(bad) for entry in of_rank]
                quarantine.record(entries, draws=(done + 1 - start) * plan.data_state(done).global_batch_samples)
            if stopping or micro_batches is None:
                break
            rate = learning_rate(done, plan.peak_learning_rate, plan.schedule)
            result = engine.train_step(micro_batches, learning_rate=rate)
            losses.add(result)
            speed.add(micro_batches, result)
            done += 1
            view.show(done, result.loss, speed.samples_per_second)
            if done == plan.steps or done % plan.log_every_steps == 0:
                row: Row = {"step": done - 1, "learning_rate": rate}
                row |= losses.row(plan.kinds) | plan.mixture_row(done) | speed.row() | memory_row(engine.device_name)
                folder.append_metrics(row)
                for tracker in trackers:
                    tracker.log(row)
                losses = losses.restart()
            if after_step is not None:
                after_step(done)
            if done % plan.checkpoint.every_steps == 0:
                saver.save(done, engine.state(), _beside(plan, done, losses))
                saved = done
        if saved < done:
            saver.save(done, engine.state(), _beside(plan, done, losses))
        if world.max([stop.signal == signal.SIGINT])[0]:
            raise KeyboardInterrupt
    return done


def _draw(loader: Iterator[list[Batch]], stop: StopRequest) -> list[Batch] | None:
    """The next step's micro-batches; None after a signal, which may have ended the loader's workers too."""
    try:
        return next(loader) if stop.signal is None else None
    except LostWorker:
        if stop.signal is None:
            raise
        return None


def resume(engine: Engine, plan: Plan, folder: RunRecords, ranks: Ranks) -> tuple[int, Losses]:
    """Bring the engine to the newest checkpoint and cut metrics.jsonl there; (0, nothing) where there is none.

    Refuses a checkpoint of other data or another model, and one beyond `plan.steps`.
    """
    [start] = engine.world.max([latest(folder.path) or 0])
    if start == 0:
        folder.cut_metrics(0)
        return 0, Losses()
    if start > plan.steps:
        raise UserError(
            "run.steps", got=plan.steps, expected=f"at least {start}, the steps already done", do="raise run.steps"
        )
    state = engine.state()
    extra = load(folder.path, start, state, ranks)
    check_data_state(step_folder(folder.path, start), extra["data"], plan.data_state(start))
    engine.load_state(state)
    folder.cut_metrics(start)
    return start, Losses.from_state(extra["losses"])


def _beside(plan: Plan, step: int, losses: Losses) -> dict[str, Any]:
    """What a checkpoint holds beside the engine's state; `resume` reads it."""
    return {"data": asdict(plan.data_state(step)), "losses": losses.state()}
