"""One sample as a page: its pictures with boxes, its text, its numbers drawn."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pi05_train.data.sources.inspect import Inspected
from pi05_train.report import html
from pi05_train.report.figures import FLOW, GREY, INK, PALETTE, STYLE, WIDTH_INCHES
from pi05_train.report.html import Html
from pi05_train.samples.schema import KINDS, Box, Sample

TEXTS = {
    "task": "command",
    "subtask": "subtask",
    "verbal_instruction": "said by a person",
    "question": "question",
    "answer": "answer",
}
"""Text fields of a sample and what they are, in reading order."""


def sample_page(inspected: Inspected) -> str:
    """The whole page as HTML: pictures, plots and style are inside, nothing is fetched."""
    parts = [_top(inspected), _pictures(inspected.sample), _actions(inspected), _state(inspected), _rest(inspected)]
    title = f"{inspected.sample.source} {inspected.sample.key}"
    return html.document(title, html.join(part for part in parts if part is not None))


def texts(sample: Sample) -> list[tuple[str, str]]:
    """(what it is, the words) of each text that the sample has."""
    return [(label, words) for name, label in TEXTS.items() if (words := getattr(sample, name))]


def facts(inspected: Inspected) -> list[tuple[str, str]]:
    """(what, value) of everything else that is not numbers, pictures or boxes."""
    sample, card = inspected.sample, inspected.card
    pairs = [
        ("kind", f"{sample.kind}, {KINDS[sample.kind]}"),
        ("embodiment", sample.embodiment),
        ("control", f"{sample.control_mode}, {sample.rate_hz:g} Hz" if sample.control_mode else ""),
        ("environment", sample.environment_id),
        ("episode, frame", f"{sample.episode}, {sample.frame}"),
        ("split", sample.split),
        ("success", "yes" if sample.success else "no"),
        ("row", f"{inspected.row} of {inspected.rows}"),
        ("stored in", f"{inspected.shard}, byte {inspected.offset}, {inspected.length} bytes"),
        ("licence", card.licence),
        ("origin", card.origin),
    ]
    return [(name, value) for name, value in pairs if value]


def _top(inspected: Inspected) -> Html:
    sample = inspected.sample
    words = "".join(f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>" for name, said in texts(sample))
    parts = [
        Html(f"<h1>{escape(sample.source)}, sample {escape(sample.key)}</h1>"),
        html.paragraph(inspected.card.description, kind="lead"),
        Html(f'<div class="cards"><div class="card" style="grid-column: 1 / -1"><dl>{words}</dl></div></div>'),
    ]
    if inspected.complaint:
        parts.append(Html(f'<p class="bad" style="white-space: normal">{escape(inspected.complaint)}</p>'))
    return html.join(parts)


def _pictures(sample: Sample) -> Html:
    cards = []
    for camera, jpeg in sample.images.items():
        width, height = Image.open(io.BytesIO(jpeg)).size
        boxes = [box for box in sample.boxes if box.camera == camera]
        drawn = "".join(_box(box, i, width, height) for i, box in enumerate(boxes))
        labels = "".join(
            f"<dt>box</dt><dd>{html.swatch(PALETTE[1 + i % 9], box.label or 'no label')}: "
            f"y {box.y_min:.3f} to {box.y_max:.3f}, x {box.x_min:.3f} to {box.x_max:.3f}</dd>"
            for i, box in enumerate(boxes)
        )
        cards.append(
            f'<div class="card"><div class="picture"><img src="{html.data_uri(jpeg)}" alt="{escape(camera)}">'
            f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{drawn}</svg></div>'
            f"<dl><dt>camera</dt><dd>{escape(camera)}</dd><dt>stored as</dt>"
            f"<dd>{width} × {height} JPEG, {len(jpeg) / 1000:.1f} kB</dd>{labels}</dl></div>"
        )
    columns = "grid-template-columns: repeat(auto-fill, minmax(310px, 1fr))"
    return html.section("Pictures", Html(f'<div class="cards" style="{columns}">{"".join(cards)}</div>'))


def _box(box: Box, number: int, width: int, height: int) -> str:
    """In the picture's own pixels. Every other label stands below its box, since neighbours often share an edge."""
    x, y, letters, colour = width * box.x_min, height * box.y_min, height / 20, PALETTE[1 + number % 9]
    above, below = y - letters / 4, min(height * box.y_max + letters, height - letters / 4)
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width * (box.x_max - box.x_min):.1f}" '
        f'height="{height * (box.y_max - box.y_min):.1f}" fill="none" stroke="{colour}" stroke-width="2.5" '
        f'vector-effect="non-scaling-stroke"/><text x="{x:.1f}" '
        f'y="{below if number % 2 or above < letters else above:.1f}" fill="{colour}" '
        f'font-size="{letters:.1f}" font-weight="bold" font-family="sans-serif">{escape(box.label)}</text>'
    )


