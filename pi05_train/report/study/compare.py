"""Every run's numbers beside the baseline's: differences with intervals, and whether the data order was the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from pi05_train.evaluation.intervals import paired_difference, rate_difference
from pi05_train.evaluation.results import METRICS, Better, Evaluation, RolloutSummary
from pi05_train.report.study.inputs import Study, StudyRun

SUCCESS = "success"
"""Closed-loop success stands among the metrics under this name."""
HEADLINE = ("text_cross_entropy", "fast_cross_entropy", "flow_action_error", SUCCESS)
"""What a study is judged by at first sight."""


@dataclass(frozen=True)
class Difference:
    """A run's number minus the baseline's."""

    value: float
    low: float | None
    high: float | None
    """`low` and `high`: the 95 % interval; None where the samples allow none."""

    def verdict(self, better: Better) -> str:
        """ "better" or "worse" where the interval leaves out 0, else ""."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return ""
        return "better" if (self.low > 0) == (better == "higher") else "worse"


@dataclass(frozen=True)
class Cell:
    """One run's number."""

    value: float
    n: int
    """Samples or episodes."""
    difference: Difference | None = None
    """None for the baseline, and where the two have no number in the same units."""
    low: float | None = None
    high: float | None = None
    """`low` and `high`: Wilson interval of a success rate."""


@dataclass(frozen=True)
class Row:
    """One metric of one source in all runs."""

    source: str
    kind: str
    metric: str
    better: Better
    cells: dict[str, Cell]
    """By run; a run that did not measure it is absent."""

    @property
    def title(self) -> str:
        return "success in simulation" if self.metric == SUCCESS else METRICS[self.metric].title


@dataclass(frozen=True)
class OrderMismatch:
    """A source that two runs drew in different orders."""

    first: str
    second: str
    source: str
    what: tuple[str, ...]
    """The parts that differ: seed, shards, rows, read_group, schedule_version."""


def compare(study: Study) -> list[Row]:
    """All numbers of all runs, source by source; the headline metrics of a source first."""
    rows = [*_heldout(study), *_success(study)]
    sources = list(dict.fromkeys([*study.kinds, *(row.source for row in rows)]))
    metrics = list(dict.fromkeys([*HEADLINE, *METRICS]))
    return sorted(rows, key=lambda row: (sources.index(row.source), metrics.index(row.metric)))


def shared_orders(study: Study) -> Iterator[tuple[StudyRun, StudyRun, str]]:
    """Every pair of runs with every source that both trained on."""
    for first, second in combinations(study.runs, 2):
        for source in first.orders:
            if source in second.orders:
                yield first, second, source


def order_mismatches(study: Study) -> list[OrderMismatch]:
    """Where shared sources were not drawn in the same order, and why."""
    found = []
    for first, second, source in shared_orders(study):
        ours, theirs = first.orders[source], second.orders[source]
        differing = tuple(key for key in ours if ours[key] != theirs.get(key))
        if differing:
            found.append(OrderMismatch(first.name, second.name, source, differing))
    return found


def _heldout(study: Study) -> Iterator[Row]:
    """One row for every source and metric that any run measured on held-out samples."""
    measured = {run.name: run.log.evaluation for run in study.runs if run.log.evaluation is not None}
    named = [(row.source, row.kind, row.metric, row.better) for e in measured.values() for row in e.heldout]
    for source, kind, metric, better in dict.fromkeys(named):
        cells = {}
        for run in study.runs:
            own = _number(measured.get(run.name), source, metric)
            if own is not None:
                difference = None if run is study.baseline else _paired(study.baseline, run, source, metric)
                cells[run.name] = Cell(*own, difference)
        yield Row(source, kind, metric, better, cells)


def _number(evaluation: Evaluation | None, source: str, metric: str) -> tuple[float, int] | None:
    found = [
        (row.value, row.n)
        for row in (evaluation.heldout if evaluation else ())
        if (row.source, row.metric) == (source, metric)
    ]
    return found[0] if found else None


def _paired(baseline: StudyRun, run: StudyRun, source: str, metric: str) -> Difference | None:
    """The difference on the held-out samples that both have, with its paired interval."""
    if baseline.log.evaluation is None or run.log.evaluation is None or not same_units(baseline, run, source, metric):
        return None
    ours, theirs = (r.log.evaluation.samples.get(source) for r in (run, baseline) if r.log.evaluation)
    if ours is None or theirs is None or metric not in ours.tallies or metric not in theirs.tallies:
        return None
    places = {key: place for place, key in enumerate(theirs.keys)}
    common = [(place, places[key]) for place, key in enumerate(ours.keys) if key in places]
    if not common:
        return None
    first = ours.tallies[metric].at([place for place, _ in common])
    second = theirs.tallies[metric].at([place for _, place in common])
    interval = paired_difference(first, second, [ours.episodes[place] for place, _ in common])
    low, high = interval or (None, None)
    return Difference(first.value - second.value, low, high)


def same_units(first: StudyRun, second: StudyRun, source: str, metric: str) -> bool:
    """Errors of actions need the same normalisation, nats and token accuracies the same tokenizers."""
    if metric.endswith("action_error"):
        statistics = f"{source}/norm_stats.json"
        kinds = (run.settings["data.normalisation"] for run in (first, second))
        return len(set(kinds)) == 1 and first.fingerprints.get(statistics) == second.fingerprints.get(statistics)
    keys = [key for key in first.fingerprints if key.startswith("tokenizer.")]
    return all(first.fingerprints[key] == second.fingerprints.get(key) for key in keys)


def _success(study: Study) -> Iterator[Row]:
    """One row for every simulator: all tasks together."""
    measured = {run.name: _summaries(run) for run in study.runs}
    for source in dict.fromkeys(source for summaries in measured.values() for source in summaries):
        base = measured[study.baseline.name].get(source)
        cells = {}
        for run in study.runs:
            own = measured[run.name].get(source)
            if own is not None:
                difference = None if base is None or run is study.baseline else _rates(own, base)
                cells[run.name] = Cell(own.rate, own.episodes, difference, own.low, own.high)
        yield Row(source, study.kinds.get(source, ""), SUCCESS, "higher", cells)


def _summaries(run: StudyRun) -> dict[str, RolloutSummary]:
    evaluation = run.log.evaluation
    rollouts = evaluation.rollouts if evaluation else ()
    return {row.source: row for row in rollouts if row.policy == "trained" and row.task == ""}


def _rates(own: RolloutSummary, base: RolloutSummary) -> Difference:
    low, high = rate_difference((own.successes, own.episodes), (base.successes, base.episodes))
    return Difference(own.rate - base.rate, low, high)
