"""A mixture with its indexes open: which rows of which sources, at which shares."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pi05_train.config.schema import Config
from pi05_train.data.cache import Cache
from pi05_train.data.order.phases import plan_phases, plan_schedule
from pi05_train.data.order.schedule import SCHEDULE_VERSION, Phase, Schedule
from pi05_train.data.sources.absent import require_present
from pi05_train.data.sources.index import Index, read_keys
from pi05_train.data.sources.rows import Rows, filter_rows
from pi05_train.errors import UserError
from pi05_train.samples.address import PATIENCE_SECONDS, source_address
from pi05_train.samples.card import SourceCard, check_card
from pi05_train.samples.mixture_config import FilterConfig, MixtureConfig, check_mixture


@dataclass(frozen=True)
class Mixture:
    """Enabled sources in the declared order. `rows[name][i]` is the index row of the i-th sample that passed."""

    name: str
    filters: FilterConfig
    cards: dict[str, SourceCard]
    indexes: dict[str, Index]
    rows: dict[str, Rows]
    config: MixtureConfig

    @classmethod
    def open(
        cls,
        config: MixtureConfig,
        root: Path | str,
        *,
        split: str | None = None,
        cache: Cache | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Mixture:
        """Open the index of every enabled source; relative `shards` start at `root`, a folder or an address.

        The first time on a machine it reads the indexes whole; `cache` (None: the user's own) remembers what it found.

        `split="heldout"` gives the held-out rows, whatever the other filters leave for training: ablations are
        measured on the same rows. Refuses (UserError) what `check_mixture` and `Index.open` refuse, no source at all,
        an entry not named like its card, absent shards, and a source that a filter leaves without rows.
        """
        filters = config.filters if split in (None, config.filters.split) else FilterConfig(split=str(split))
        if filters.split not in ("train", "heldout"):
            raise UserError("mixture split", got=repr(filters.split), expected="train or heldout", do="correct it")
        entries = config.taking_part
        if not entries:
            raise UserError(
                f"mixture {config.name}, sources", got="none enabled", expected="at least one", do="enable one"
            )
        check_mixture(config)
        require_present((entry.card for entry in entries.values()), str(root), patience_seconds)
        cache = cache or Cache()
        indexes: dict[str, Index] = {}
        for name, entry in entries.items():
            check_card(entry.card)
            if entry.card.name != name:
                raise UserError(
                    f"mixture {config.name}, source {name}",
                    got=f"the card of {entry.card.name}",
                    expected="an entry named like its card",
                    do="rename one of them",
                )
            where = source_address(str(root), entry.card.shards)
            indexes[name] = Index.open(where, cache, patience_seconds=patience_seconds)
        return cls(
            name=config.name,
            filters=filters,
            cards={name: entry.card for name, entry in entries.items()},
            indexes=indexes,
            rows={
                name: filter_rows(name, index, filters.of_kind(entries[name].card.kind), cache)
                for name, index in indexes.items()
            },
            config=config,
        )

    @classmethod
    def of(cls, config: Config, *, split: str | None = None) -> Mixture:
        """The mixture of a configuration, opened where its `data` says."""
        data = config.data
        cache, patience = Cache(data.cache), data.patience_seconds
        return cls.open(config.mixture, data.root, split=split, cache=cache, patience_seconds=patience)

    @property
    def remote(self) -> bool:
        """Whether any source is read over the network."""
        return any(index.store.remote for index in self.indexes.values())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.cards)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each source that passed the filters."""
        return tuple(len(self.rows[name]) for name in self.names)

    @property
    def shares(self) -> tuple[float, ...]:
        """Fraction of the examples that each source contributes at step 0; they sum to 1."""
        first = plan_phases(self.config, dict(zip(self.names, self.sizes, strict=True)), global_batch=1, steps=0)
        return tuple(first.phases[0].share(name) for name in self.names)

    def schedule(self, seed: int, global_batch: int, steps: int, *, read_group: int = 1) -> Schedule:
        """The batches of the first `steps` steps; its `end_step` tells if exhausted sources end the run earlier."""
        rows = dict(zip(self.names, self.sizes, strict=True))
        return plan_schedule(
            self.config, rows, seed=seed, global_batch=global_batch, steps=steps, read_group=read_group
        )

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that the data order depends on before any later phase, besides what a schedule adds:
        seed, batch size and read group.

        Independent of where the shards stand and of the order in which the sources are declared.
        """
        return _sha256(self._content(dict(zip(self.names, self.shares, strict=True))))

    def fingerprint_at(self, step: int, schedule: Schedule) -> str:
        """sha256 of everything that decided the order before `step`, besides seed and batch size.

        Phases that begin later do not count, so a run may be given new ones.
        """
        begun = [phase for phase in schedule.phases[1:] if phase.from_step < step]
        decided: dict[str, object] = {}
        if begun:
            decided["phases"] = [(phase.from_step, self._content(self._phase_shares(phase))) for phase in begun]
        if schedule.read_group != 1:
            decided["read_group"] = schedule.read_group
        return _sha256({"first": self.fingerprint} | decided) if decided else self.fingerprint

    def _phase_shares(self, phase: Phase) -> dict[str, float]:
        return {name: phase.share(name) for name in self.names}

    def _content(self, shares: Mapping[str, float]) -> dict[str, object]:
        sources = sorted(
            (name, self.indexes[name].fingerprint, size, shares[name])
            for name, size in zip(self.names, self.sizes, strict=True)
            if shares[name] > 0
        )
        return {"schedule_version": SCHEDULE_VERSION, "filters": asdict(self.filters), "sources": sources}

    def order_of(self, source: str, schedule: Schedule) -> dict[str, str | int]:
        """Everything that decides in which order the source's samples are drawn, by name.

        Two runs in which it is equal draw the same samples of the source, one after the other, whatever else is in
        their mixtures; a draw's augmentation and flow noise are keyed by the same things. How many of them a batch
        holds follows from shares and batch size.
        """
        return {
            "seed": schedule.seed,
            "shards": self.indexes[source].fingerprint,
            "rows": self.rows[source].fingerprint,
            "read_group": schedule.read_group,
            "schedule_version": SCHEDULE_VERSION,
        }

    def key(self, source: str, row: int) -> str:
        """The key of a sample, from the index alone."""
        return read_keys(self.indexes[source].folder, [self.rows[source][row]])[0]

    def describe(self, shares: Mapping[str, float] | None = None) -> list[dict[str, str | int | float]]:
        """One row per source for a table a person reads; `shares` asked for over a run, or else those at step 0."""
        shares = dict(zip(self.names, self.shares, strict=True)) if shares is None else shares
        table: list[dict[str, str | int | float]] = []
        for name, size in zip(self.names, self.sizes, strict=True):
            table.append(
                {
                    "source": name,
                    "kind": self.cards[name].kind,
                    "share": shares[name],
                    "samples": size,
                    "of": len(self.indexes[name]),
                    "episodes": self.rows[name].episodes,
                    "environments": self.rows[name].environments,
                    "licence": self.cards[name].licence,
                }
            )
        return table


def _sha256(content: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
