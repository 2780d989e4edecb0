"""What runs have logged."""

from __future__ import annotations

import json
from pathlib import Path

from pi05_train.trainer.metrics import Row


def logged(run: Path) -> list[Row]:
    """The rows of a run folder, without what the clock and the machine say."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("speed/", "memory/"))} for row in rows]
