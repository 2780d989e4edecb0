"""What the report reads, and from which files.

A run folder, one per stage:

    metrics.jsonl      one JSON object per logged step: "step", "loss/text/<source>", "loss/flow/<source>",
                       "share/<source>" (of the samples since the run began), "speed/samples_per_second",
                       "speed/tokens_per_second", "speed/data_wait" (share of the time)
    config.yaml        the resolved configuration
    mixture.json       [{"source", "kind", "share", "samples" ...} ...]: the shares asked for
    code_version.json  [{name: version} ...], the last entry is shown
    evaluation.json    see pi05_train.evaluation.results
    closed_loop.json   see pi05_train.evaluation.closed_loop

A folder of several stages holds `report.json`: {"title", "stages": [folder names in order], "seconds": {phase:
seconds}, "notes": [sentences]}. Only `metrics.jsonl` and `report.json` must exist; a section without data is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pi05_train.errors import UserError
from pi05_train.evaluation.closed_loop import FOLDER, ClosedLoop, read_closed_loop
from pi05_train.evaluation.results import Evaluation, read_evaluation


@dataclass(frozen=True)
class MixtureShare:
    """One source of a mixture; the shares of all sources sum to 1."""

    source: str
    kind: str
    requested: float
    realised: float
    """Of the samples drawn since the run began."""
    samples: int
    """How many different samples the source has."""


@dataclass(frozen=True)
class StageLog:
    """What one run folder says."""

    name: str
    rows: tuple[dict[str, float], ...]
    mixture: tuple[MixtureShare, ...] = ()
    config: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    closed_loop: ClosedLoop | None = None
    films: dict[str, bytes] = field(default_factory=dict)
    """Of the closed loop, by file name."""

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of one measurement, where it was logged."""
        found = [(row["step"], row[key]) for row in self.rows if row.get(key) is not None]
        return [step for step, _ in found], [value for _, value in found]

    def sources(self, loss: str) -> list[str]:
        """Names of the sources that logged `loss` ("text" or "flow"), sorted."""
        start = f"loss/{loss}/"
        return sorted({key.removeprefix(start) for row in self.rows for key in row if key.startswith(start)})


@dataclass(frozen=True)
class ReportInputs:
    """Everything on the page."""

    title: str
    stages: tuple[StageLog, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds by phase."""
    notes: tuple[str, ...] = ()

    @property
    def evaluation(self) -> Evaluation | None:
        """The last stage's evaluation that exists: the headline."""
        found = [stage.evaluation for stage in self.stages if stage.evaluation is not None]
        return found[-1] if found else None


def is_run_or_stages(folder: Path) -> bool:
    """Whether `read_inputs` reads the folder."""
    return any((folder / name).is_file() for name in ("report.json", "metrics.jsonl"))


def read_inputs(folder: Path) -> ReportInputs:
    """The inputs of a run folder, or of a folder of stages; `UserError` when it is neither."""
    plan = folder / "report.json"
    if plan.is_file():
        table = json.loads(plan.read_text())
        stages = tuple(read_stage(folder / name) for name in table["stages"])
        return ReportInputs(table["title"], stages, table.get("seconds", {}), tuple(table.get("notes", ())))
    if (folder / "metrics.jsonl").is_file():
        return ReportInputs(folder.name, (read_stage(folder),))
    raise UserError(
        "report",
        got=str(folder),
        expected="a folder with metrics.jsonl or report.json, or of runs to compare",
        do="name a run folder",
    )


def read_stage(folder: Path) -> StageLog:
    """One run folder's log; the stage is called like its folder."""
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        raise UserError("report", got=f"no {metrics}", expected="a run folder", do="train first, or correct the name")
    rows = tuple(_rows(metrics))
    config = folder / "config.yaml"
    closed_loop = read_closed_loop(folder)
    return StageLog(
        name=folder.name,
        rows=rows,
        mixture=tuple(_mixture(_json(folder / "mixture.json", []), rows[-1])) if rows else (),
        config=config.read_text() if config.is_file() else "",
        versions=_json(folder / "code_version.json", [{}])[-1],
        evaluation=read_evaluation(folder) if (folder / "evaluation.json").is_file() else None,
        closed_loop=closed_loop,
        films={f.file: (folder / FOLDER / f.file).read_bytes() for f in closed_loop.films} if closed_loop else {},
    )


def _json(path: Path, absent: Any) -> Any:
    return json.loads(path.read_text()) if path.is_file() else absent


def _mixture(sources: list[dict[str, Any]], last_row: dict[str, float]) -> list[MixtureShare]:
    """Requested shares as declared, realised ones from the last row."""
    return [
        MixtureShare(
            source=source["source"],
            kind=source["kind"],
            requested=source["share"],
            realised=last_row.get(f"share/{source['source']}", 0.0),
            samples=source["samples"],
        )
        for source in sources
    ]


def _rows(path: Path) -> list[dict[str, float]]:
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}, line {number}", got=repr(line[:60]), expected="one JSON object", do="remove the broken line"
            ) from error
    return rows
