"""Run folders to `report.html`, one self-contained page."""

from __future__ import annotations

from pathlib import Path

from pi05_train.report import html
from pi05_train.report.inputs import ReportInputs, read_inputs
from pi05_train.report.sections import SECTIONS
from pi05_train.report.study.inputs import Study
from pi05_train.report.study.page import study_page


def page(inputs: ReportInputs) -> str:
    """The whole page as HTML: pictures and style are inside, nothing is fetched."""
    parts = [section(inputs) for section in SECTIONS]
    return html.document(inputs.title, html.join(part for part in parts if part is not None))


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder or a folder of stages; returns its path."""
    return _write(run, page(read_inputs(run)))


def write_study(folder: Path, study: Study) -> Path:
    """Write `report.html` into a study folder; returns its path."""
    return _write(folder, study_page(study))


def _write(folder: Path, text: str) -> Path:
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path
