"""Micro-batches by a token budget against micro-batches of a fixed number of samples, over the same steps.

The budget is what fixed numbers need at their worst, so both fit the same memory. Nothing is trained: these are counts
of tokens, exact for the lengths given, and the time of the division itself.

Run: uv run python -m benchmarks.packing [--steps 50] [--demo runs/demo]
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pi05_train.commands.count import count
from pi05_train.config.build import shard_statistics
from pi05_train.config.compose import compose, compose_model
from pi05_train.data.loading.budget import Budget, Costs, divide
from pi05_train.data.loading.micro_batches import Sizes
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.schedule import Draw, Schedule
from pi05_train.processing.example import Example, FlowDraws, pack
from pi05_train.trainer.flops import training_flops

FULL_SIZE = {
    # share of examples, (fewest, most) pictures, (fewest, most) prompt and target tokens, actions
    "mobile": (0.024, (3, 3), (100, 170), True),
    "homes": (0.276, (1, 2), (60, 130), True),
    "laboratory": (0.40, (1, 3), (80, 150), True),
    "subtasks": (0.10, (4, 4), (30, 120), False),
    "web": (0.20, (1, 1), (15, 250), False),
}
"""Shares and cameras of data_mixtures/mixture/paper_pretrain.yaml; lengths are made up, uniform between the two."""
TOKENS_PER_IMAGE, ROWS = 256, 100_000
SAMPLES = (
    (1, 20, 30, 0),
    (1, 20, 200, 0),
    (4, 60, 60, 0),
    (2, 60, 40, 1),
    (3, 80, 50, 0),
    (3, 80, 50, 1),
    (3, 80, 50, 8),
)
"""Pictures, prompt tokens, target tokens and flow draws (0: no actions) of samples whose operations are compared."""
CostsOf = Callable[[Sequence[Draw]], Costs]


def full_size() -> tuple[CostsOf, Callable[[int], Schedule]]:
    """The costs of draws, and the schedule for a batch, of the mixture `FULL_SIZE`."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(low, high + 1, ROWS) for name, (_, (low, high), _, _) in FULL_SIZE.items()}
    text = {name: rng.integers(low, high + 1, ROWS) for name, (_, _, (low, high), _) in FULL_SIZE.items()}

    def costs(draws: Sequence[Draw]) -> Costs:
        images_B = np.array([images[draw.source][draw.row] for draw in draws])
        text_B = np.array([text[draw.source][draw.row] for draw in draws])
        acting_B = np.array([FULL_SIZE[draw.source][3] for draw in draws])
        return Costs(TOKENS_PER_IMAGE * images_B + text_B, images_B, acting_B)

    shares = [entry[0] for entry in FULL_SIZE.values()]
    return costs, lambda batch: Schedule(0, list(FULL_SIZE), [ROWS] * len(FULL_SIZE), shares, batch)


def demo(folder: Path, cache: Path) -> tuple[CostsOf, Callable[[int], Schedule]]:
    """The same of the demo's first stage, counted in the folder that `pi05 demo` filled."""
    tokenizers = [f"tokenizer.{name}={folder}/tokenizers/{name}" for name in ("text", "fast")]
    config = compose(["experiment=demo_pretrain", f"data.root={folder}/data", f"data.cache={cache}", *tokenizers])
    start = time.process_time()
    count(config, workers=1)
    print(f"counted in {time.process_time() - start:.1f} s of processor time")
    mixture = Mixture.of(config)
    sizes = Sizes.open(config, mixture, shard_statistics(config))
    return sizes.costs, lambda batch: mixture.schedule(0, batch, 1000)


def fixed(costs: Costs, world_size: int, samples: int) -> NDArray[np.int64]:
    """Tokens [ranks, turns] of micro-batches of so many samples in slot order."""
    tokens: NDArray[np.int64] = costs.tokens_B.reshape(world_size, -1, samples).sum(axis=2)
    return tokens


