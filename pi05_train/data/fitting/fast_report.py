"""`report.json` in the folder of a fitted FAST tokenizer: which sources it was measured on, and what it loses there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pi05_train.config.convert import build
from pi05_train.config.schema import Config
from pi05_train.errors import UserError
from pi05_train.tokenization.manifest import resolve_tokenizer, tokenizer_fingerprint
from pi05_train.tokenization.reconstruction import Reconstruction

REPORT = "report.json"
MAX_ERROR = 0.05
"""Default limit for the RMSE of every dim, in the network's units (q01 to q99 is 2). Rounding at the paper's scale 10
moves no DCT coefficient by more, and the transform keeps lengths: a dim beyond it has numbers that saturate, or a
coarser scale. Real sources lose 0.016 to 0.029 (benchmarks/fast_reconstruction.py)."""
MAX_UNDECODABLE = 0.01
"""Limit for the share of a source's chunks that do not decode."""


def check_positive(what: str, value: float) -> None:
    """Refuse a limit or a scale that is none."""
    if not (math.isfinite(value) and value > 0):
        raise UserError(what, got=value, expected="a number above 0", do="correct it")


@dataclass(frozen=True)
class Measured:
    """One source under one tokenizer."""

    rows: str
    """How many chunks of which split."""
    normalisation: str
    horizon: int
    dims: int
    """That FAST saw: the model's, or the source's own with `tokenizer.fast_native_dims`."""
    max_error: float
    """The limit that every dim's RMSE was held to."""
    result: Reconstruction

    @property
    def complaint(self) -> str:
        """What is over a limit, as the end of a sentence; "" if nothing is."""
        result = self.result
        if result.undecodable > MAX_UNDECODABLE * result.chunks:
            return f"{result.undecodable} of {result.chunks} chunks that do not decode"
        if result.worst_rmse is not None and result.worst_rmse > self.max_error:
            return f"an RMSE of {result.worst_rmse:.3g} in dimension {result.worst_dim}"
        return ""


@dataclass(frozen=True)
class FastReport:
    """What `report.json` holds."""

    tokenizer: str
    """Fingerprint of the tokenizer that was measured."""
    sources: dict[str, Measured]


def refuse_complaints(what: str, sources: dict[str, Measured], *, do: str) -> None:
    """Raise UserError if any source is over a limit."""
    complaints = {name: measured for name, measured in sources.items() if measured.complaint}
    if complaints:
        limit = min(measured.max_error for measured in complaints.values())
        raise UserError(
            what,
            got="; ".join(f"{measured.complaint} of {name}" for name, measured in complaints.items()),
            expected=f"at most {limit:g} (q01 to q99 is 2), and at most {MAX_UNDECODABLE:.0%} undecodable",
            do=do,
        )


def write_report(folder: Path, sources: dict[str, Measured]) -> None:
    """Write `report.json` about the tokenizer in `folder`."""
    content = FastReport(tokenizer_fingerprint(folder, "fast"), sources)
    temporary = folder / f"{REPORT}.part"
    temporary.write_text(json.dumps(asdict(content), indent=1) + "\n")
    temporary.replace(folder / REPORT)


def read_report(folder: Path) -> dict[str, Measured] | None:
    """Sources by name, none if the report is about another tokenizer; None in a folder without a report."""
    path = folder / REPORT
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}", got=error, expected="valid JSON", do="fit the tokenizer again") from error
    found = build(FastReport, content, str(path))
    return found.sources if found.tokenizer == tokenizer_fingerprint(folder, "fast") else {}


def require_measured(config: Config, sources: Iterable[str]) -> None:
    """Refuse a run whose FAST tokenizer was fitted here but not measured, or over a limit, on one of these sources.

    Published tokenizers have no report and are taken at their word.
    """
    folder = resolve_tokenizer(config.tokenizer.fast)
    report = read_report(folder)
    if report is None:
        return
    asked = (config.data.normalisation, config.model.action_horizon)
    for name in sources:
        measured = report.get(name)
        if measured is None or (measured.normalisation, measured.horizon) != asked:
            found = "nothing" if measured is None else f"{measured.horizon}-step {measured.normalisation} chunks"
            raise UserError(
                f"tokenizer.fast={config.tokenizer.fast}, what it was measured on of source {name}",
                got=found,
                expected=f"{asked[1]}-step {asked[0]} chunks in its {REPORT}",
                do="run `pi05 tokenizer check` with the same overrides, which adds them",
            )
        refuse_complaints(
            f"tokenizer.fast={config.tokenizer.fast}", {name: measured}, do="fit one that includes the source"
        )
