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


class Quarantine:
    """Appends to `quarantine.jsonl` in the run folder; kept by the main process, so workers cannot change the count."""

    def __init__(self, run_folder: Path, mixture: Mixture) -> None:
        self.path = run_folder / "quarantine.jsonl"
        self.count = 0
        self._mixture = mixture

    def record(self, faults: Sequence[Fault], *, step: int, draws: int) -> None:
        """Write down the faults of a micro-batch of `step`, after `draws` draws; UserError over the budget."""
        if not faults:
            return
        self.count += len(faults)
        with self.path.open("a") as file:
            for fault in faults:
                key = self._mixture.key(fault.source, fault.row)
                entry = {"step": step, "source": fault.source, "key": key, "draw": fault.draw, "reason": fault.reason}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        budget = max(SMALLEST_BUDGET, int(BUDGET_SHARE * draws))
        if self.count > budget:
            raise UserError(
                f"bad samples (listed in {self.path})",
                got=f"{self.count} in {draws} draws",
                expected=f"at most {budget}",
                do="mend or disable the sources named there",
            )
