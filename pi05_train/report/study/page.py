"""The page of a study from top to bottom: what was changed, what came of it, and whether the runs are comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from pi05_train.evaluation.results import METRICS
from pi05_train.report import html
from pi05_train.report.figures import success_rates
from pi05_train.report.html import Html
from pi05_train.report.study import figures
from pi05_train.report.study.compare import HEADLINE, Cell, OrderMismatch, Row, compare, order_mismatches, shared_orders
from pi05_train.report.study.inputs import Study

INTERVALS = (
    "A difference is a run's number minus the baseline's. On held-out samples its 95 % interval is paired: both runs "
    "answer the same samples, and whole episodes are drawn again and again (bootstrap). For success in simulation it "
    "is Newcombe's, from the two Wilson intervals, and not paired. Intervals say how sure the measurement of these "
    "weights is; another training seed may move the numbers further. Of many comparisons one in twenty leaves out 0 "
    "by chance."
)


@dataclass(frozen=True)
class StudyPage:
    """What the sections share."""

    study: Study
    rows: Sequence[Row]
    mismatches: Sequence[OrderMismatch]
    colours: Mapping[str, str]


def study_page(study: Study) -> str:
    """The whole page as HTML: pictures and style are inside, nothing is fetched."""
    page = StudyPage(study, compare(study), order_mismatches(study), figures.run_colours(study))
    parts = [section(page) for section in SECTIONS]
    return html.document(f"Study: {study.title}", html.join(part for part in parts if part is not None))


def header(page: StudyPage) -> Html:
    """Title, what is compared, and the key numbers."""
    study = page.study
    names = ", ".join(run.name for run in study.others)
    lead = f"{len(study.others)} runs ({names}) beside the baseline {study.baseline.name}."
    judged = [
        cell.difference.verdict(row.better)
        for row in page.rows
        for cell in row.cells.values()
        if cell.difference is not None
    ]
    steps = sorted({run.steps for run in study.runs})
    pairs = sum(1 for _ in shared_orders(study))
    found = f"{judged.count('worse')} worse, {judged.count('better')} better"
    tiles = [
        html.tile(str(len(study.runs)), "runs", f"{' or '.join(map(str, steps))} steps"),
        html.tile(found, f"of {len(judged)} differences", "those whose interval leaves out 0"),
        html.tile(
            f"{pairs - len(page.mismatches)} of {pairs}", "in the same order", "sources that two runs share, all pairs"
        ),
    ]
    return html.join(
        [
            Html(f"<h1>{escape(study.title)}</h1>"),
            html.paragraph(lead, kind="lead"),
            Html(f'<div class="tiles">{html.join(tiles)}</div>'),
        ]
    )


def changes(page: StudyPage) -> Html | None:
    """Which settings differ, run by run."""
    rows = [[html.text(key), *map(html.text, values)] for key, values in page.study.changes.items()]
    if not rows:
        return html.section("What was changed", html.paragraph("Nothing: all runs have the same settings."))
    head = ["setting", *(run.name for run in page.study.runs)]
    return html.section(
        "What was changed",
        html.paragraph(
            "All settings that are not the same in every run, beside where runs stand and what they start from."
        ),
        html.table(head, rows),
    )


def headline(page: StudyPage) -> Html | None:
    """The differences that a study is judged by, as a picture."""
    rows = [row for row in page.rows if row.metric in HEADLINE and any(c.difference for c in row.cells.values())]
    rows.sort(key=lambda row: HEADLINE.index(row.metric))
    if not rows:
        return None
    measured = {run.name: run.log.evaluation.step for run in page.study.runs if run.log.evaluation is not None}
    unequal = ", ".join(f"{name} after {step}" for name, step in measured.items())
    return html.section(
        f"Differences to the baseline, {page.study.baseline.name}",
        html.paragraph(INTERVALS),
        *(
            [html.paragraph(f"Not all were measured after as many steps: {unequal}.")]
            if len(set(measured.values())) > 1
            else []
        ),
        html.figure(
            figures.differences(rows, page.study),
            f"Point: difference to {page.study.baseline.name}; line: 95 % interval. Right, on green, is better in "
            "every panel. Green and red points: the interval leaves out 0; grey: it does not. Not comparable: the "
            "baseline has no such number, or one in other units (normalisation, tokenizers).",
        ),
    )


def success(page: StudyPage) -> Html | None:
    """Closed-loop success rates of all runs."""
    summaries = [
        replace(row, policy=run.name)
        for run in page.study.runs
        for row in (run.log.evaluation.rollouts if run.log.evaluation else ())
        if row.policy == "trained"
    ]
    if not summaries:
        return None
    return html.section(
        "Success in simulation",
        html.figure(
            success_rates(summaries, page.colours),
            "Success rate (point) and 95 % Wilson interval (line) per task; every run meets the same start states.",
        ),
    )


def numbers(page: StudyPage) -> Html | None:
    """Every number of every run, with its difference."""
    if not page.rows:
        return html.section("Held-out numbers", html.paragraph("No run was evaluated: `pi05 evaluate` measures them."))
    names = [run.name for run in page.study.runs]
    body, previous = [], ""
    for row in page.rows:
        arrow = "↓" if row.better == "lower" else "↑"
        source = html.text(f"{row.source} ({row.kind})" if row.source != previous else "")
        title = Html(f'{escape(row.title)} <span class="arrow">{arrow}</span>')
        body.append([source, title, *(_cell(row, row.cells.get(name)) for name in names)])
        previous = row.source
    shown = {METRICS[row.metric].title: METRICS[row.metric].meaning for row in page.rows if row.metric in METRICS}
    return html.section(
        "All numbers",
        html.paragraph(
            "Below each number its difference to the baseline and the 95 % interval of that. – : not measured."
        ),
        html.table(["source", "measure", *names], body, numeric=range(2, 2 + len(names))),
        html.glossary(shown),
    )


def curves(page: StudyPage) -> Html | None:
    """Training losses of all runs over each other."""
    drawn = [loss for loss in figures.LOSSES if figures.panels_of(page.study, loss)]
    return (
        html.section(
            "Training curves",
            *(
                html.figure(
                    figures.curves(page.study, loss, page.colours),
                    f"Training loss, {figures.LOSSES[loss]}; thick: moving average over a twentieth of the run.",
                )
                for loss in drawn
            ),
        )
        if drawn
        else None
    )


def order(page: StudyPage) -> Html:
    """Whether shared sources were drawn in the same order, by fingerprint."""
    study = page.study
    pairs = sum(1 for _ in shared_orders(study))
    said = f"Every pair of runs drew each of the sources that both have in the same order ({pairs} comparisons)."
    if page.mismatches:
        said = f"{len(page.mismatches)} of {pairs} sources, counted over all pairs of runs, were drawn in other orders:"
    reasons = [
        html.text(f"{found.first} and {found.second}, {found.source}: {', '.join(found.what)} differ")
        for found in page.mismatches
    ]
    head = ["run", "seed", "batch", *study.kinds]
    rows = [
        [
            html.swatch(page.colours[run.name], run.name),
            html.text(str(run.settings["run.seed"])),
            html.text(str(run.settings["data.global_batch_samples"])),
            *(_order_cell(study, run.orders.get(source), source) for source in study.kinds),
        ]
        for run in study.runs
    ]
    return html.section(
        "Same data, same order",
        html.paragraph(said),
        *([Html(f"<ul>{html.join(Html(f'<li>{reason}</li>') for reason in reasons)}</ul>")] if reasons else []),
        html.paragraph(
            "The order inside a source follows from seed, shards, the rows that pass the filters, read group and "
            "version of the schedule, and from nothing else; the table shows the beginning of the sha256 of these. "
            "Where it is equal, both runs draw the same samples one after the other, augmentation and flow noise keyed "
            "alike. How many of them a step takes follows from the source's share and the batch."
        ),
        html.table(head, rows),
    )


def settings(page: StudyPage) -> Html:
    """The resolved configuration of every run."""
    return html.section(
        "Settings", *(html.details(f"Configuration of {run.name}", run.log.config) for run in page.study.runs)
    )


SECTIONS: tuple[Callable[[StudyPage], Html | None], ...] = (
    header, changes, headline, success, numbers, curves, order, settings,
)  # fmt: skip


def _cell(row: Row, cell: Cell | None) -> Html:
    if cell is None:
        return html.number(None)
    value = Html(f'<span class="own">{html.number(cell.value)}</span>')
    if cell.low is not None and cell.high is not None:
        value = Html(f"{value} <span class='none'>[{html.readable(cell.low)}, {html.readable(cell.high)}]</span>")
    if cell.difference is None:
        return value
    verdict = {"better": "good", "worse": "bad", "": "same"}[cell.difference.verdict(row.better)]
    return Html(f'{value}<div class="difference {verdict}">{difference_words(cell)}</div>')


def difference_words(cell: Cell) -> str:
    """+0.120 [+0.050, +0.200]"""
    assert cell.difference is not None
    found = cell.difference
    if found.low is None or found.high is None:
        return f"{_signed(found.value)} [?]"
    return f"{_signed(found.value)} [{_signed(found.low)}, {_signed(found.high)}]"


def _signed(value: float) -> str:
    return (f"{value:+.3f}" if abs(value) < 100 else f"{value:+.3g}").replace("-", "−")


def _order_cell(study: Study, order: Mapping[str, object] | None, source: str) -> Html:
    """The beginning of the order's fingerprint, red where it is not the one of the first run that has the source."""
    if order is None:
        return html.number(None)
    first = next(run.orders[source] for run in study.runs if source in run.orders)
    digest = hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()
    return Html(f'<code class="{"good" if order == first else "bad"}">{digest[:8]}</code>')
