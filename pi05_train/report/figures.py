"""Pictures of the report, as PNG bytes. Matplotlib without a screen; the same colour for a source everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pi05_train.evaluation.results import ActionExample, RolloutSummary
from pi05_train.report.inputs import MixtureShare, ReportInputs, StageLog

WIDTH_INCHES = 10.6
GREY = "#9aa5b1"
INK = "#1d2733"
FLOW = "#1f5fa8"
FAST = "#d9822b"
PALETTE = (
    "#1f5fa8", "#d9822b", "#1a7a4c", "#b23a77", "#7a5cc2", "#17939c", "#b89b00", "#c2452d", "#5d7a2f", "#6b7480",
)  # fmt: skip
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#b6c0ca",
    "axes.labelcolor": "#5b6875",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eaeef2",
    "xtick.color": "#5b6875",
    "ytick.color": "#5b6875",
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def source_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour per source, by place in the sorted list."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(sorted(set(names)))}


def colours_of(inputs: ReportInputs) -> dict[str, str]:
    """One colour per source for the whole page."""
    names = {share.source for stage in inputs.stages for share in stage.mixture}
    for stage in inputs.stages:
        names.update(stage.sources("text"), stage.sources("flow"))
        if stage.evaluation is not None:
            names.update(row.source for row in stage.evaluation.heldout)
    return source_colours(sorted(names))


def smoothed(values: Sequence[float]) -> NDArray[np.float64]:
    """Centred moving average over a twentieth of the points; at the ends over the points there are."""
    series = np.asarray(values, dtype=np.float64)
    half = len(series) // 40
    sums = np.concatenate([[0.0], np.cumsum(series)])
    low = np.maximum(np.arange(len(series)) - half, 0)
    high = np.minimum(np.arange(len(series)) + half + 1, len(series))
    return np.asarray((sums[high] - sums[low]) / (high - low))


def loss_curves(stage: StageLog, colours: Mapping[str, str]) -> bytes:
    """Training loss per source: one panel for text and FAST tokens, one for the flow where the stage has it."""
    panels = [
        (title, loss)
        for title, loss in (
            ("Text and FAST tokens: cross-entropy (nats)", "text"),
            ("Flow: squared error", "flow"),
        )
        if stage.sources(loss)
    ]
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 3.6), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (title, loss) in zip(axes, panels, strict=True):
            for source in stage.sources(loss):
                steps, values = stage.series(f"loss/{loss}/{source}")
                axis.plot(steps, values, color=colours[source], alpha=0.22, linewidth=0.8)
                axis.plot(steps, smoothed(values), color=colours[source], linewidth=1.8, label=source)
            axis.set(title=title, xlabel="step", ylim=(0, None))
            axis.legend(ncols=2 if len(stage.sources(loss)) > 4 else 1)
        return png(figure)


def mixture_bars(mixture: Sequence[MixtureShare], colours: Mapping[str, str]) -> bytes:
    """Requested (pale) and realised (full) share of every source."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 0.9 + 0.46 * len(mixture)), layout="constrained")
        axis = figure.subplots()
        for row, share in enumerate(mixture):
            colour = colours[share.source]
            axis.barh(row - 0.19, 100 * share.requested, height=0.34, color=colour, alpha=0.35)
            axis.barh(row + 0.19, 100 * share.realised, height=0.34, color=colour)
            widest = 100 * max(share.requested, share.realised)
            axis.annotate(
                f"{100 * share.requested:.1f} → {100 * share.realised:.1f}",
                (widest, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9,
            )  # fmt: skip
        axis.set_yticks(range(len(mixture)), [f"{share.source} ({share.kind})" for share in mixture])
        axis.grid(visible=False, axis="y")
        axis.set(xlabel="% of training samples, requested (pale) and realised (full)")
        axis.margins(x=0.12)
        axis.invert_yaxis()
        return png(figure)


def action_chunk(example: ActionExample) -> bytes:
    """Demonstrated and predicted chunk, one panel per action dimension."""
    horizon, dims = example.truth_hd.shape
    seconds = np.arange(horizon) / example.rate_hz
    valid = int(example.valid_h.sum())
    columns = min(dims, 4)
    rows = -(-dims // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 0.6 + 1.65 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
        for dim, axis in enumerate(axes):
            if dim >= dims:
                axis.set_visible(False)
                continue
            axis.plot(seconds[:valid], example.truth_hd[:valid, dim], color=INK, linewidth=2.2, label="demonstrated")
            if example.flow_hd is not None:
                axis.plot(seconds, example.flow_hd[:, dim], color=FLOW, linewidth=1.5, label="flow")
            if example.fast_hd is not None:
                axis.plot(seconds, example.fast_hd[:, dim], color=FAST, linewidth=1.3, linestyle="--", label="FAST")
            axis.set_title(f"dimension {dim + 1}", fontweight="normal", fontsize=9, color="#5b6875")
            low, high = axis.get_ylim()
            middle, half = (low + high) / 2, max((high - low) / 2, 0.25)
            axis.set_ylim(middle - half, middle + half)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=3)
        figure.supxlabel("seconds", fontsize=9, color="#5b6875")
        return png(figure)


def denoising(example: ActionExample) -> bytes:
    """x_t from noise to data as heat maps (time runs right, dimensions down), then the demonstration."""
    assert example.denoising_thd is not None
    pictures = [
        (f"t = {t:.1f}".replace("-0.0", "0.0"), x) for t, x in zip(example.times, example.denoising_thd, strict=True)
    ]
    pictures.append(("demonstrated", np.where(example.valid_h[:, None], example.truth_hd, np.nan)))
    dims = example.truth_hd.shape[1]
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH_INCHES, 0.75 + 0.13 * max(dims, 5)), layout="constrained")
        axes = figure.subplots(1, len(pictures))
        for axis, (title, x_hd) in zip(axes, pictures, strict=True):
            shown = axis.imshow(x_hd.T, cmap="RdBu_r", vmin=-2, vmax=2, aspect="auto", interpolation="nearest")
            axis.set_title(title, fontsize=9, loc="center", fontweight="normal")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        bar = figure.colorbar(shown, ax=list(axes), ticks=[-2, 0, 2], pad=0.01, aspect=10)
        bar.outline.set_visible(False)
        return png(figure)


