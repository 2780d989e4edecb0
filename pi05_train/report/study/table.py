"""A study in a terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from pi05_train.report.html import readable
from pi05_train.report.study.compare import HEADLINE, Cell, Row, compare
from pi05_train.report.study.inputs import Study
from pi05_train.report.study.page import difference_words


def study_table(study: Study) -> Table:
    """A line per source and headline metric, a column per run; green is surely better than the baseline, red worse."""
    table = Table(title=escape(study.title), title_justify="left")
    table.add_column("source")
    table.add_column("measure")
    for run in study.runs:
        table.add_column(escape(run.name), justify="right")
    for row in compare(study):
        if row.metric in HEADLINE:
            arrow = "↓" if row.better == "lower" else "↑"
            cells = [_cell(row, row.cells.get(run.name)) for run in study.runs]
            table.add_row(escape(row.source), f"{escape(row.title)} {arrow}", *cells)
    return table


def _cell(row: Row, cell: Cell | None) -> str:
    if cell is None or cell.difference is None:
        return "–" if cell is None else readable(cell.value)
    colour = {"better": "green", "worse": "red", "": "default"}[cell.difference.verdict(row.better)]
    return f"{readable(cell.value)}\n[{colour}]{escape(difference_words(cell))}[/]"
