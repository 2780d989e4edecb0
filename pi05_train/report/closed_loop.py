"""Closed loop in detail: modes side by side by task, condition and command; in a terminal and on the page."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html import escape

from rich.markup import escape as escape_markup
from rich.table import Table

from pi05_train.evaluation.closed_loop import ClosedLoop, Film
from pi05_train.evaluation.results import RolloutResult
from pi05_train.evaluation.success import Success, side_by_side
from pi05_train.report import html
from pi05_train.report.html import Html
from pi05_train.report.inputs import ReportInputs, StageLog

TABLES: tuple[tuple[str, Callable[[RolloutResult], tuple[str, str]]], ...] = (
    ("simulator", lambda result: (result.source, result.condition)),
    ("task", lambda result: (result.task, result.condition)),
    ("command", lambda result: (f"{result.command} ({result.source})", result.condition)),
)
"""What a table is by, and the first two cells of a result's row."""


def closed_loop_tables(name: str, found: ClosedLoop) -> list[Table]:
    """For a terminal: successes of episodes, the rate and its 95 % Wilson interval, one column per mode."""
    modes = list(dict.fromkeys(result.policy for result in found.results))
    tables = []
    for what, group in TABLES:
        title = f"{escape_markup(name)}, {found.title}: successes, % and 95 % interval by {what}"
        table = Table(what, "condition", title=title, title_justify="left")
        for mode in modes:
            table.add_column(mode, justify="right")
        for words, row in side_by_side(found.results, group).items():
            table.add_row(*map(escape_markup, words), *(_cell(row.get(mode)) for mode in modes))
        tables.append(table)
    return tables


def closed_loop(inputs: ReportInputs) -> Html | None:
    """For the page: the same tables, and the films, of every stage that was played."""
    played = [stage for stage in inputs.stages[::-1] if stage.closed_loop is not None]
    return html.join(_section(stage, stage.closed_loop) for stage in played if stage.closed_loop) if played else None


def _section(stage: StageLog, found: ClosedLoop) -> Html:
    modes = list(dict.fromkeys(result.policy for result in found.results))
    parts = [
        html.paragraph(
            "Start states nobody trained on. Seen: rooms of the demonstrations. Unseen environment: rooms that no "
            "demonstration shows. Unseen object: the rooms of the demonstrations, objects in colours that none shows. "
            "Modes meet the same starts. Cells: successes of episodes, rate and 95 % Wilson interval."
        )
    ]
    for what, group in TABLES:
        rows = [
            [*map(html.text, words), *(html.text(_cell(row.get(mode))) for mode in modes)]
            for words, row in side_by_side(found.results, group).items()
        ]
        parts.append(html.table([what, "condition", *modes], rows, numeric=range(2, 2 + len(modes))))
    if found.films:
        cards = html.join(_film(film, stage.films[film.file]) for film in found.films)
        parts += [Html("<h3>Films</h3>"), Html(f'<div class="cards">{cards}</div>')]
    return html.section(f"Closed loop after {stage.name}, {found.title}", *parts)


def _cell(success: Success | None) -> str:
    if success is None:
        return "–"
    low, high = 100 * success.low, 100 * success.high
    return f"{success.successes}/{success.episodes} {100 * success.rate:.0f} ({low:.0f}–{high:.0f})"


def _film(film: Film, content: bytes) -> Html:
    address = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
    words = {"task": film.task, "mode": film.policy, "condition": film.condition, "seed": str(film.seed)}
    entries = "".join(f"<dt>{name}</dt><dd>{escape(said)}</dd>" for name, said in words.items())
    outcome = '<span class="good">success</span>' if film.success else '<span class="bad">failure</span>'
    return Html(
        f'<div class="card"><video src="{address}" controls muted loop preload="metadata" width="100%"></video>'
        f"<dl>{entries}<dt>ended in</dt><dd>{outcome}</dd></dl></div>"
    )
