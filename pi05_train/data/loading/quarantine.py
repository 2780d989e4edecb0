"""Bad samples of a run: counted, written down, and stopped when there are too many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pi05_train.data.loading.reader import Fault
from pi05_train.data.order.mixture import Mixture
from pi05_train.errors import UserError

SMALLEST_BUDGET = 16
BUDGET_SHARE = 1e-4
"""Of the draws made so far."""


Entry = dict[str, str | int]


class Quarantine:
    """The bad samples of a run, those of every rank: what a rank's loader adds waits until all ranks' are recorded.

    Kept by the main process of each rank, so workers cannot change the count.
    """

    def __init__(self, run_folder: Path, mixture: Mixture, *, writes: bool = True) -> None:
        """`quarantine.jsonl` in the run folder is written by one rank."""
        self.path = run_folder / "quarantine.jsonl"
        self.count = 0
        self.waiting: list[Entry] = []
        self._mixture = mixture
        self._writes = writes

    def add(self, faults: Sequence[Fault], *, step: int) -> None:
        """Keep the faults of this rank's micro-batch of `step`, to be recorded."""
        for fault in faults:
            key = self._mixture.key(fault.source, fault.row)
            self.waiting.append(
                {"step": step, "source": fault.source, "key": key, "draw": fault.draw, "reason": fault.reason}
            )

    def record(self, entries: Sequence[Entry], *, draws: int) -> None:
        """Write down what waited on all ranks, after `draws` draws of all; UserError over the budget, on every rank."""
        self.count += len(entries)
        if entries and self._writes:
            with self.path.open("a") as file:
                file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        self.waiting.clear()
        budget = max(SMALLEST_BUDGET, int(BUDGET_SHARE * draws))
        if self.count > budget:
            raise UserError(
                f"bad samples (listed in {self.path})",
                got=f"{self.count} in {draws} draws",
                expected=f"at most {budget}",
                do="mend or disable the sources named there",
            )
