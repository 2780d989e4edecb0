"""`pi05 data`: simulate, index, describe, check."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pi05_train.commands.progress import progress_bar
from pi05_train.config.schema import Config
from pi05_train.config.sources import read_card
from pi05_train.data.order.explain import explain as explain_step
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.sources.health import health, write_health
from pi05_train.data.sources.index import build_index
from pi05_train.data.sources.statistics import Tally, embodiments, tally_source, write_statistics
from pi05_train.data.sources.verify import repair as repair_index
from pi05_train.data.sources.verify import verify as verify_source
from pi05_train.errors import UserError
from pi05_train.processing.normalisation import write_norm_stats
from pi05_train.samples.address import source_address
from pi05_train.samples.card import SourceCard


def simulate(root: str, *, seed: int, workers: int, times: int = 1) -> None:
    """Record the six simulated sources under `root`, `times` the demo's amounts."""
    from pi05_train.simulation.settings import SimulationSettings, enlarged
    from pi05_train.simulation.simulate import simulate as record

    settings = enlarged(SimulationSettings(seed=seed, workers=workers), times)
    with progress_bar("simulating") as report:
        counts = record(Path(root), settings=settings, progress=report)
    table = Table("source", "episodes", "successes", "samples", title=f"recorded in {root}")
    for name, count in counts.items():
        table.add_row(name, str(count.episodes), str(count.successes), str(count.samples))
    Console().print(table)


def index(cards: Sequence[str], root: str, *, horizon: int) -> None:
    """Index the shards of the cards' sources, and write the statistics of their first `horizon` action steps."""
    for name in cards:
        card = read_card(name)
        folder = _local(card, root, "index")
        build_index(folder)
        statistics = write_statistics(folder, card, horizon) if card.has_actions else None
        print(f"{card.name}: indexed {folder}" + (f", statistics in {statistics}" if statistics else ""))


def _local(card: SourceCard, root: str, verb: str) -> Path:
    """The source's folder, for what is done once, where its shards are on a disk."""
    where = source_address(root, card.shards)
    if "://" in where:
        raise UserError(
            f"pi05 data {verb} {card.name}",
            got=where,
            expected="a folder",
            do="do this where the shards are on a disk, then upload the whole folder",
        )
    return Path(where)


def verify(cards: Sequence[str], root: str, *, workers: int, repair: bool) -> int:
    """Print one line per problem of the cards' sources; 1 if there is any left."""
    problems = 0
    for name in cards:
        card = read_card(name)
        where = source_address(root, card.shards)
        with progress_bar(f"verifying {card.name}") as report:
            found = verify_source(where, card, workers=workers, report=report)
        for problem in found:
            print(f"{card.name}: {where}/{problem}")
        if repair and found:
            print(f"{card.name}: {repair_index(_local(card, root, 'verify --repair'), found)}")
            found = []
        problems += len(found)
        if not found:
            print(f"{card.name}: every shard and sample is as indexed")
    return min(problems, 1)


def explain(config: Config, step: int) -> None:
    """Print the samples of a step in slot order."""
    opened = Mixture.of(config)
    start = time.perf_counter()
    batch = config.data.global_batch_samples
    schedule = opened.schedule(config.run.seed, batch, step + 1, read_group=config.data.read_group)
    slots = explain_step(opened, schedule, step)
    milliseconds = (time.perf_counter() - start) * 1e3
    title = f"step {step} of {opened.name}, seed {config.run.seed}: {batch} samples, found in {milliseconds:.0f} ms"
    names = ("slot", "source", "draw", "epoch", "row", "key", "episode", "frame", "shard", "offset", "length")
    table = Table(title=title)
    for column in names:
        table.add_column(column, justify="left" if column in ("source", "key", "shard") else "right", no_wrap=True)
    for slot in slots:
        table.add_row(*(str(getattr(slot, column)) for column in names))
    console = Console()
    Console(width=max(console.width, 160)).print(table)


def stats(cards: Sequence[str], root: str, *, horizon: int, workers: int) -> None:
    """Write norm_stats.json and the health report of each source, and norm_stats.json of each shared embodiment."""
    read = [read_card(name) for name in cards]
    tallies: dict[str, Tally] = {}
    for card in read:
        folder = _local(card, root, "stats")
        with progress_bar(f"statistics of {card.name}") as report:
            tallies[card.name] = tally_source(folder, card, horizon, workers=workers, report=report)
        tally = tallies[card.name]
        if not tally.samples:
            print(f"{card.name}: no states or actions")
            continue
        found = health(card, tally)
        write_norm_stats(folder / "norm_stats.json", tally.norm_stats())
        write_health(folder, found)
        print(
            f"{card.name}: {found.samples} samples with numbers, {found.padded_share:.1%} of the action steps past an "
            f"episode's end, {found.idle_share:.1%} of the chunks idle; statistics and health.md in {folder}"
        )
        for finding in found.findings:
            print(f"  {finding}")
    for name, group in embodiments(read).items():
        if len(group) > 1:
            whole = Tally()
            for card in group:
                whole.merge(tallies[card.name])
            folder = Path(root) / "embodiments" / name
            folder.mkdir(parents=True, exist_ok=True)
            write_norm_stats(folder / "norm_stats.json", whole.norm_stats())
            print(f"{name}: statistics of {', '.join(card.name for card in group)} together in {folder}")
