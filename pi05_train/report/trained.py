"""Sections on how it was trained: losses, mixture, speed, settings. None without data."""

from __future__ import annotations

from statistics import median

from pi05_train.report import figures, html
from pi05_train.report.html import Html
from pi05_train.report.inputs import ReportInputs


def losses(inputs: ReportInputs) -> Html | None:
    """Training loss per source and stage."""
    colours = figures.colours_of(inputs)
    drawn = [stage for stage in inputs.stages if stage.sources("text") or stage.sources("flow")]
    if not drawn:
        return None
    return html.section(
        "Training loss",
        *(
            html.figure(
                figures.loss_curves(stage, colours),
                f"Stage {stage.name}: training loss per source and step; thin lines are single steps, thick lines a "
                "moving average over a twentieth of the run.",
            )
            for stage in drawn
        ),
    )


def mixture(inputs: ReportInputs) -> Html | None:
    """What share of training each source was asked to have, and had."""
    parts = [
        html.join(
            [
                html.figure(
                    figures.mixture_bars(stage.mixture, figures.colours_of(inputs)),
                    f"Stage {stage.name}: share of training samples per source, as requested and as drawn.",
                ),
                html.table(
                    ["source", "kind", "requested", "realised", "samples in the source"],
                    [
                        [
                            html.swatch(figures.colours_of(inputs)[share.source], share.source),
                            html.text(share.kind),
                            html.number(share.requested),
                            html.number(share.realised),
                            html.number(share.samples),
                        ]
                        for share in stage.mixture
                    ],
                    numeric=(2, 3, 4),
                ),
            ]
        )
        for stage in inputs.stages
        if stage.mixture
    ]
    return html.section("Mixture", *parts) if parts else None


def speed(inputs: ReportInputs) -> Html | None:
    """Throughput per stage and where the time went."""
    columns = {
        "speed/samples_per_second": "samples/s",
        "speed/tokens_per_second": "tokens/s",
        "speed/data_wait": "share of time waiting for data",
    }
    rows = []
    for stage in inputs.stages:
        found = [stage.series(key)[1] for key in columns]
        if any(found):
            cells = [html.number(median(values) if values else None) for values in found]
            rows.append([html.text(stage.name), *cells])
    parts = []
    if rows:
        parts.append(html.paragraph("Medians over the logged steps."))
        parts.append(html.table(["stage", *columns.values()], rows, numeric=(1, 2, 3)))
    if inputs.seconds:
        caption = f"Wall-clock seconds by phase, {html.duration(sum(inputs.seconds.values()))} in all."
        parts.append(html.figure(figures.phase_bars(inputs.seconds), caption))
    return html.section("Speed", *parts) if parts else None


def settings(inputs: ReportInputs) -> Html | None:
    """The resolved configuration and the versions."""
    parts = [html.details(f"Configuration of {stage.name}", stage.config) for stage in inputs.stages if stage.config]
    for stage in inputs.stages:
        if stage.versions:
            lines = "\n".join(f"{name:<16} {version}" for name, version in stage.versions.items())
            parts.append(html.details(f"Versions of {stage.name}", lines))
    return html.section("Settings", *parts) if parts else None
