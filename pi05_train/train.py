"""One stage of training: build, fit, close. `pi05 train` and `python -m pi05_train.train` both come here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pi05_train.checkpoint.run_state import DataState, latest
from pi05_train.checkpoint.weights import load_weights
from pi05_train.config.build import build_processor, fingerprints, save_statistics, shard_statistics
from pi05_train.config.compose import compose, to_yaml
from pi05_train.config.schema import Config
from pi05_train.data.fitting.fast_report import require_measured
from pi05_train.data.loading.loader import make_loader
from pi05_train.data.loading.micro_batches import make_division
from pi05_train.data.loading.reader import Reader
from pi05_train.data.loading.shard_cache import shard_cache
from pi05_train.data.order.mixture import Mixture
from pi05_train.engine.single import SingleEngine
from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.model.lora import adapt
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.policy import Policy
from pi05_train.trainer.examples import example_maker
from pi05_train.trainer.loop import Plan, fit
from pi05_train.trainer.metrics import mixture_row
from pi05_train.trainer.run_folder import RunFolder
from pi05_train.trainer.trackers import make_trackers


def train(config: Config) -> Path:
    """Train the stage the configuration describes, or go on where it stopped; returns its run folder.

    Raises UserError, before any step, for whatever a person can mend.
    """
    mixture = Mixture.of(config)
    schedule = mixture.schedule(
        config.run.seed, config.data.global_batch_samples, config.run.steps, read_group=config.data.read_group
    )
    steps = config.run.steps if schedule.end_step is None else schedule.end_step
    if steps < config.run.steps:
        print(f"The run ends after {steps} of {config.run.steps} steps: {schedule.end_reason}.")
    reader = Reader(mixture, shard_cache(mixture, config.data))
    statistics = shard_statistics(config)
    processor = build_processor(config, statistics)
    if config.stage.objective.text:
        require_measured(config, statistics)
    division = make_division(config, mixture, statistics, rank=SingleEngine.rank, world_size=SingleEngine.world_size)
    model = initial_model(config)
    engine = SingleEngine(model, config.stage.objective, config.optimizer, config.engine)

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
            run_folder=folder.path,
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
    data = {name: mixture.indexes[name].fingerprint for name in mixture.names} | fingerprints(config, statistics)
    with RunFolder(Path(config.run.folder), config=to_yaml(config), fingerprints=data) as folder:
        save_statistics(folder.path, statistics)
        epochs = schedule.epochs(steps)
        sources = [
            row | {"epochs": epochs[str(row["source"])], "order": mixture.order_of(str(row["source"]), schedule)}
            for row in mixture.describe(schedule.requested(steps))
        ]
        (folder.path / "mixture.json").write_text(json.dumps(sources, indent=1) + "\n")
        trackers = make_trackers(config.logger, folder.path, asdict(config))
        try:
            show = None
            if config.logger.examples_every_steps:
                policy = Policy(model, processor, euler_steps=config.evaluation.euler_steps)
                show = example_maker(config, policy, folder.path, trackers)
            fit(engine, batches, plan, folder, trackers, after_step=show)
        finally:
            for tracker in trackers:
                tracker.close()
    return folder.path


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
        train(compose(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"pi05_train.train: {error}")


if __name__ == "__main__":
    main()
