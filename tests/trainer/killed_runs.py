"""A program that trains again and again, is killed at random moments, and goes on.

`python -m tests.trainer.killed_runs FOLDER ROUNDS`: one uninterrupted run, then runs that kill themselves with SIGKILL
at a random one of all the moments at which they touch their run folder (audit events: files opened, renamed, removed
...) and are then finished. It fails unless all end alike. Forks are cheap because this process only imports.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pi05_train.model.batch import Batch
from tests.engine.tiny import POSTTRAIN
from tests.synthetic import write_synthetic_world
from tests.trainer.test_real_data import STEPS, World, train

_folder = ""
_moments = 0
_last = sys.maxsize


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Count the moments from `arm` on, and die at the one that was chosen."""
    global _moments, _last
    if event.partition(".")[0] in ("open", "os", "shutil") and _folder and _folder in str(arguments[:1]):
        _moments += 1
        if _moments >= _last:
            _last = sys.maxsize  # a kill is such a moment too
            os.kill(os.getpid(), signal.SIGKILL)


def arm(folder: Path, last: int) -> None:
    """Begin to count what happens in `folder`; die at moment number `last`."""
    global _folder, _moments, _last
    _folder, _moments, _last = str(folder), 0, last


def digest(batches: list[Batch]) -> str:
    """Of all that a step's batches hold: ids, pixels, noise, where they come from."""
    state = hashlib.sha256()
    for batch in batches:
        for field in fields(Batch):
            value = getattr(batch, field.name)
            state.update(value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return state.hexdigest()


def run(world: World, folder: Path, last: int) -> None:
    """Train in `folder` from where it stands, writing down every batch; the weights' hash at the end."""
    make = world.loader(folder)

    def loader(start: int) -> Iterator[list[Batch]]:
        for step, batches in enumerate(make(start), start):
            with (folder.parent / f"{folder.name}.batches").open("a") as file:
                file.write(f"{step} {digest(batches)}\n")
            yield batches

    plan = world.plan()
    world.plan = lambda: replace(plan, checkpoint=replace(plan.checkpoint, every_steps=1))  # type: ignore[method-assign]
    arm(folder, last)
    engine = train(world, folder, world.engine(POSTTRAIN), loader=loader)
    moments = _moments
    arm(folder, sys.maxsize)
    weights = {
        name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in engine.state()["model"].items()
    }
    facts = {"moments": moments, "weights": weights}
    (folder.parent / f"{folder.name}.json").write_text(json.dumps(facts))


def forked(world: World, folder: Path, last: int = sys.maxsize) -> int:
    """How a process that trains in `folder` ended; negative: by that signal."""
    process = os.fork()
    if process == 0:
        try:
            run(world, folder, last)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def outcome(folder: Path) -> tuple[dict[str, str], dict[str, str], list[dict[str, Any]]]:
    """(weights, batches by step, metrics without speed); a step that was drawn twice was drawn alike."""
    batches: dict[str, str] = {}
    for line in (folder.parent / f"{folder.name}.batches").read_text().splitlines():
        step, digest = line.split()
        assert batches.setdefault(step, digest) == digest, f"step {step} of {folder}"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = [{k: v for k, v in row.items() if not k.startswith(("speed/", "memory/"))} for row in rows]
    return json.loads((folder.parent / f"{folder.name}.json").read_text())["weights"], batches, logged


def main(root: Path, rounds: int) -> None:
    """Raise AssertionError unless every run ends as the uninterrupted one."""
    torch.set_num_threads(1)
    world = World(root / "world", write_synthetic_world(root / "world"))
    sys.addaudithook(watch)
    assert forked(world, root / "whole") == 0
    whole = outcome(root / "whole")
    assert len(whole[1]) == len(whole[2]) == STEPS
    moments = json.loads((root / "whole.json").read_text())["moments"]
    chosen = random.Random(rounds)
    for number in range(rounds):
        folder = root / f"round-{number}"
        for last in sorted(chosen.sample(range(1, moments), 2), reverse=True):
            ended = forked(world, folder, last)
            assert ended in (0, -signal.SIGKILL), ended
        assert forked(world, folder) == 0
        assert outcome(folder) == whole, f"killed at moments of {folder}"
        print(f"round {number + 1} of {rounds}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
