from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pi05_train.evaluation.results import read_evaluation
from pi05_train.report.study.inputs import read_study
from pi05_train.report.study.page import study_page
from pi05_train.report.study.table import study_table
from pi05_train.report.write import write_study
from tests.report.study.made_up_study import make_study
from tests.report.test_page import Reader


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("my <study>")
    make_study(folder)
    return folder


@pytest.fixture(scope="module")
def text(study: Path) -> str:
    return write_study(study, read_study(study)).read_text()


def test_the_page_is_whole_and_fetches_nothing(text: str) -> None:
    reader = read(text)
    assert len(reader.addresses) == 4, "differences, success, two losses"
    assert all(address.startswith("data:image/png") for address in reader.addresses)
    assert not re.search(r"@import|url\(|https?://|<script", text)
    assert not reader.open
    assert "my <study>" in reader.words
    assert "<b>" not in text


def test_every_number_is_on_the_page_unedited(study: Path, text: str) -> None:
    reader = read(text)
    for run in ("none", "no_web", "alpha_2"):
        evaluation = read_evaluation(study / run)
        assert {repr(row.value) for row in evaluation.heldout} <= reader.numbers
        assert {repr(row.rate) for row in evaluation.rollouts} <= reader.numbers


def test_the_same_order_is_said_and_shown(text: str) -> None:
    words = read(text).words
    assert "each of the sources that both have in the same order (7 comparisons)" in words
    assert "7 of 7" in words
    assert len(set(re.findall(r'<code class="good">(\w{8})</code>', text))) == 3, "one fingerprint per source"
    assert '<code class="bad">' not in text


def test_another_seed_is_said_and_shown(tmp_path: Path) -> None:
    make_study(tmp_path, no_web={"run.seed": 5})
    text = study_page(read_study(tmp_path))
    words = read(text).words
    assert "4 of 7 sources, counted over all pairs of runs, were drawn in other orders" in words
    assert "none and no_web, arm: seed differ" in words
    assert len(re.findall(r'<code class="bad">', text)) == 2


def test_runs_measured_after_other_numbers_of_steps_are_named(tmp_path: Path, text: str) -> None:
    said = "Not all were measured after as many steps: none after 100, alpha_2 after 100, no_web after 60."
    assert said not in read(text).words
    make_study(tmp_path)
    path = tmp_path / "no_web" / "evaluation.json"
    path.write_text(path.read_text().replace('"step": 100', '"step": 60'))
    assert said in read(study_page(read_study(tmp_path))).words


def test_a_study_that_is_not_evaluated_has_its_curves(tmp_path: Path) -> None:
    make_study(tmp_path)
    for path in tmp_path.glob("*/evaluation.json"):
        path.unlink()
    reader = read(study_page(read_study(tmp_path)))
    assert len(reader.addresses) == 2
    assert "No run was evaluated" in reader.words


def test_the_same_study_gives_the_same_page(study: Path, text: str) -> None:
    assert study_page(read_study(study)) == text


def test_the_terminal_shows_headline_numbers_and_differences(study: Path) -> None:
    console = Console(width=140, record=True, file=StringIO())
    console.print(study_table(read_study(study)))
    printed = console.export_text()
    assert re.search(r"arm +│ success in simulation ↑ +│ 0\.750 │ +0\.800 │ +0\.300", printed)
    assert re.search(r"−0\.450 \[−0\.\d+, −0\.\d+\]", printed)
