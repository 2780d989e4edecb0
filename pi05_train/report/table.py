"""The results in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from pi05_train.evaluation.results import METRICS, Evaluation, HeldoutResult, RolloutSummary
from pi05_train.report.html import readable


def results_table(evaluation: Evaluation) -> Table:
    """Held-out numbers beside their baselines, then success rates beside theirs; green where both are beaten."""
    table = Table(title=f"{escape(evaluation.stage)}, step {evaluation.step}", title_justify="left")
    table.add_column("source")
    table.add_column("measure")
    for name in ("trained", "fresh weights", "constant", "n"):
        table.add_column(name, justify="right")
    previous = ""
    for row in sorted(evaluation.heldout, key=lambda row: row.source):
        if previous and row.source != previous:
            table.add_section()
        table.add_row(*_heldout_cells(row, row.source != previous))
        previous = row.source
    if evaluation.rollouts:
        table.add_section()
    for summary in evaluation.rollouts:
        if summary.task == "" and summary.policy == "trained":
            table.add_row(*_success_cells(summary, evaluation.rollouts))
    return table


def _heldout_cells(row: HeldoutResult, first: bool) -> list[str]:
    title = METRICS[row.metric].title if row.metric in METRICS else row.metric
    arrow = "↓" if row.better == "lower" else "↑"
    colour = "green" if row.beats_baselines else "red"
    baselines = ["–" if value is None else readable(value) for value in (row.untrained, row.constant)]
    source = escape(row.source) if first else ""
    return [source, f"{escape(title)} {arrow}", f"[{colour}]{readable(row.value)}[/]", *baselines, str(row.n)]


def _success_cells(row: RolloutSummary, rows: Sequence[RolloutSummary]) -> list[str]:
    beside = {r.policy: readable(100 * r.rate) for r in rows if (r.source, r.task) == (row.source, "")}
    colour = (
        "green"
        if all(row.low > r.rate for r in rows if r.task == "" and r.source == row.source and r != row)
        else "red"
    )
    interval = f"{readable(100 * row.low)}–{readable(100 * row.high)}"
    untrained, constant = beside.get("untrained", "–"), beside.get("zero actions", "–")
    title = f"success % ({interval}) ↑"
    return [
        escape(row.source),
        title,
        f"[{colour}]{readable(100 * row.rate)}[/]",
        untrained,
        constant,
        str(row.episodes),
    ]
