"""Figures of one request: its chunk in physical units, and how the chunk came out of noise.

Shape letters: H horizon, D action dims, T Euler steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pi05_train.evaluation.examples import evenly
from pi05_train.policy.policy import Denoising
from pi05_train.report.figures import FLOW, GREY, INK, PALETTE, STYLE, WIDTH_INCHES

Floats = NDArray[np.float32]
SOFT = "#5b6875"
SHOWN_STEPS = 10


def chunk_figure(
    chunk_HD: Floats,
    compared_HD: Floats | None,
    now: dict[int, float],
    names: Sequence[str],
    rate_hz: float,
    *,
    compared: str = "demonstrated",
) -> Figure:
    """A panel per dimension: the chunk, what it is `compared` with, if anything, and where the robot is now."""
    steps, dims = chunk_HD.shape
    seconds, columns = np.arange(steps) / (rate_hz or 1.0), min(dims, 4)
    rows = -(-dims // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 0.75 + 1.65 * rows), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True).flat)
        for axis in axes[dims:]:
            axis.set_visible(False)
        for dim, (axis, name) in enumerate(zip(axes[:dims], names, strict=True)):
            if compared_HD is not None:
                axis.plot(seconds[: len(compared_HD)], compared_HD[:, dim], color=INK, linewidth=2.2, label=compared)
            axis.plot(seconds, chunk_HD[:, dim], color=FLOW, linewidth=1.6, marker=".", markersize=3, label="policy")
            if dim in now:
                axis.plot(0, now[dim], "o", color=INK, markersize=5, zorder=3)
            axis.set_title(fill(name, 30), fontweight="normal", fontsize=9, color=SOFT)
            low, high = axis.get_ylim()
            half = max((high - low) / 2, 0.01)
            axis.set_ylim((low + high) / 2 - half, (low + high) / 2 + half)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        figure.supxlabel("seconds" if rate_hz else "steps", fontsize=9, color=SOFT)
    return figure


def denoising_figure(denoising: Denoising) -> Figure:
    """Columns are Euler steps; rows are x_t, the velocity the network gives there, and how far the step moves."""
    steps, _, dims = denoising.velocity_THD.shape
    x_THD, shown = denoising.x_THD, evenly(steps, SHOWN_STEPS)
    rows = {
        "x_t": [x_THD[i] for i in (*shown, steps)],
        "velocity": [denoising.velocity_THD[i] for i in shown],
        "displacement": [x_THD[i + 1] - x_THD[i] for i in shown],
    }
    times = [denoising.times[i] for i in (*shown, steps)]
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(WIDTH_INCHES, 0.9 + 3 * (0.3 + 0.11 * max(dims, 6))), layout="constrained")
        grid = figure.subplots(3, len(times), squeeze=False)
        for axes, (name, pictures) in zip(grid, rows.items(), strict=True):
            _heat_maps(figure, axes[: len(pictures)], pictures)
            axes[0].set_ylabel(name, fontsize=9)
            for axis in axes[len(pictures) :]:
                axis.set_visible(False)
        for axis, time in zip(grid[0], times, strict=True):
            axis.set_title(f"t = {abs(time):.2g}" if abs(time) > 1e-4 else "t = 0", fontsize=9, loc="center")
    return figure


def _heat_maps(figure: Figure, axes: Sequence[Axes], pictures: Sequence[Floats]) -> None:
    """Control steps run right, dims down; one scale for the row, from minus to plus its largest number."""
    largest = max(float(np.abs(picture).max()) for picture in pictures) or 1.0
    for axis, picture_HD in zip(axes, pictures, strict=True):
        shown = axis.imshow(
            picture_HD.T, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest"
        )
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=list(axes), location="left", ticks=[-largest, 0, largest], pad=0.01, aspect=10)
    bar.ax.set_yticklabels([f"{-largest:.2g}", "0", f"{largest:.2g}"], fontsize=8)
    bar.outline.set_visible(False)


def movement_figure(denoising: Denoising, names: Sequence[str]) -> Figure:
    """Per dimension, root mean squares over the chunk: how far each Euler step moves, and what is left to go."""
    x_THD = denoising.x_THD
    moved_TD = np.sqrt((np.diff(x_THD, axis=0) ** 2).mean(1))
    left_TD = np.sqrt(((x_THD - x_THD[-1]) ** 2).mean(1))
    panels = {
        "displacement of each step": (denoising.times[:-1], moved_TD),
        "distance to the final chunk": (denoising.times, left_TD),
    }
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, 3.0 + 0.14 * -(-len(names) // 5)), layout="constrained")
        axes = figure.subplots(1, 2)
        for axis, (title, (times, values_TD)) in zip(axes, panels.items(), strict=True):
            for dim, name in enumerate(names):
                colour = PALETTE[dim % len(PALETTE)]
                line = ("-", "--", ":", "-.")[dim // len(PALETTE) % 4]
                axis.plot(
                    times, values_TD[:, dim], color=colour, linestyle=line, linewidth=1.4, label=name.partition(" (")[0]
                )
            axis.set(title=title, xlabel="flow time t: noise at 1, actions at 0", ylim=(0, None))
            axis.axhline(0, color=GREY, linewidth=0.8)
            axis.invert_xaxis()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=5, fontsize=8)
    return figure
