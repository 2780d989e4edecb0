"""A program that trains again and again, is killed at random moments, and goes on.

`python -m tests.trainer.killed_runs FOLDER ROUNDS`: an uninterrupted run of one process, and one of two that share the
model (fsdp2); then of each, runs whose processes are killed with SIGKILL, one of them or all, at a random one of all
the moments at which one touches its run folder (audit events: files opened, renamed, removed ...), or only the files
of a checkpoint being written, and which are then finished. It fails unless all go on from the newest complete
checkpoint and end alike. Forks are cheap because this process only imports.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # fsdp2 imports it when it is first used, so every fork would
from torch import Tensor
from torch.distributed.tensor import DTensor

from pi05_train.checkpoint.run_state import latest
from pi05_train.engine.world import open_world
from pi05_train.model.batch import Batch
from tests.engine.tiny import POSTTRAIN
from tests.services.ports import free_ports
from tests.synthetic import write_synthetic_world
from tests.trainer.logged import logged
from tests.trainer.test_real_data import STEPS, World, train


@dataclass(frozen=True)
class Kill:
    """When and whom."""

    rank: int
    """Whose moments are counted."""
    saving: bool
    """Whether only those count at which it writes a checkpoint."""
    moment: int
    everyone: bool
    """Whether all ranks are killed, or this one alone."""


NOBODY = Kill(0, False, sys.maxsize, True)
_folder = ""
_rank = 0
_kill = NOBODY
_moments = {False: 0, True: 0}


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Count the moments from `arm` on, and die at the one that was chosen."""
    global _kill
    place = str(arguments[:1])
    if event.partition(".")[0] not in ("open", "os", "shutil") or not _folder or _folder not in place:
        return
    saving = ".saving-" in place
    _moments[False] += 1
    _moments[True] += saving
    if _kill.rank == _rank and _moments[_kill.saving] >= _kill.moment:
        everyone, _kill = _kill.everyone, NOBODY  # a kill is such a moment too
        (os.killpg if everyone else os.kill)(os.getpgrp() if everyone else os.getpid(), signal.SIGKILL)


def arm(folder: Path, rank: int, kill: Kill) -> None:
    """Begin to count what this rank does in `folder`."""
    global _folder, _rank, _kill
    _folder, _rank, _kill = str(folder), rank, kill
    _moments.update({False: 0, True: 0})


def digest(batches: list[Batch]) -> str:
    """Of all that a step's batches hold: ids, pixels, noise, where they come from."""
    state = hashlib.sha256()
    for batch in batches:
        for field in fields(Batch):
            value = getattr(batch, field.name)
            state.update(value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return state.hexdigest()


def beside(folder: Path, rank: int, ending: str) -> Path:
    """A file in which a rank writes down what its run in `folder` did."""
    return folder.parent / f"{folder.name}-{rank}.{ending}"


def run(world: World, folder: Path, kill: Kill) -> None:
    """Train in `folder` from where it stands, writing down every batch; the weights' hash at the end."""
    with open_world() as ranks:
        make = world.loader(folder, ranks=ranks)

        def loader(start: int) -> Iterator[list[Batch]]:
            for step, batches in enumerate(make(start), start):
                with beside(folder, ranks.rank, "batches").open("a") as file:
                    file.write(f"{step} {digest(batches)}\n")
                yield batches

        plan = world.plan()
        each = replace(plan.checkpoint, every_steps=1)
        world.plan = lambda: replace(plan, checkpoint=each)  # type: ignore[method-assign]
        arm(folder, ranks.rank, kill)
        engine = train(world, folder, world.engine(POSTTRAIN, ranks=ranks), loader=loader)
        moments = {"any": _moments[False], "saving": _moments[True]}
        arm(folder, ranks.rank, NOBODY)
        facts = {"moments": moments, "weights": {n: hash_of(w) for n, w in engine.state()["model"].items()}}
        beside(folder, ranks.rank, "json").write_text(json.dumps(facts))


def hash_of(weight: Tensor) -> str:
    """Of what this rank holds."""
    own = weight.to_local() if isinstance(weight, DTensor) else weight
    return hashlib.sha256(own.numpy().tobytes()).hexdigest()


def forked(world: World, folder: Path, size: int, kill: Kill = NOBODY) -> list[int]:
    """How the processes that train in `folder` ended; negative: by that signal. None of them is ended from here."""
    processes: list[int] = []
    port = free_ports(1)[0]
    for rank in range(size):
        process = os.fork()
        if process == 0:
            os.setpgid(0, processes[0] if processes else 0)
            if size > 1:
                where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank)}
                os.environ.update({"RANK": str(rank), "WORLD_SIZE": str(size), **where})
            try:
                run(world, folder, kill)
            except BaseException as error:
                if kill == NOBODY:
                    sys.excepthook(*sys.exc_info())
                os._exit(2 if isinstance(error, AssertionError) else 1)
            os._exit(0)
        processes.append(process)
    return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]


