"""`pi05 data convert`: a foreign data set into shards, index, statistics and card."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from pi05_train.commands.data import read_card
from pi05_train.commands.progress import progress_bar
from pi05_train.convert.formats import opener
from pi05_train.convert.run import Conversion, convert
from pi05_train.convert.source import Options
from pi05_train.data.sources.index import build_index
from pi05_train.data.sources.statistics import write_statistics

EPISODES_PER_SHARD, SAMPLES_PER_SHARD = 100, 1000


def convert_source(format_name: str, path: str, folder: str, options: Options, *, workers: int) -> None:
    """Convert, say what became of every sample and what to do with them; samples get an index and statistics."""
    target, whole = Path(folder), options.tier == "master"
    with progress_bar("converting") as report:
        conversion = convert(
            opener(format_name, options.tier),
            Path(path),
            target,
            options,
            workers=workers,
            samples_per_shard=EPISODES_PER_SHARD if whole else SAMPLES_PER_SHARD,
            report=report,
        )
    console = Console(soft_wrap=True, highlight=False)
    if whole:
        steps = f"To make samples of it: pi05 data convert master {folder} NEW_FOLDER --name NAME --kind KIND"
    else:
        card_path = target / f"{options.name}.yaml"
        card = read_card(str(card_path))
        build_index(target)
        steps = _next_steps(card_path, write_statistics(target, card, options.horizon) if card.has_actions else None)
    console.print(_table(conversion, folder))
    nothing = "Nothing is held out: this source cannot be evaluated on held-out samples."
    for note in (*conversion.notes, *([] if whole or conversion.heldout else [nothing])):
        console.print(f"note: {note}", markup=False)
    console.print(steps, markup=False)


def _table(conversion: Conversion, folder: str) -> Table:
    whole = conversion.options["tier"] == "master"
    table = Table("episodes" if whole else "samples", "count", "for example", title=f"converted into {folder}")
    table.add_row("in", str(conversion.samples_in), f"{conversion.units} units")
    table.add_row("out", str(conversion.samples), f"{conversion.shards} shards")
    if not whole:
        table.add_row("  of them held out", str(conversion.heldout))
    for reason, count in conversion.dropped.items():
        table.add_row(f"dropped: {reason}", str(count), conversion.examples[reason])
    table.add_row("read back and compared", str(conversion.checked))
    return table


def _next_steps(card: Path, statistics: Path | None) -> str:
    name, root = card.stem, card.parent.resolve().parent
    numbers = f" and statistics ({statistics.name})" if statistics else ""
    return (
        f"{card} is the card; the index{numbers} {'stand' if statistics else 'stands'} beside the shards.\n"
        f"To train on it, copy the card into source/ of data_mixtures or of your --config-dir, and write in a mixture\n"
        f"  defaults:\n"
        f"    - /source@sources.{name}.card: {name}\n"
        f"  sources:\n"
        f"    {name}: {{weight: 1.0}}\n"
        f"with data.root={root}"
    )
