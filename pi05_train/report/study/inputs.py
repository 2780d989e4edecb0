"""What a study's report reads: the run folders inside the study folder, as `pi05 train --multirun` leaves them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pi05_train.errors import UserError
from pi05_train.report.inputs import StageLog, read_stage

BASELINE = "none"
"""What `ablation=none` calls its run: the baseline where no other is named."""
NOT_COMPARED = ("run.folder", "run.start_from")
"""Keys that say where things stand, which differ among the variants of any study."""


@dataclass(frozen=True)
class StudyRun:
    """One variant."""

    log: StageLog
    settings: dict[str, Any]
    """The resolved configuration by dotted key."""
    kinds: dict[str, str]
    """Of the sources that it trained on."""
    orders: dict[str, dict[str, Any]]
    """What decided the order of each source (`Mixture.order_of`)."""
    fingerprints: dict[str, str]
    """Of shards, statistics and tokenizers."""

    @property
    def name(self) -> str:
        return self.log.name

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        return int(self.log.rows[-1]["step"]) + 1 if self.log.rows else 0


@dataclass(frozen=True)
class Study:
    """The runs, the baseline first."""

    title: str
    runs: tuple[StudyRun, ...]

    @property
    def baseline(self) -> StudyRun:
        return self.runs[0]

    @property
    def others(self) -> tuple[StudyRun, ...]:
        return self.runs[1:]

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The kind of every source that any run trained on, in the order of the mixtures."""
        return {source: kind for run in self.runs for source, kind in run.kinds.items()}

    @cached_property
    def changes(self) -> dict[str, list[str]]:
        """Settings that are not the same in all runs, and what each run has, parallel to `runs`."""
        keys = dict.fromkeys(key for run in self.runs for key in run.settings)
        rows = {key: [_said(run.settings.get(key)) for run in self.runs] for key in keys}
        return {key: row for key, row in rows.items() if len(set(row)) > 1 and key not in NOT_COMPARED}


def is_study(folder: Path) -> bool:
    """Whether there are run folders inside."""
    return folder.is_dir() and any((child / "metrics.jsonl").is_file() for child in folder.iterdir())


def read_study(folder: Path, baseline: str | None = None) -> Study:
    """The runs of a study folder; refuses (UserError) a baseline that is none of them, and a single run.

    Without a name the baseline is the run called "none", or else the first; names are in the order a person expects.
    """
    names = sorted((child.parent.name for child in folder.glob("*/metrics.jsonl")), key=_natural)
    if baseline is not None and baseline not in names:
        raise UserError("--baseline", got=repr(baseline), expected=f"one of {names}", do="correct the name")
    if len(names) < 2:
        raise UserError(
            f"study {folder}", got=f"one run, {names[0]}", expected="runs to compare", do=f"report {folder / names[0]}"
        )
    first = baseline or (BASELINE if BASELINE in names else names[0])
    return Study(folder.resolve().name, tuple(_read_run(folder / name) for name in sorted(names, key=first.__ne__)))


def _read_run(folder: Path) -> StudyRun:
    log = read_stage(folder)
    try:
        mixture = json.loads((folder / "mixture.json").read_text())
        orders = {source["source"]: source["order"] for source in mixture}
        fingerprints = json.loads((folder / "fingerprints.json").read_text())
    except (FileNotFoundError, KeyError) as error:
        raise UserError(
            f"run {folder}",
            got=f"nothing said of {error}",
            expected="the data order in mixture.json and fingerprints.json beside it",
            do="start its training command again, which only writes these where the run is finished",
        ) from error
    return StudyRun(
        log=log,
        settings=_flat(yaml.safe_load(log.config)),
        kinds={source["source"]: source["kind"] for source in mixture},
        orders=orders,
        fingerprints=fingerprints,
    )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    parts = (_flat(inner, f"{path}.{key}".lstrip(".")) for key, inner in value.items())
    return {key: inner for part in parts for key, inner in part.items()}


def _said(value: Any) -> str:
    return "–" if value is None else json.dumps(value) if isinstance(value, bool | list | dict) else str(value)


def _natural(name: str) -> list[tuple[int, float, str]]:
    """alpha_2 before alpha_10."""
    parts = re.findall(r"\d+(?:\.\d+)?|[^\d]+", name)
    return [(0, float(part), "") if part[0].isdigit() else (1, 0.0, part) for part in parts]
