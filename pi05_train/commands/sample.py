"""`pi05 data inspect`: one sample, in the terminal or as a page."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.columns import Columns
from rich.console import Console, Group
from rich.style import Style
from rich.table import Table
from rich.text import Text

from pi05_train.config.sources import read_card
from pi05_train.data.sources.inspect import Inspected, inspect
from pi05_train.report.sample_page import facts, sample_page, texts
from pi05_train.samples.address import source_address

_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARK_COLUMNS, _PICTURE_COLUMNS = 30, 44


def show(card: str, root: str, *, key: str | None, row: int, page: str | None) -> None:
    """Print one sample of the card's source, or write it as a page."""
    read = read_card(card)
    found = inspect(source_address(root, read.shards), read, key=key, row=row)
    if page is None:
        _print(found, Console())
        return
    path = Path(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(sample_page(found), encoding="utf-8")
    print(path)


def _print(found: Inspected, console: Console) -> None:
    sample = found.sample
    table = Table(title=f"{sample.source}, sample {sample.key}", show_header=False, title_justify="left")
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, words in [*texts(sample), *facts(found)]:
        table.add_row(name, Text(words))
    for box in sample.boxes:
        place = f"y {box.y_min:.3f} to {box.y_max:.3f}, x {box.x_min:.3f} to {box.x_max:.3f}"
        table.add_row("box", Text(f"{box.label}: {place} on {box.camera}"))
    if found.complaint:
        table.add_row("complaint", Text(found.complaint, style="red"))
    console.print(table)
    if sample.state is not None:
        console.print(Text("state  " + "  ".join(f"{value:.4g}" for value in sample.state.tolist())))
    if sample.actions is not None and sample.action_valid is not None:
        console.print(_chunk(sample.actions, sample.action_valid))
    pictures = [terminal_picture(camera, jpeg, coloured=console.is_terminal) for camera, jpeg in sample.images.items()]
    console.print(Columns(pictures, padding=(1, 2)))


def _chunk(actions_HA: NDArray[np.float32], valid_H: NDArray[np.bool_]) -> Table:
    """A line per dimension: its course over the valid steps, between its own smallest and largest number."""
    title = f"actions: {len(valid_H)} steps, {int(valid_H.sum())} before the episode ends"
    table = Table("", "from", "course", "to", "smallest", "largest", title=title, title_justify="left", box=None)
    for dim, values in enumerate(actions_HA.T):
        valid = values[valid_H]
        last, low, high = (f"{number:.4g}" for number in (valid[-1], valid.min(), valid.max()))
        table.add_row(str(dim), f"{valid[0]:.4g}", spark(valid), last, low, high)
    return table


def spark(values: NDArray[np.floating[Any]]) -> str:
    """At most `_SPARK_COLUMNS` characters, each as high as its value stands between the smallest and the largest."""
    low, high = float(values.min()), float(values.max())
    columns = min(len(values), _SPARK_COLUMNS)
    chosen = values[np.linspace(0, len(values) - 1, columns).round().astype(int)].astype(np.float64)
    if high == low:
        return _BLOCKS[0] * columns
    heights = np.minimum((chosen - low) / (high - low) * len(_BLOCKS), len(_BLOCKS) - 1).astype(int)
    return "".join(_BLOCKS[height] for height in heights)


def terminal_picture(camera: str, jpeg: bytes, *, coloured: bool) -> Group:
    """The camera's name and size and, on a terminal, the picture: two pixels, one above the other, per character."""
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
    title = Text(f"{camera}, {picture.width} × {picture.height}, {len(jpeg) / 1000:.1f} kB", style="dim")
    if not coloured:
        return Group(title)
    rows = max(1, round(_PICTURE_COLUMNS * picture.height / picture.width / 2))
    pixels = np.asarray(picture.resize((_PICTURE_COLUMNS, 2 * rows), Image.Resampling.BOX))
    lines = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        line = Text(no_wrap=True)
        for above, below in zip(upper, lower, strict=True):
            line.append("▀", Style(color=_hex(above), bgcolor=_hex(below)))
        lines.append(line)
    return Group(title, *lines)


def _hex(rgb: list[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)
