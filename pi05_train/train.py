"""One stage of training: build, fit, close. `pi05 train` and `python -m pi05_train.train` both come here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pi05_train.checkpoint.run_state import DataState, latest
from pi05_train.checkpoint.weights import load_weights
from pi05_train.config.build import Statistics, build_processor, fingerprints, save_statistics, shard_statistics
from pi05_train.config.compose import compose, to_yaml
from pi05_train.config.schema import Config
from pi05_train.data.fitting.fast_report import require_measured
from pi05_train.data.loading.loader import make_loader
from pi05_train.data.loading.micro_batches import make_division
from pi05_train.data.loading.quarantine import Quarantine
from pi05_train.data.loading.reader import Reader
from pi05_train.data.loading.shard_cache import shard_cache
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.schedule import Schedule
from pi05_train.engine.choose import make_engine
from pi05_train.engine.pytorch import refuse_wrong_world
from pi05_train.engine.world import World, open_world
from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.model.lora import adapt
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.policy import Policy
from pi05_train.processing.processor import Processor
from pi05_train.trainer.examples import example_maker
from pi05_train.trainer.loop import Plan, fit
from pi05_train.trainer.metrics import mixture_row
from pi05_train.trainer.run_folder import FollowedRunFolder, RunFolder
from pi05_train.trainer.trackers import make_trackers


def train(config: Config, world: World) -> Path:
    """Train the stage the configuration describes, or go on where it stopped; returns its run folder.

    Every rank of the world calls this. Raises UserError, before any step, for whatever a person can mend.
    """
    refuse_wrong_world(config.engine, world)
    refuse_undivided_batch(config, world)
    mixture, schedule, steps, statistics, processor = inputs = open_inputs(config)
    if steps < config.run.steps and world.rank == 0:
        print(f"The run ends after {steps} of {config.run.steps} steps: {schedule.end_reason}.")
    reader = Reader(mixture, shard_cache(mixture, config.data))
    division = make_division(config, mixture, statistics, rank=world.rank, world_size=world.size)
    model = initial_model(config)
    engine = make_engine(model, config.stage.objective, config.optimizer, config.engine, world)
    quarantine = Quarantine(Path(config.run.folder), mixture, writes=world.rank == 0)

    def batches(start: int) -> Iterator[list[Batch]]:
        loader = make_loader(
            mixture,
            schedule,
            reader,
            processor,
            division=division,
            flow_draws=config.stage.objective.flow_draws,
            start_step=start,
            stop_step=steps,
            num_workers=config.data.workers,
            quarantine=quarantine,
            prefetch_batches=config.data.prefetch_batches,
        )
        return (micro_batches for _, micro_batches in loader)

    plan = Plan(
        steps=steps,
        data_state=lambda step: DataState(
            config.run.seed, step, schedule.global_batch, mixture.fingerprint_at(step, schedule)
        ),
        peak_learning_rate=config.optimizer.learning_rate,
        schedule=config.schedule,
        checkpoint=config.checkpoint,
        log_every_steps=config.logger.every_steps,
        mixture_row=partial(mixture_row, schedule),
        kinds={name: card.kind for name, card in mixture.cards.items()},
        model=config.model,
    )
    if world.rank > 0:
        world.barrier()  # the first rank has opened the folder
        fit(engine, batches, plan, FollowedRunFolder(Path(config.run.folder)), quarantine=quarantine)
        return Path(config.run.folder)
    with open_run_folder(config, inputs) as folder:
        world.barrier()
        trackers = make_trackers(config.logger, folder.path, asdict(config))
        try:
            show = None
            if config.logger.examples_every_steps:
                policy = Policy(model, processor, euler_steps=config.evaluation.euler_steps)
                show = example_maker(config, policy, folder.path, trackers)
            fit(engine, batches, plan, folder, trackers, after_step=show, quarantine=quarantine)
        finally:
            for tracker in trackers:
                tracker.close()
    return folder.path


def prepare(config: Config) -> None:
    """Write the run folder as `train` does, and refuse what it refuses of data and tokenizers; needs no device."""
    with open_run_folder(config, open_inputs(config)):
        pass


class Inputs(NamedTuple):
    """What a configuration says that a run reads, opened and checked."""

    mixture: Mixture
    schedule: Schedule
    steps: int
    """`run.steps`, or fewer where the data end."""
    statistics: Statistics
    processor: Processor


def open_inputs(config: Config) -> Inputs:
    """Raises UserError for shards, statistics and tokenizers that are missing or do not fit."""
    mixture = Mixture.of(config)
    schedule = mixture.schedule(
        config.run.seed, config.data.global_batch_samples, config.run.steps, read_group=config.data.read_group
    )
    steps = config.run.steps if schedule.end_step is None else schedule.end_step
    statistics = shard_statistics(config)
    processor = build_processor(config, statistics)
    if config.stage.objective.text:
        require_measured(config, statistics)
    return Inputs(mixture, schedule, steps, statistics, processor)


@contextmanager
def open_run_folder(config: Config, inputs: Inputs) -> Iterator[RunFolder]:
    """The run's folder, new or its own, with everything in it that is decided before the first step."""
    mixture = inputs.mixture
    data = {name: mixture.indexes[name].fingerprint for name in mixture.names} | fingerprints(config, inputs.statistics)
    with RunFolder(Path(config.run.folder), config=to_yaml(config), fingerprints=data) as folder:
        save_statistics(folder.path, inputs.statistics)
        save_mixture(folder.path, mixture, inputs.schedule, inputs.steps)
        yield folder


def save_mixture(run: Path, mixture: Mixture, schedule: Schedule, steps: int) -> None:
    """Write down what the run asks of every source, and what decides the source's order."""
    epochs = schedule.epochs(steps)
    sources = [
        row | {"epochs": epochs[str(row["source"])], "order": mixture.order_of(str(row["source"]), schedule)}
        for row in mixture.describe(schedule.requested(steps))
    ]
    (run / "mixture.json").write_text(json.dumps(sources, indent=1) + "\n")


def refuse_undivided_batch(config: Config, world: World) -> None:
    """Every rank takes as many samples of a step's batch."""
    if config.data.global_batch_samples % world.size:
        raise UserError(
            "data.global_batch_samples",
            got=f"{config.data.global_batch_samples} over {world.size} ranks",
            expected="a multiple of the number of ranks",
            do="change one of them",
        )


def initial_model(config: Config) -> Pi05:
    """Fresh weights from the seed, or those of `run.start_from`; an expert (paper, IV-B) or LoRA it lacks is made here.

    A run that has a checkpoint of its own goes on from that one.
    """
    model = Pi05(config.model, expert=config.stage.objective.expert)
    adapt(model, config.adaptation)
    model.init_weights(config.run.seed)
    if config.run.start_from is not None and latest(Path(config.run.folder)) is None:
        load_weights(Path(config.run.start_from), model, ema=config.optimizer.ema_decay is not None)
    return model


def main() -> None:
    """The entry point of torchrun: overrides on the command line, a refusal as the last line."""
    try:
        with open_world() as world:
            train(compose(sys.argv[1:]), world)
    except UserError as error:
        sys.exit(f"pi05_train.train: {error}")


if __name__ == "__main__":
    main()
