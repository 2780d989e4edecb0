"""What every rank of a test does: `python -m tests.engine.ranks FOLDER`, as a launcher starts it.

Each case trains one engine for some steps; the first rank writes what came of it to FOLDER/ranks-SIZE.pt.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from pi05_train.config.run_parts import EngineConfig
from pi05_train.engine.pytorch import PyTorchEngine
from pi05_train.engine.world import World, open_world
from pi05_train.model.batch import Batch
from tests.engine.tiny import CPU_FP32, OPTIMIZER, POSTTRAIN, tiny_mixed_batch, tiny_model

STEPS = 20
PARTS = ("WD", "HL", "ME", "CE")
"""Of a step, and of two ranks: web samples and text without a picture; robot samples and actions without a target."""


@dataclass(frozen=True)
class Case:
    """One way to train the same batches."""

    engine: EngineConfig
    accumulate: bool
    insulation: bool

    @property
    def name(self) -> str:
        e = self.engine
        words = [e.name, e.precision, "accumulating" if self.accumulate else "", "insulated" if self.insulation else ""]
        return " ".join(word for word in words if word)


def cases(size: int) -> list[Case]:
    engines = [replace(CPU_FP32, name="ddp")]
    return [
        Case(engine, accumulate, insulation)
        for engine in engines
        for accumulate in ((False, True) if size == 2 else (False,))
        for insulation in (True, False)
    ]


def own_batches(step: int, world: World, *, accumulate: bool) -> list[Batch]:
    """This rank's share of the four parts of a step, each a micro-batch of its own or all in one."""
    places = range(len(PARTS) * world.rank // world.size, len(PARTS) * (world.rank + 1) // world.size)
    parts = [[(4 * step + place, PARTS[place]), (1000 + 4 * step + place, PARTS[place])] for place in places]
    if accumulate:
        return [tiny_mixed_batch(part) for part in parts]
    return [tiny_mixed_batch([sample for part in parts for sample in part])]


def make_engine(case: Case, world: World) -> PyTorchEngine:
    objective = replace(POSTTRAIN, insulation=case.insulation)
    return PyTorchEngine(tiny_model(), objective, OPTIMIZER, case.engine, world)


def train(case: Case, world: World, steps: int = STEPS) -> Iterator[tuple[PyTorchEngine, dict[str, Any]]]:
    """The engine and its `StepResult` after every step."""
    engine = make_engine(case, world)
    for step in range(steps):
        batches = own_batches(step, world, accumulate=case.accumulate)
        yield engine, asdict(engine.train_step(batches, learning_rate=1e-3))


def outcome(case: Case, world: World) -> dict[str, Any]:
    """Of one case: the first step's moments, every step's result, and the dtypes at the end."""
    results = []
    moments: dict[str, Tensor] = {}
    for engine, result in train(case, world):
        moments = moments or {name: whole(m).clone() for name, m in engine.state()["optimizer"]["exp_avg"].items()}
        results.append(result)
    state = engine.state()
    kept = {"model": state["model"], "ema": state["ema"]} | state["optimizer"]
    dtypes = {kind: sorted({str(value.dtype) for value in values.values()}) for kind, values in kept.items()}
    return {"moments": moments, "results": results, "dtypes": dtypes}


def whole(value: Tensor) -> Tensor:
    """The tensor of all ranks together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with open_world() as world:
        found = {case.name: outcome(case, world) for case in cases(world.size)}
        if world.rank == 0:
            torch.save(found, folder / f"ranks-{world.size}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
