"""Sections on what the policy does: held-out numbers, success, chunks, denoising, pictures. None without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from pi05_train.evaluation.results import METRICS, Evaluation, HeldoutResult, TextExample
from pi05_train.report import figures, html
from pi05_train.report.html import Html
from pi05_train.report.inputs import ReportInputs
from pi05_train.samples.schema import Box

TRUE_COLOUR = "#ffffff"
PREDICTED_COLOUR = "#ffb000"


def results(inputs: ReportInputs) -> Html | None:
    """Every held-out number with its two baselines; the last stage first."""
    evaluated = [stage for stage in inputs.stages[::-1] if stage.evaluation is not None and stage.evaluation.heldout]
    if not evaluated:
        return None
    parts = [
        html.paragraph(
            "Each number stands beside two baselines: the same network with fresh random weights, and the best "
            "constant answer (the mean action chunk, token frequencies, the most frequent text, the mean box of a "
            "label), fitted on training data. Arrows say which way is good; n counts held-out samples."
        )
    ]
    for stage in evaluated:
        assert stage.evaluation is not None
        parts.append(Html(f"<h3>After {escape(stage.name)}, step {stage.evaluation.step}</h3>"))
        parts.append(_heldout_table(stage.evaluation.heldout, figures.colours_of(inputs)))
    shown = {row.metric for stage in evaluated if stage.evaluation for row in stage.evaluation.heldout}
    parts.append(html.glossary({m.title: m.meaning for name, m in METRICS.items() if name in shown}))
    return html.section("Held-out results", *parts)


def success(inputs: ReportInputs) -> Html | None:
    """Closed-loop success rates beside the baselines' ones."""
    evaluation = inputs.evaluation
    if evaluation is None or not evaluation.rollouts:
        return None
    rows = [
        [
            html.text(row.source),
            html.text(row.task or "all tasks"),
            html.text(row.policy),
            Html(f"{html.number(row.successes)} of {html.number(row.episodes)}"),
            html.number(100 * row.rate),
            Html(f"{html.number(100 * row.low)} – {html.number(100 * row.high)}"),
            html.number(row.mean_steps),
        ]
        for row in evaluation.rollouts
    ]
    head = ["simulator", "task", "policy", "successes", "%", "95 % interval", "mean steps"]
    return html.section(
        "Success in simulation",
        html.paragraph(
            "The policy runs closed loop on start states it was not trained on. Intervals are 95 % Wilson intervals: "
            "where they overlap with a baseline's, the difference may be chance."
        ),
        html.figure(
            figures.success_rates(evaluation.rollouts, figures.policy_colours(evaluation.rollouts)),
            "Success rate (point) and 95 % Wilson interval (line) per task; the counts stand to the right.",
        ),
        html.table(head, rows, numeric=(3, 4, 5, 6)),
    )


def actions(inputs: ReportInputs) -> Html | None:
    """Demonstrated and predicted chunks."""
    evaluation = inputs.evaluation
    if evaluation is None or not evaluation.actions:
        return None
    return html.section(
        "Action chunks, demonstrated and predicted",
        *(
            html.figure(
                figures.action_chunk(example),
                f"{example.source}, held-out sample {example.key}: normalised actions over one chunk. "
                f"Prompt: {example.prompt}",
            )
            for example in evaluation.actions
        ),
    )


def denoising(inputs: ReportInputs) -> Html | None:
    """How noise becomes actions."""
    evaluation = inputs.evaluation
    shown = [e for e in evaluation.actions if e.denoising_thd is not None] if evaluation else []
    if not shown:
        return None
    return html.section(
        "Denoising",
        html.paragraph(
            "The flow expert starts from noise (t = 1) and follows the velocity it predicts down to actions (t = 0). "
            "Rows are action dimensions, columns are control steps; red is positive, blue negative."
        ),
        *(
            html.figure(figures.denoising(e), f"{e.source}, sample {e.key}: x_t on its way, then the demonstration.")
            for e in shown
        ),
    )


def pictures(inputs: ReportInputs) -> Html | None:
    """Held-out pictures with boxes and text."""
    evaluation = inputs.evaluation
    if evaluation is None or not evaluation.texts:
        return None
    cards = html.join(_card(example, evaluation) for example in evaluation.texts)
    return html.section(
        "Subtasks, boxes and answers",
        html.paragraph(
            "Held-out pictures as the network sees them. White boxes are true, yellow boxes are predicted; the text is "
            "written greedily, token by token."
        ),
        Html(f'<div class="cards">{cards}</div>'),
    )


def _heldout_table(rows: Sequence[HeldoutResult], colours: Mapping[str, str]) -> Html:
    head = ["source", "measure", "trained", "fresh weights", "constant", "n", "verdict"]
    ordered = sorted(rows, key=lambda row: row.source)
    body, previous = [], ""
    for row in ordered:
        arrow = "↓" if row.better == "lower" else "↑"
        title = METRICS[row.metric].title if row.metric in METRICS else row.metric
        body.append(
            [
                html.swatch(colours[row.source], f"{row.source} ({row.kind})") if row.source != previous else Html(""),
                Html(f'{escape(title)} <span class="arrow">{arrow}</span>'),
                Html(f'<span class="own">{html.number(row.value)}</span>'),
                html.number(row.untrained),
                html.number(row.constant),
                html.number(row.n),
                _verdict(row),
            ]
        )
        previous = row.source
    return html.table(head, body, numeric=(2, 3, 4, 5))


def _verdict(row: HeldoutResult) -> Html:
    if not row.beats_baselines:
        return Html('<span class="bad">not better</span>')
    both = row.untrained is not None and row.constant is not None
    return Html(f'<span class="good">better{" than both" if both else ""}</span>')


def _card(example: TextExample, evaluation: Evaluation) -> Html:
    boxes = html.join(
        [drawn_box(box, TRUE_COLOUR, dashed=False) for box in example.true_boxes]
        + [drawn_box(box, PREDICTED_COLOUR, dashed=True) for box in example.predicted_boxes]
    )
    overlay = f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">{boxes}</svg>'
    words = [("asked", example.prompt), ("true", example.truth), ("predicted", example.predicted)]
    entries = "".join(f"<dt>{name}</dt><dd>{escape(said)}</dd>" for name, said in words)
    picture = html.data_uri(evaluation.images[example.image])
    alt = escape(f"{example.source}, sample {example.key}")
    return Html(
        f'<div class="card"><div class="picture"><img src="{picture}" alt="{alt}">{overlay}</div>'
        f"<dl><dt>source</dt><dd>{escape(example.source)}</dd>{entries}</dl></div>"
    )


def drawn_box(box: Box, colour: str, *, dashed: bool) -> Html:
    x, y = 1000 * box.x_min, 1000 * box.y_min
    width, height = 1000 * (box.x_max - box.x_min), 1000 * (box.y_max - box.y_min)
    dash = ' stroke-dasharray="9 5"' if dashed else ""
    # True labels stand above their box, predicted ones below, so that a good prediction hides neither.
    label_y = min(y + height + 48, 990) if dashed else max(y - 12, 44)
    return Html(
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" fill="none" '
        f'stroke="{colour}" stroke-width="2.5" vector-effect="non-scaling-stroke"{dash}/>'
        f'<text x="{x + 8:.1f}" y="{label_y:.1f}" fill="{colour}" font-size="48" '
        f'font-family="sans-serif">{escape(box.label)}</text>'
    )