def budgeted(costs: Costs, world_size: int, budget: Budget) -> NDArray[np.int64]:
    """Tokens [ranks, turns] of micro-batches within the budget."""
    return np.array([[costs.tokens_B[part].sum() for part in rank] for rank in divide(costs, budget, world_size)])


def figures(steps: list[NDArray[np.int64]], limit: int) -> str:
    """The means over the steps that a person compares."""
    spread = np.mean([loads.max() / loads.mean() for loads in steps])
    fill = np.mean([loads.mean() / limit for loads in steps])
    turns = np.mean([loads.max(axis=0).sum() / loads.sum(axis=1).mean() for loads in steps])
    ranks = np.mean([loads.sum(axis=1).max() / loads.sum(axis=1).mean() for loads in steps])
    number = np.mean([loads.shape[1] for loads in steps])
    return (
        f"{number:.1f} micro-batches per rank, largest / mean {spread:.3f}, {fill:.1%} of the budget filled, "
        f"waiting in every turn {turns - 1:.2%}, at the step's end {ranks - 1:.2%}"
    )


def compare(name: str, mixture: tuple[CostsOf, Callable[[int], Schedule]], steps: int, *settings: int) -> None:
    """Print both divisions of the first steps; settings: ranks, global batch, samples of a fixed micro-batch."""
    world_size, batch, samples = settings
    costs_of, schedule_of = mixture
    schedule = schedule_of(batch)
    costs = [costs_of(schedule.draws(step)) for step in range(steps)]
    by_number = [fixed(of, world_size, samples) for of in costs]
    limit = int(max(loads.max() for loads in by_number))
    start = time.process_time()
    for of in costs:
        divide(of, Budget(limit, None), world_size)
    spent = (time.process_time() - start) / steps * 1e3
    by_budget = [budgeted(of, world_size, Budget(limit, None)) for of in costs]
    print(f"{name}, ranks {world_size}, batch {batch}, budget {limit} tokens ({steps} steps)")
    print(f"  {samples} samples each: {figures(by_number, limit)}")
    print(f"  by budget: {figures(by_budget, limit)}; divided in {spent:.1f} ms per step")


def operations(images: int, prompt: int, target: int, *, flow_draws: int) -> float:
    """GFLOP of training per image, prompt and target token of a full-size sample; 0 flow draws: no actions."""
    model, _ = compose_model(["model=pi05"])
    chunk = np.zeros((model.action_horizon, model.action_dim), np.float32) if flow_draws else None
    mask = None if chunk is None else chunk == 0
    pictures = [torch.zeros(3, model.vision.image_size, model.vision.image_size, dtype=torch.uint8)] * images
    example = Example(pictures, [1] * prompt, [1] * target, chunk, mask, "source", "ME", "key")
    noise = np.zeros((flow_draws, model.action_horizon, model.action_dim), np.float32)
    batch = pack([example], [FlowDraws(noise, np.ones(flow_draws, np.float32))], [0], model)
    return training_flops(batch, model) / len(batch.token_ids_N) / 1e9


def main() -> None:
    """Print the settings and two lines per mixture and number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--demo", type=Path, help="folder that `pi05 demo` filled")
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, numpy {np.__version__}, "
        f"load average {os.getloadavg()[0]:.1f}; times are processor time"
    )
    mixture = full_size()
    for settings in ((1, 256, 32), (8, 2048, 32), (64, 4096, 32), (64, 4096, 8)):
        compare("full-size lengths", mixture, options.steps, *settings)
    compare("full-size lengths", mixture, max(1, options.steps // 10), 1, 4096, 2)
    for images, prompt, target, flow_draws in SAMPLES:
        cost = operations(images, prompt, target, flow_draws=flow_draws)
        print(f"{images} pictures, {prompt} + {target} tokens, {flow_draws} flow draws: {cost:.2f} GFLOP per token")
    if options.demo:
        with tempfile.TemporaryDirectory() as cache:
            mixture = demo(options.demo, Path(cache))
            for settings in ((1, 32, 8), (8, 512, 16), (64, 4096, 16)):
                compare("demo", mixture, options.steps, *settings)


if __name__ == "__main__":
    main()