def _actions(inspected: Inspected) -> Html | None:
    sample = inspected.sample
    if sample.actions is None or sample.action_valid is None:
        return None
    steps, dims = sample.actions.shape
    valid = int(sample.action_valid.sum())
    relative = [dim for dim, on in enumerate(inspected.card.delta_mask) if on]
    words = f"{steps} steps of {dims} dimensions as stored."
    if valid < steps:
        words += f" The episode ends after {valid}: the rest, pale, repeats the last one and is never trained on."
    if relative:
        words += (
            f" Dimensions {', '.join(map(str, relative))} are trained relative to the state, which the dot shows at "
            "second 0."
        )
    plot = _plot(sample.actions, sample.action_valid, sample.rate_hz, sample.state, relative)
    return html.section("Actions", html.paragraph(words), html.figure(plot, "Each dimension over time, counted from 0"))


def _plot(
    actions_HA: NDArray[np.float32],
    valid_H: NDArray[np.bool_],
    rate_hz: float,
    state_S: NDArray[np.float32] | None,
    relative: Sequence[int],
) -> bytes:
    """PNG: a panel per action dimension."""
    steps, dims = actions_HA.shape
    seconds, valid = np.arange(steps) / (rate_hz or 1.0), int(valid_H.sum())
    columns = min(dims, 4)
    rows = -(-dims // columns)
    style: Any = STYLE
    with rc_context(style):
        figure = Figure(figsize=(WIDTH_INCHES, 0.6 + 1.65 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
        for dim, axis in enumerate(axes):
            if dim >= dims:
                axis.set_visible(False)
                continue
            axis.plot(seconds[max(valid - 1, 0) :], actions_HA[max(valid - 1, 0) :, dim], color=GREY, linewidth=1.2)
            axis.plot(seconds[:valid], actions_HA[:valid, dim], color=FLOW, linewidth=1.8, marker=".", markersize=3)
            if dim in relative and state_S is not None:
                axis.plot(0, state_S[dim], "o", color=INK, markersize=5, zorder=3)
            axis.set_title(f"dimension {dim}", fontweight="normal", fontsize=9, color="#5b6875")
            low, high = axis.get_ylim()
            half = max((high - low) / 2, 0.01)
            axis.set_ylim((low + high) / 2 - half, (low + high) / 2 + half)
        figure.supxlabel("seconds" if rate_hz else "steps", fontsize=9, color="#5b6875")
        FigureCanvasAgg(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()


def _state(inspected: Inspected) -> Html | None:
    state, stats = inspected.sample.state, inspected.statistics.get("state")
    if state is None:
        return None
    rows = []
    for dim, value in enumerate(state.tolist()):
        cells = [Html(str(dim)), html.number(value)]
        if stats is not None and stats.q01 is not None and stats.q99 is not None and dim < stats.dims:
            low, high = float(stats.q01[dim]), float(stats.q99[dim])
            place = (value - low) / (high - low) if high > low else 0.5
            cells += [html.number(low), place_bar(place), html.number(high)]
        rows.append(cells)
    compared = any(len(row) > 2 for row in rows)
    head = ["dimension", "value", *(["q01 of the source", "", "q99"] if compared else [])]
    words = "Physical units (metres, radians)." + (" The bar runs from q01 to q99 of the source." if compared else "")
    return html.section("State", html.paragraph(words), html.table(head, rows, numeric=(0, 1, 2)))


def place_bar(place: float) -> Html:
    """A mark between two ends, red where it lies outside them."""
    colour = FLOW if 0 <= place <= 1 else "#b3461f"
    x = 8 + 144 * min(max(place, 0.0), 1.0)
    return Html(
        '<svg width="160" height="14" aria-hidden="true"><line x1="8" x2="152" y1="7" y2="7" stroke="#dfe4ea" '
        f'stroke-width="4"/><circle cx="{x:.1f}" cy="7" r="5" fill="{colour}"/></svg>'
    )


def _rest(inspected: Inspected) -> Html:
    sample = inspected.sample
    rows = [[html.text(name), html.text(value)] for name, value in facts(inspected)]
    provenance = json.dumps(sample.provenance, indent=1, ensure_ascii=False, sort_keys=True)
    return html.section(
        "Everything else",
        html.table(["field", "value"], rows),
        html.details("How the sample came to be (provenance)", provenance),
    )
