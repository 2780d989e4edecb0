"""`pi05 report`: a run folder, or a folder of stages, as one page."""

from __future__ import annotations

from pathlib import Path

from pi05_train.report.write import write_report


def report(folder: str) -> None:
    """Write `report.html` and say where it is."""
    print(write_report(Path(folder)))
