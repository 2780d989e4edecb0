"""`pi05 data convert`: a foreign data set into shards, index, statistics and card."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from pi05_train.commands.progress import progress_bar
from pi05_train.config.robots import read_robot
from pi05_train.config.sources import read_card
from pi05_train.convert.formats import opener
from pi05_train.convert.run import Conversion, convert
from pi05_train.convert.source import Options, check_options
from pi05_train.convert.units import written_whole
from pi05_train.data.sources.index import build_index
from pi05_train.data.sources.statistics import write_statistics
from pi05_train.samples.card import SourceCard, load_card
from pi05_train.samples.robot_card import check_agreement

EPISODES_PER_SHARD, SAMPLES_PER_SHARD = 100, 1000


def convert_source(
    format_name: str, path: str, folder: str, options: Options, *, workers: int, robot: str | None = None
) -> None:
    """Convert, say what became of every sample and what to do with them; samples get an index and statistics.

    The written card names the robot's, and has of it what the files do not tell: which actions are relative.
    """
    target, whole = Path(folder), options.tier == "master"
    open_source = opener(format_name, options.tier)
    if robot is not None:
        check_options(options)
        _of_robot(open_source(Path(path), options).card, robot)
    with progress_bar("converting") as report:
        conversion = convert(
            open_source,
            Path(path),
            target,
            options,
            workers=workers,
            samples_per_shard=EPISODES_PER_SHARD if whole else SAMPLES_PER_SHARD,
            report=report,
        )
    card_path = target / f"{options.name}.yaml"
    if robot is not None:
        with written_whole(card_path) as file:
            card = _of_robot(load_card(card_path), robot)
            file.write(yaml.safe_dump(asdict(card), sort_keys=False, allow_unicode=True).encode())
    console = Console(soft_wrap=True, highlight=False)
    if whole:
        steps = f"To make samples of it: pi05 data convert master {folder} NEW_FOLDER --name NAME --kind KIND"
    else:
        card = read_card(str(card_path))
        build_index(target)
        steps = _next_steps(card_path, write_statistics(target, card, options.horizon) if card.has_actions else None)
    console.print(_table(conversion, folder))
    nothing = "Nothing is held out: this source cannot be evaluated on held-out samples."
    for note in (*conversion.notes, *([] if whole or conversion.heldout else [nothing])):
        console.print(f"note: {note}", markup=False)
    console.print(steps, markup=False)


def _of_robot(card: SourceCard, robot: str) -> SourceCard:
    """The card of a source that this robot recorded; refuses (UserError) one that cannot be."""
    its = read_robot(robot)
    name = str(Path(robot).resolve()) if robot.endswith(".yaml") else robot
    card = replace(card, robot=name, delta_mask=card.delta_mask or (its.delta_mask if card.has_actions else []))
    if card.has_actions:
        check_agreement(its, card)
    return card


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
