"""The page from top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from statistics import median

from pi05_train.report import figures, html
from pi05_train.report.closed_loop import closed_loop
from pi05_train.report.evaluated import actions, denoising, pictures, results, success
from pi05_train.report.html import Html
from pi05_train.report.inputs import ReportInputs, StageLog
from pi05_train.report.trained import losses, mixture, settings, speed


def header(inputs: ReportInputs) -> Html:
    """Title, what was trained on what, and the key numbers."""
    steps = ", then ".join(f"{stage.name} for {_steps_done(stage)} steps" for stage in inputs.stages)
    sources = sorted(figures.colours_of(inputs))
    lead = (
        f"A pi0.5 policy, trained in stages ({steps}) on {len(sources)} sources: {', '.join(sources)}. "
        "It writes text and FAST action tokens with its backbone, and continuous action chunks with its flow expert. "
        "Results are on samples and episodes that training never saw; loss curves are on training data."
    )
    return html.join(
        [
            Html(f"<h1>{escape(inputs.title)}</h1>"),
            html.paragraph(lead, kind="lead"),
            Html(f'<div class="tiles">{html.join(_tiles(inputs))}</div>'),
        ]
    )


def notes(inputs: ReportInputs) -> Html | None:
    """What a reader must know before judging the numbers."""
    sentences = [*inputs.notes, *(inputs.evaluation.notes if inputs.evaluation else ())]
    if not sentences:
        return None
    items = html.join(Html(f"<li>{escape(sentence)}</li>") for sentence in sentences)
    return html.section("Read this before judging the numbers", Html(f"<ul>{items}</ul>"))


SECTIONS: tuple[Callable[[ReportInputs], Html | None], ...] = (
    header, results, success, closed_loop, notes, actions, denoising, pictures, losses, mixture, speed, settings,
)  # fmt: skip


def _tiles(inputs: ReportInputs) -> list[Html]:
    tiles = []
    evaluation = inputs.evaluation
    if evaluation is not None:
        for row in evaluation.rollouts:
            if row.task == "" and row.policy == "trained":
                others = [r for r in evaluation.rollouts if (r.source, r.task) == (row.source, "") and r != row]
                beside = "".join(f"; {r.policy}: {r.successes} of {r.episodes}" for r in others)
                remark = f"95 % interval {html.readable(100 * row.low)}–{html.readable(100 * row.high)} %{beside}"
                tiles.append(html.tile(f"{row.successes} of {row.episodes}", f"{row.source} episodes succeed", remark))
        if evaluation.heldout:
            better = sum(row.beats_baselines for row in evaluation.heldout)
            remark = "better than fresh weights and than the best constant answer"
            tiles.append(
                html.tile(f"{better} of {len(evaluation.heldout)}", "held-out numbers beat their baselines", remark)
            )
    if inputs.seconds:
        remark = "wall-clock, every phase"
        tiles.append(html.tile(html.duration(sum(inputs.seconds.values())), "from nothing to this page", remark))
    rates = [(stage.name, stage.series("speed/samples_per_second")[1]) for stage in inputs.stages]
    for name, values in rates[-1:]:
        if values:
            tiles.append(html.tile(html.readable(median(values)), "samples per second", f"median of {name}"))
    return tiles


def _steps_done(stage: StageLog) -> int:
    return int(stage.rows[-1]["step"]) + 1 if stage.rows else 0