def policy_colours(rows: Sequence[RolloutSummary]) -> dict[str, str]:
    """The trained policy stands out from its baselines."""
    policies = list(dict.fromkeys(row.policy for row in rows))
    return {
        name: FLOW if name == "trained" else (GREY, FAST, "#7a5cc2")[i % 3] for i, name in enumerate(policies[::-1])
    }


def success_rates(rows: Sequence[RolloutSummary], colours: Mapping[str, str]) -> bytes:
    """Success rate per task with its 95 % interval, one colour per policy."""
    policies = list(dict.fromkeys(row.policy for row in rows))
    places = list(dict.fromkeys((row.source, row.task) for row in rows))
    step = 0.8 / len(policies)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 0.9 + (0.16 + 0.2 * len(policies)) * len(places)), layout="constrained")
        axis = figure.subplots()
        for row in rows:
            y = places.index((row.source, row.task)) + step * (policies.index(row.policy) - (len(policies) - 1) / 2)
            interval = [[100 * (row.rate - row.low)], [100 * (row.high - row.rate)]]
            axis.errorbar(
                100 * row.rate,
                y,
                xerr=interval,
                fmt="o",
                markersize=6,
                color=colours[row.policy],
                linewidth=2.2,
                capsize=0,
            )
            axis.annotate(
                f"{row.successes}/{row.episodes}", (100 * row.high, y), xytext=(6, 0), textcoords="offset points",
                va="center", fontsize=8.5, color=colours[row.policy],
            )  # fmt: skip
        for name in policies:
            axis.plot([], [], "o-", color=colours[name], label=name)
        axis.set_yticks(range(len(places)), [f"{source}: {task or 'all tasks'}" for source, task in places])
        axis.set(xlim=(-2, 106), xlabel="% of episodes that succeed, with 95 % Wilson interval")
        axis.grid(visible=False, axis="y")
        axis.invert_yaxis()
        figure.legend(loc="outside upper left", ncols=len(policies))
        return png(figure)


def phase_bars(seconds: Mapping[str, float]) -> bytes:
    """Wall-clock seconds by phase."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 0.7 + 0.3 * len(seconds)), layout="constrained")
        axis = figure.subplots()
        axis.barh(list(seconds), list(seconds.values()), color=FLOW, height=0.6)
        for row, value in enumerate(seconds.values()):
            axis.annotate(
                f"{value:.1f} s", (value, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
            )
        axis.set(xlabel="seconds")
        axis.margins(x=0.1)
        axis.grid(visible=False, axis="y")
        axis.invert_yaxis()
        return png(figure)


def png(figure: Figure) -> bytes:
    """The picture, byte for byte the same for the same figure."""
    FigureCanvasAgg(figure)
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()
