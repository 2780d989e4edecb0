"""`pi05 report`: a run folder, a folder of stages, or a study, as one page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from pi05_train.errors import UserError
from pi05_train.report.inputs import is_run_or_stages
from pi05_train.report.study.inputs import is_study, read_study
from pi05_train.report.study.table import study_table
from pi05_train.report.write import write_report, write_study


def report(folder: str, *, baseline: str | None = None) -> None:
    """Write `report.html` and say where it is; of a study print the table too."""
    path = Path(folder)
    if is_run_or_stages(path) or not is_study(path):
        if baseline is not None:
            raise UserError("--baseline", got=folder, expected="a folder of runs to compare", do="leave it out")
        print(write_report(path))
        return
    study = read_study(path, baseline)
    console = Console()
    Console(width=max(console.width, 40 + 24 * len(study.runs))).print(study_table(study))
    print(write_study(path, study))
