"""Pictures of a study, as PNG bytes: a colour per run everywhere, the baseline in ink."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pi05_train.report.figures import GREY, INK, PALETTE, STYLE, WIDTH_INCHES, png, smoothed
from pi05_train.report.study.compare import Row
from pi05_train.report.study.inputs import Study

GOOD, BAD = "#1a7a4c", "#b3461f"
COLUMNS = 3
MANY_SOURCES = 9
"""With more the curves are drawn by kind."""
LOSSES = {"text": "text and FAST tokens, nats", "flow": "flow, squared error"}


def run_colours(study: Study) -> dict[str, str]:
    """By the runs' names."""
    others = {run.name: PALETTE[i % len(PALETTE)] for i, run in enumerate(study.others)}
    return {study.baseline.name: INK, **others}


def differences(rows: Sequence[Row], study: Study) -> bytes:
    """A panel per row: every other run's difference to the baseline with its 95 % interval; right is better."""
    names = [run.name for run in study.others]
    with rc_context({**STYLE, "axes.titlesize": 9.5}):
        lines = -(-len(rows) // COLUMNS)
        figure = Figure(figsize=(WIDTH_INCHES, lines * (0.85 + 0.27 * len(names))), layout="constrained")
        axes = figure.subplots(lines, COLUMNS, squeeze=False)
        for place, axis in enumerate(axes.flat):
            if place < len(rows):
                _difference_panel(axis, rows[place], names, named=place % COLUMNS == 0)
            else:
                axis.set_visible(False)
        return png(figure)


def _difference_panel(axis: Axes, row: Row, names: Sequence[str], *, named: bool) -> None:
    axis.axvline(0, color=INK, linewidth=1)
    ends = [0.0]
    for place, name in enumerate(names):
        cell = row.cells.get(name)
        if cell is None or cell.difference is None:
            axis.annotate(
                "not measured" if cell is None else "not comparable",
                (0, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8, color=GREY,
            )  # fmt: skip
            continue
        difference = cell.difference
        colour = {"better": GOOD, "worse": BAD, "": "#5b6875"}[difference.verdict(row.better)]
        if difference.low is not None and difference.high is not None:
            axis.plot([difference.low, difference.high], [place, place], color=colour, linewidth=2.4, alpha=0.55)
            ends += [difference.low, difference.high]
        axis.plot(difference.value, place, "o", color=colour, markersize=6)
        ends.append(difference.value)
    reach = 1.15 * max(map(abs, ends)) or 1.0
    right = reach if row.better == "higher" else -reach
    axis.axvspan(0, right, color=GOOD, alpha=0.06, linewidth=0)
    # An axis that runs towards better shows every metric the same way round.
    axis.set_xlim(-right, right)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_yticks(range(len(names)), names if named else [])
    axis.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=INK)
    axis.tick_params(axis="x", labelsize=8.5)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.grid(visible=False, axis="y")
    axis.spines["left"].set_visible(False)
    axis.set_title(f"{row.title}\n{row.source} ({row.kind})")


def curves(study: Study, loss: str, colours: Mapping[str, str]) -> bytes:
    """Training loss ("text" or "flow") of all runs, a panel per source, or per kind where there are many sources."""
    panels = panels_of(study, loss)
    with rc_context(STYLE):
        lines = -(-len(panels) // COLUMNS)
        figure = Figure(figsize=(WIDTH_INCHES, 0.35 + 2.35 * lines), layout="constrained")
        axes = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True)
        for place, axis in enumerate(axes.flat):
            if place >= len(panels):
                axis.set_visible(False)
                continue
            key, title = panels[place]
            for run in study.runs[::-1]:
                steps, values = run.log.series(key)
                if values:
                    axis.plot(steps, values, color=colours[run.name], alpha=0.13, linewidth=0.7)
                    axis.plot(steps, smoothed(values), color=colours[run.name], linewidth=1.7)
            axis.set(title=title, ylim=(0, None))
            axis.tick_params(labelbottom=True)
        figure.supylabel(LOSSES[loss], fontsize=9, color="#5b6875")
        figure.supxlabel("step", fontsize=9, color="#5b6875")
        for run in study.runs:
            axes[0][0].plot([], [], color=colours[run.name], linewidth=2.4, label=run.name)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper left", ncols=min(len(study.runs), 6))
        return png(figure)


def panels_of(study: Study, loss: str) -> list[tuple[str, str]]:
    """Measurements to draw, with their titles; none where no run logged the loss."""
    logged = {source for run in study.runs for source in run.log.sources(loss)}
    sources = [source for source in study.kinds if source in logged]
    if len(sources) <= MANY_SOURCES:
        return [(f"loss/{loss}/{source}", f"{source} ({study.kinds[source]})") for source in sources]
    return [(f"kind/{loss}/{kind}", kind) for kind in dict.fromkeys(study.kinds[source] for source in sources)]
