"""Closed loop in detail: what was played, how it ended, and the files that hold it.

In a run folder:

    closed_loop.json          {"format": 1, fields of `ClosedLoop`}
    closed_loop/<film>.mp4    the films it names
    .closed_loop-<fingerprint>.jsonl
                              until then, the episodes played so far: see `pi05_train.evaluation.kept`
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pi05_train.checkpoint.integrity import a_disk_for
from pi05_train.errors import UserError
from pi05_train.evaluation.results import RolloutResult

FILE, FOLDER, FORMAT = "closed_loop.json", "closed_loop", 1


@dataclass(frozen=True)
class Film:
    """One filmed episode."""

    policy: str
    task: str
    condition: str
    seed: int
    success: bool
    file: str
    """Name in the folder of films."""


@dataclass(frozen=True)
class ClosedLoop:
    """Everything that was played with one checkpoint in one call."""

    step: int
    weights: str
    """"ema" or "raw"."""
    server: str
    """The server's address; "" in process."""
    execute_steps: int
    """Control steps between two looks, without the waiting of an open loop."""
    seconds: float
    """Of playing, in all sittings."""
    results: tuple[RolloutResult, ...]
    films: tuple[Film, ...] = ()
    strategy: str = "receding_horizon"
    """One of `pi05_train.policy.execution.STRATEGIES`."""
    delay_steps: int = 0
    """Control steps from a look until its chunk is there."""

    @property
    def title(self) -> str:
        """How it was played, in a few words."""
        late = f", chunks {self.delay_steps} steps late" if self.delay_steps else ""
        return f"step {self.step}, {self.strategy.replace('_', ' ')}{late}"


def write_closed_loop(run: Path, found: ClosedLoop) -> Path:
    """Write `closed_loop.json` into the run folder; returns its path."""
    path = run / FILE
    temporary = run / f".{FILE}.new"
    with a_disk_for(run):
        temporary.write_text(json.dumps({"format": FORMAT, **asdict(found)}, indent=1, allow_nan=False) + "\n")
        os.replace(temporary, path)
    return path


def kept_file(run: Path, fingerprint: str) -> Path:
    """Where an evaluation keeps its episodes until it has ended."""
    return run / f".closed_loop-{fingerprint}.jsonl"


def read_closed_loop(run: Path) -> ClosedLoop | None:
    """What was written into the run folder; None where nothing was. `UserError` for another format."""
    path = run / FILE
    if not path.is_file():
        return None
    table = json.loads(path.read_text())
    if (format := table.pop("format", None)) != FORMAT:
        raise UserError(f"{path}, format", got=format, expected=FORMAT, do="evaluate again with this version")
    results = tuple(RolloutResult(**row) for row in table.pop("results"))
    films = tuple(Film(**row) for row in table.pop("films"))
    return ClosedLoop(**table, results=results, films=films)
