"""`pi05 data mixture`: what the stages of a recipe draw from which source, and what is still to be fetched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from pi05_train.config.schema import Config
from pi05_train.data.order.outlook import Outlook
from pi05_train.data.order.schedule import Schedule
from pi05_train.data.sources.absent import commands
from pi05_train.samples.address import source_address
from pi05_train.samples.card import SourceCard

Epochs = Mapping[str, float | None]
"""By source; None where its rows are not known."""


def mixture(stages: Sequence[Config]) -> None:
    """Print each stage's shares, rows and epochs, the epochs over all of them, and the commands for absent sources."""
    console = Console(soft_wrap=True, highlight=False)
    epochs: list[Epochs] = []
    absent: dict[str, SourceCard] = {}
    for config in stages:
        outlook = Outlook.of(config)
        epochs.append(_print_stage(console, config, outlook))
        absent |= outlook.absent
    if len(stages) > 1:
        console.print(_all_stages([config.stage.name for config in stages], epochs))
    for line in _to_do(list(absent.values()), stages[0].data.root):
        console.print(line, markup=False)


def _print_stage(console: Console, config: Config, outlook: Outlook) -> Epochs:
    """Print the table of a stage and its phases; the epochs."""
    batch, asked_steps = config.data.global_batch_samples, config.run.steps
    schedule = outlook.schedule(config.run.seed, batch, asked_steps, read_group=config.data.read_group)
    steps = asked_steps if schedule.end_step is None else schedule.end_step
    seen = schedule.epochs(steps)
    epochs = {name: seen[name] if rows else None for name, rows in outlook.rows.items()}
    title = f"{config.mixture.name}: {steps} steps of {batch} samples"
    if outlook.opened and not outlook.absent:
        title += f", fingerprint {outlook.opened.fingerprint_at(0, schedule)[:12]}"
    Console(width=max(console.width, 160)).print(_table(title, outlook, schedule, steps, epochs))
    for before, phase in zip(schedule.phases, schedule.phases[1:], strict=False):
        changes = [
            f"{name} {phase.share(name):.4f}" for name in outlook.cards if phase.share(name) != before.share(name)
        ]
        console.print(f"from step {phase.from_step}, {phase.name}: {', '.join(changes)}")
    if steps < asked_steps:
        console.print(f"the run ends after {steps} of {asked_steps} steps: {schedule.end_reason}")
    return epochs


def _table(title: str, outlook: Outlook, schedule: Schedule, steps: int, epochs: Epochs) -> Table:
    counts, asked = schedule.counts(steps), schedule.requested(steps)
    described = {str(row["source"]): row for row in outlook.opened.describe(asked)} if outlook.opened else {}
    table = Table("source", "kind", "asked", "drawn", "samples", "of", "environments", "epochs", "licence", title=title)
    if outlook.absent:
        table.add_column("GB to fetch", justify="right")
    for name, card in outlook.cards.items():
        drawn = counts[name] / (steps * schedule.global_batch)
        row = described.get(name)
        known = _declared(outlook.rows[name], card.samples) if row is None else _counted(row)
        cells = [name, card.kind, f"{asked[name]:.4f}", f"{drawn:.4f}", *known, _times(epochs[name]), card.licence]
        if outlook.absent:
            cells.append(_gigabytes(card.download_gb) if name in outlook.absent else "")
        table.add_row(*cells)
    return table


def _counted(row: Mapping[str, object]) -> tuple[str, str, str]:
    """Cells of a source that is there."""
    return f"{row['samples']:,}", f"{row['of']:,}", str(row["environments"])


def _declared(rows: int | None, of: int | None) -> tuple[str, str, str]:
    """Cells of an absent source."""
    return ("unknown", "unknown", "") if rows is None else (f"~{rows:,}", f"~{of:,}", "")


def _times(epochs: float | None) -> str:
    return "unknown" if epochs is None else f"{epochs:.2f}"


def _gigabytes(size: float | None) -> str:
    return "unknown" if size is None else f"{size:g}" if size else "with another"


def _all_stages(names: Sequence[str], epochs: Sequence[Epochs]) -> Table:
    """Epochs of every source in each stage and over all of them."""
    table = Table("source", *names, "all stages", title="epochs")
    for source in dict.fromkeys(name for stage in epochs for name in stage):
        seen = [stage.get(source, 0.0) for stage in epochs]
        known = [times for times in seen if times is not None]
        table.add_row(source, *map(_times, seen), _times(sum(known) if len(known) == len(seen) else None))
    return table


def _to_do(absent: Sequence[SourceCard], root: str) -> Iterator[str]:
    """What is to be fetched and run."""
    if not absent:
        return
    sizes = [card.download_gb for card in absent]
    pictures = sum((card.samples or 0) * len(card.cameras) for card in absent)
    yield (
        f"{len(absent)} sources are not in {root}: rows with ~ are those that their cards declare, less the held-out "
        f"part and before other filters. To fetch: {sum(size or 0 for size in sizes):.0f} GB and "
        f"{sizes.count(None)} downloads of unknown size; to store: {pictures / 1e6:.1f} million pictures and those of "
        f"{sum(card.samples is None for card in absent)} sources of unknown rows."
    )
    for card in absent:
        yield f"\n{card.name} {card.version} ({card.licence or 'no licence stated'}): {card.origin}"
        yield from (f"  {command}" for command in commands(card, root))
        if not card.convert:
            yield f"  no command on its card: put shards into {source_address(root, card.shards)} and index them"
