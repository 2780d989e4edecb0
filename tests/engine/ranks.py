"""What every rank of a test does: `python -m tests.engine.ranks FOLDER`, as a launcher starts it.

Each case trains one engine for some steps; the first rank writes what came of it to FOLDER/ranks-SIZE.pt. Four ranks
leave a checkpoint that two continue from, with two engines.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from pi05_train.checkpoint.ranks import Ranks
from pi05_train.checkpoint.run_state import load, save
from pi05_train.config.run_parts import EngineConfig
from pi05_train.engine import choose
from pi05_train.engine.protocol import Engine
from pi05_train.engine.world import ALONE, World, open_world
from pi05_train.model.adaptation import AdaptationConfig, LoraRule
from pi05_train.model.batch import Batch
from pi05_train.model.lora import adapt
from pi05_train.model.pi05 import Pi05
from tests.engine.tiny import CPU_FP32, OPTIMIZER, POSTTRAIN, TINY, tiny_mixed_batch

STEPS = 20
FEW_STEPS = 5
"""Where other cases take all of them with the same arithmetic."""
PARTS = ("WD", "HL", "ME", "CE")
"""Of a step, and of two ranks: web samples and text without a picture; robot samples and actions without a target."""
ADAPTATION = AdaptationConfig([LoraRule("layers.*_proj", 2, 4.0)], ["vision.*", "embedding.*", "layers.*"])
DDP, FSDP2 = (replace(CPU_FP32, name=name) for name in ("ddp", "fsdp2"))
GATHERED = replace(FSDP2, reshard_after_forward=False, activation_checkpointing="full")
OFFLOADED = replace(FSDP2, cpu_offload=True, activation_checkpointing="selective")
HSDP = replace(CPU_FP32, name="hsdp", shard_ranks=2)


@dataclass(frozen=True)
class Case:
    """One way to train the same batches."""

    engine: EngineConfig
    accumulate: bool = False
    insulation: bool = True
    adapted: bool = False

    @property
    def name(self) -> str:
        engine = self.engine
        words = {
            engine.name: True,
            engine.precision: True,
            engine.activation_checkpointing: engine.activation_checkpointing != "none",
            "gathered": not engine.reshard_after_forward,
            "offloaded": engine.cpu_offload,
            "accumulating": self.accumulate,
            "insulated": self.insulation,
            "adapted": self.adapted,
        }
        return " ".join(word for word, holds in words.items() if holds)


def cases(size: int) -> list[Case]:
    """Four ranks try what needs four."""
    if size == 4:
        return [Case(HSDP)]
    return [
        *(Case(engine, accumulate=True, insulation=False) for engine in (DDP, FSDP2, GATHERED, OFFLOADED)),
        *(Case(engine) for engine in (DDP, FSDP2)),
        *(Case(engine, accumulate=True, adapted=True) for engine in (DDP, FSDP2)),
        *(Case(replace(engine, precision="bf16")) for engine in (DDP, FSDP2)),
    ]


def own_batches(step: int, world: World, *, accumulate: bool) -> list[Batch]:
    """This rank's share of the four parts of a step, each a micro-batch of its own or all in one."""
    places = range(len(PARTS) * world.rank // world.size, len(PARTS) * (world.rank + 1) // world.size)
    parts = [[(4 * step + place, PARTS[place]), (1000 + 4 * step + place, PARTS[place])] for place in places]
    if accumulate:
        return [tiny_mixed_batch(part) for part in parts]
    return [tiny_mixed_batch([sample for part in parts for sample in part])]


def make_engine(case: Case, world: World) -> Engine:
    model = Pi05(TINY, expert=True)
    if case.adapted:
        adapt(model, ADAPTATION)
    model.init_weights(0)
    return choose.make_engine(model, replace(POSTTRAIN, insulation=case.insulation), OPTIMIZER, case.engine, world)


def train_step(engine: Engine, step: int, *, accumulate: bool = False) -> dict[str, Any]:
    batches = own_batches(step, engine.world, accumulate=accumulate)
    return asdict(engine.train_step(batches, learning_rate=1e-3))


def outcome(case: Case, world: World, steps: int = STEPS) -> dict[str, Any]:
    """Of one case: the moments after the first step, every step's result, and the dtypes at the end."""
    engine = make_engine(case, world)
    results = [train_step(engine, 0, accumulate=case.accumulate)]
    moments = {name: whole(moment).clone() for name, moment in engine.state()["optimizer"]["exp_avg"].items()}
    results += [train_step(engine, step, accumulate=case.accumulate) for step in range(1, steps)]
    state = engine.state()
    kept = {"model": state["model"], "ema": state["ema"]} | state["optimizer"]
    dtypes = {kind: sorted({str(value.dtype) for value in values.values()}) for kind, values in kept.items()}
    return {"moments": moments, "results": results, "dtypes": dtypes}


@cache
def of_one_process(*, insulation: bool, adapted: bool) -> dict[str, Any]:
    """What every engine on any number of ranks must come to."""
    return outcome(Case(CPU_FP32, insulation=insulation, adapted=adapted), ALONE)


def whole(value: Tensor) -> Tensor:
    """The tensor of all ranks together."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def resumed(run: Path, step: int, case: Case, world: World) -> Engine:
    """A new engine brought to the checkpoint, whoever wrote it."""
    engine = make_engine(case, world)
    state = engine.state()
    load(run, step, state)
    engine.load_state(state)
    return engine


def hand_over(folder: Path, world: World) -> None:
    """FOLDER/one is one process's after step 0. Four ranks take step 1, two ranks step 2, with each engine."""
    if world.size == 4:
        engine = resumed(folder / "one", 1, Case(HSDP), world)
        train_step(engine, 1)
        save(folder / "four", 2, engine.state(), {}, Ranks.join())
        return
    for sharding in (DDP, FSDP2):
        engine = resumed(folder / "four", 2, Case(sharding), world)
        train_step(engine, 2)
        save(folder / sharding.name, 3, engine.state(), {}, Ranks.join())


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with open_world() as world:
        found = {
            case.name: outcome(case, world, FEW_STEPS if case.engine in (GATHERED, OFFLOADED) else STEPS)
            for case in cases(world.size)
        }
        if world.rank == 0:
            torch.save(found, folder / f"ranks-{world.size}.pt")
        hand_over(folder, world)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