def lines(folder: Path, rank: int) -> list[str]:
    path = beside(folder, rank, "batches")
    return path.read_text().splitlines() if path.exists() else []


def go_on(world: World, folder: Path, size: int, kill: Kill = NOBODY) -> list[int]:
    """`forked`, which must begin at the newest complete checkpoint."""
    start = latest(folder) or 0
    before = [len(lines(folder, rank)) for rank in range(size)]
    ended = forked(world, folder, size, kill)
    for rank in range(size):
        drawn = lines(folder, rank)[before[rank] :]
        assert not drawn or drawn[0].split()[0] == str(start), f"{folder} began with {drawn[0]} instead of {start}"
    return ended


def outcome(folder: Path, size: int) -> tuple[list[Any], list[dict[str, str]], list[dict[str, Any]]]:
    """(weights and batches by step of every rank, metrics without speed); a step drawn twice was drawn alike."""
    batches: list[dict[str, str]] = [{} for _ in range(size)]
    for rank in range(size):
        for line in lines(folder, rank):
            step, found = line.split()
            assert batches[rank].setdefault(step, found) == found, f"step {step} of {folder}"
    weights = [json.loads(beside(folder, rank, "json").read_text())["weights"] for rank in range(size)]
    assert not [*folder.glob("checkpoints/.*")], f"leftovers in {folder}"
    return weights, batches, logged(folder)


def choose(random_: random.Random, moments: list[dict[str, int]], number: int, turn: int) -> Kill:
    """In turn: one rank inside a checkpoint, one rank at any moment, all ranks at any moment of one.

    Moments are those of a whole run; the second kill is an early one, since a run that goes on has fewer.
    """
    rank = random_.randrange(len(moments))
    kind = (number + turn) % 3
    counted = moments[rank]["saving" if kind == 0 else "any"]
    moment = random_.randrange(1, counted * 9 // 10 >> 2 * turn)
    return Kill(rank, kind == 0, moment, everyone=kind == 2)


def compare(world: World, root: Path, rounds: int, size: int) -> None:
    """Raise AssertionError unless every run of so many processes ends as the uninterrupted one."""
    root.mkdir()
    assert forked(world, root / "whole", size) == [0] * size
    whole = outcome(root / "whole", size)
    assert all(len(batches) == STEPS for batches in whole[1])
    assert len(whole[2]) == STEPS
    moments = [json.loads(beside(root / "whole", rank, "json").read_text())["moments"] for rank in range(size)]
    random_ = random.Random(rounds)
    for number in range(rounds):
        folder = root / f"round-{number}"
        killed = []
        for turn in range(2 if rounds > 1 else 1):
            kill = choose(random_, moments, number, turn)
            ended = go_on(world, folder, size, kill)
            assert set(ended) <= {0, 1, -signal.SIGKILL}, ended
            assert turn or -signal.SIGKILL in ended, kill
            killed.append(f"{kill}: {ended}")
        assert go_on(world, folder, size) == [0] * size
        assert outcome(folder, size) == whole, f"{folder} after {killed}"
        print(f"round {number + 1} of {rounds}, {size} ranks: {'; '.join(killed)}", flush=True)


def main(root: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    world = World(root / "world", write_synthetic_world(root / "world"))
    sys.addaudithook(watch)
    for size in (1, 2):
        compare(world, root / f"ranks-{size}", rounds, size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
