"""Held-out numbers sample by sample, so that two runs can be compared on the same samples.

In a run folder: evaluation/samples.json, {source: {"keys": [...], "episodes": [...], "tallies": {metric: Tally}}}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path

FILE = "evaluation/samples.json"


@dataclass(frozen=True)
class Tally:
    """A number over samples: sum of `totals` over sum of `counts`, or the square root of that."""

    totals: tuple[float, ...]
    counts: tuple[float, ...]
    """How many tokens, boxes or action entries stand behind a sample's total; 0 where the metric does not apply."""
    root: bool = False

    @property
    def value(self) -> float:
        mean = sum(self.totals) / sum(self.counts)
        return sqrt(mean) if self.root else mean

    @property
    def n(self) -> int:
        """Samples that count."""
        return sum(count > 0 for count in self.counts)

    def at(self, places: Sequence[int]) -> Tally:
        """The same of some samples."""
        return Tally(tuple(self.totals[i] for i in places), tuple(self.counts[i] for i in places), self.root)


def mean_tally(values: Sequence[float]) -> Tally:
    """Every sample counts once."""
    return Tally(tuple(map(float, values)), (1.0,) * len(values))


@dataclass(frozen=True)
class SourceSamples:
    """One source's held-out samples and what each metric is made of, parallel to `keys`."""

    keys: tuple[str, ...]
    episodes: tuple[int, ...]
    tallies: Mapping[str, Tally]


def write_samples(run: Path, samples: Mapping[str, SourceSamples]) -> None:
    """Write the file described above into a run folder whose `evaluation` folder exists."""
    (run / FILE).write_text(json.dumps({name: asdict(of) for name, of in samples.items()}, allow_nan=False))


def read_samples(run: Path) -> dict[str, SourceSamples]:
    """What `write_samples` wrote; empty where an evaluation kept none."""
    if not (run / FILE).is_file():
        return {}
    return {
        name: SourceSamples(
            tuple(of["keys"]),
            tuple(of["episodes"]),
            {metric: Tally(tuple(t["totals"]), tuple(t["counts"]), t["root"]) for metric, t in of["tallies"].items()},
        )
        for name, of in json.loads((run / FILE).read_text()).items()
    }
