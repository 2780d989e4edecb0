"""`pi05 data count`: how long every sample is, and what the budgets of a run make of that."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table

from pi05_train.commands.progress import progress_bar
from pi05_train.config.build import shard_statistics
from pi05_train.config.schema import Config
from pi05_train.data.loading.budget import Budget, divide
from pi05_train.data.loading.micro_batches import Sizes
from pi05_train.data.loading.token_counts import count_source
from pi05_train.data.order.mixture import Mixture

_STEPS = 50
"""Steps that are divided to show what budgets do."""


def count(config: Config, *, workers: int) -> None:
    """Count the tokens of every sample of the mixture's sources, and print what a step holds."""
    mixture = Mixture.of(config)
    statistics = shard_statistics(config)
    for name in mixture.names:
        with progress_bar(f"counting {name}") as report:
            index = mixture.indexes[name]
            lost = count_source(name, index, config, statistics, workers=workers, report=report)
        if lost:
            print(f"{name}: {lost} of {len(index)} samples cannot be read; see them with `pi05 data verify`")
    sizes = Sizes.open(config, mixture, statistics)
    table = Table("source", "samples", "tokens: mean", "most", "pictures: mean", "most")
    for name in mixture.names:
        tokens, images = sizes.of_source(name)
        numbers = (f"{tokens.mean():.0f}", tokens.max(), f"{images.mean():.2f}", images.max())
        table.add_row(name, str(len(tokens)), *map(str, numbers))
    Console().print(table)
    _show_steps(config, mixture, sizes)


def _show_steps(config: Config, mixture: Mixture, sizes: Sizes) -> None:
    """What the first steps hold, and their micro-batches where there is a budget."""
    batch, group = config.data.global_batch_samples, config.data.read_group
    schedule = mixture.schedule(config.run.seed, batch, _STEPS, read_group=group)
    steps = [sizes.costs(schedule.draws(step)) for step in range(min(_STEPS, schedule.end_step or _STEPS))]
    tokens, images = (np.mean([getattr(costs, name).sum() for costs in steps]) for name in ("tokens_B", "images_B"))
    print(f"a step of {batch} samples: {tokens:.0f} tokens, {images:.0f} pictures in the mean")
    budget = Budget(config.data.micro_batch_tokens, config.data.micro_batch_images)
    if budget == Budget(None, None):
        print("set data.micro_batch_tokens to see how that budget divides it")
        return
    sizes.check(budget)
    divided = [divide(costs, budget, 1)[0] for costs in steps]
    loads = [[int(costs.tokens_B[part].sum()) for part in parts] for costs, parts in zip(steps, divided, strict=True)]
    numbers = [len(parts) for parts in divided]
    print(
        f"{min(numbers)} to {max(numbers)} micro-batches of at most {max(map(max, loads))} tokens; "
        f"the largest of a step is {np.mean([max(load) / np.mean(load) for load in loads]):.3f} times its mean"
    )
    without = sum(not costs.acting_B[part].any() for costs, parts in zip(steps, divided, strict=True) for part in parts)
    if config.stage.objective.expert and without:
        print(f"{without} of {sum(numbers)} micro-batches have no sample with actions: there are too few of them")
