"""What ranks do with the ZeRO engines: `python -m tests.engine.zero_ranks FOLDER PART`, as a launcher starts it.

The first rank writes what came of each case of the part to FOLDER/found.pt.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from pi05_train.checkpoint.ranks import Ranks
from pi05_train.checkpoint.run_state import save
from pi05_train.config.run_parts import EngineConfig
from pi05_train.engine import zero
from pi05_train.engine.world import World, open_world
from pi05_train.errors import UserError
from tests.engine.ranks import DDP, FEW_STEPS, FSDP2, STEPS, Case, make_engine, outcome, resumed, train_step
from tests.engine.tiny import CPU_FP32, tiny_batch

ZERO = [replace(CPU_FP32, name=f"zero{stage}") for stage in (1, 2, 3)]
HOSTED = [replace(engine, cpu_offload=True) for engine in ZERO]
THIN = [
    Case(ZERO[0], accumulate=True, adapted=True),
    Case(HOSTED[1], accumulate=True),
    Case(ZERO[2], insulation=False),
    Case(HOSTED[2], accumulate=True, insulation=False),
]
MATRIX = [
    *(Case(engine, accumulate=True, insulation=False) for engine in ZERO),
    *(Case(engine) for engine in ZERO),
    *(Case(engine, accumulate=True, adapted=True) for engine in (*ZERO, *HOSTED)),
    *(Case(replace(engine, precision="bf16")) for engine in ZERO),
    *(Case(engine) for engine in HOSTED),
]
FOUR = [Case(engine, accumulate=accumulate) for engine in (DDP, FSDP2, *ZERO) for accumulate in (False, True)]
CASES = {"thin": THIN, "matrix": MATRIX, "four": FOUR}
RANKS = {"thin": 2, "matrix": 2, "four": 4}
MOVES = {"thin": [ZERO[1]], "matrix": [*ZERO, HOSTED[2]], "four": []}
"""Engines that go on from a checkpoint."""


def move_name(engine: EngineConfig) -> str:
    """Of what the engine leaves in FOLDER."""
    return engine.name + "-offloaded" * engine.cpu_offload


def refusal(world: World) -> str:
    """Of a step in which the last rank alone has a sample that is not finite."""
    bad = tiny_batch([0, 1])
    if world.rank == world.size - 1:
        bad = replace(bad, actions_AHD=bad.actions_AHD * float("nan"))
    try:
        make_engine(Case(ZERO[1]), world).train_step([bad], learning_rate=1e-3)
    except UserError as error:
        return str(error)
    return "none"


def hand_over(folder: Path, case: Case, world: World) -> None:
    """FOLDER/single is one process's after step 0. ZeRO takes step 1, fsdp2 step 2."""
    engine = resumed(folder / "single", 1, case, world)
    train_step(engine, 1)
    name = move_name(case.engine)
    save(folder / f"{name}-2", 2, engine.state(), {}, Ranks.join())
    engine = resumed(folder / f"{name}-2", 2, replace(case, engine=FSDP2), world)
    train_step(engine, 2)
    save(folder / f"{name}-3", 3, engine.state(), {}, Ranks.join())


def main(folder: Path, part: str) -> None:
    torch.set_num_threads(1)
    zero.WHOLE_BELOW = 100  # zero3 would cut nothing of a network this small
    found = {"loaded early": "deepspeed" in sys.modules}
    with open_world() as world:
        found |= {case.name: outcome(case, world, FEW_STEPS if part == "thin" else STEPS) for case in CASES[part]}
        for engine in MOVES[part]:
            hand_over(folder, Case(engine, adapted=True), world)
        found["refusals"] = world.gather(refusal(world))
        if world.rank == 0:
            torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
