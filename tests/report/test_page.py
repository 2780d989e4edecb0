from __future__ import annotations

import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from pi05_train.errors import UserError
from pi05_train.evaluation.results import read_evaluation
from pi05_train.report.inputs import ReportInputs, StageLog, read_inputs
from pi05_train.report.table import results_table
from pi05_train.report.write import page, write_report
from tests.report.made_up_run import REALISED, REQUESTED, make_run

VOID = {"meta", "img", "br", "rect"}


class Reader(HTMLParser):
    """Collects addresses, exact numbers and words, and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.numbers: set[str] = set()
        self.tags: set[str] = set()
        self.words = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "poster", "srcset"):
                self.addresses.append(value or "")
            if tag == "data" and name == "value":
                self.numbers.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_run(folder)
    return folder


@pytest.fixture(scope="module")
def source(run: Path) -> str:
    return write_report(run).read_text()


@pytest.fixture(scope="module")
def read(source: str) -> Reader:
    reader = Reader()
    reader.feed(source)
    return reader


def test_the_page_fetches_nothing(source: str, read: Reader) -> None:
    assert read.addresses
    assert all(address.startswith("data:image/") for address in read.addresses)
    assert not re.search(r"@import|url\(|https?://", source)
    assert not read.tags & {"script", "link", "iframe", "object"}


def test_every_number_of_the_evaluation_is_on_the_page_unedited(run: Path, read: Reader) -> None:
    for stage in ("pretrain", "posttrain"):
        table = json.loads((run / stage / "evaluation.json").read_text())
        for row in table["heldout"]:
            wanted = {repr(row[name]) for name in ("value", "untrained", "constant", "n") if row[name] is not None}
            assert wanted <= read.numbers, row
        for row in table["rollouts"]:
            assert {repr(row[name]) for name in ("successes", "episodes", "mean_steps")} <= read.numbers, row


def test_requested_shares_stand_beside_realised_ones(run: Path, read: Reader) -> None:
    (mixture,) = {stage.mixture for stage in read_inputs(run).stages}
    assert {share.source: share.requested for share in mixture} == REQUESTED
    assert {share.source: share.realised for share in mixture} == REALISED
    assert {repr(number) for share in mixture for number in (share.requested, share.realised)} <= read.numbers


def test_text_from_outside_is_escaped(source: str, read: Reader) -> None:
    for words in ("Demo <run> & friends", "put the <cup> & plate away", "door <b>", "name: <demo> & more"):
        assert words in read.words
        assert words not in source
    assert not read.open


def test_captions_settings_and_notes_are_there(read: Reader) -> None:
    for words in (
        "fetch_mobile, held-out sample 00000012_000030",
        "<loc0210><loc0120><loc0520><loc0430>cup",
        "The network is about a thousand times smaller than the published one.",
        "the intervals are wide",
        "Configuration of pretrain",
        "1a2b3c4",
        "9 min 29 s in all",
    ):
        assert words in read.words


def test_every_picture_can_be_opened(read: Reader) -> None:
    for address in read.addresses:
        head, _, content = address.partition(",")
        picture = Image.open(BytesIO(b64decode(content)))
        picture.load()
        assert picture.format is not None
        assert head == f"data:image/{picture.format.lower()};base64"


def test_a_run_without_evaluation_has_a_page_with_its_losses(run: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text((run / "pretrain" / "metrics.jsonl").read_text())
    text = write_report(tmp_path).read_text()
    assert "Training loss" in text
    assert "Held-out results" not in text


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    inputs = read_inputs(run)
    assert page(inputs) == page(inputs)


def test_a_run_with_nothing_logged_yet_has_a_page() -> None:
    assert "Training loss" not in page(ReportInputs("empty", (StageLog("pretrain", ()),)))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a run folder"):
        write_report(tmp_path)


def test_a_broken_metrics_line_is_refused_with_its_number(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    with pytest.raises(UserError, match="line 2"):
        read_inputs(tmp_path)


def test_the_terminal_table_shows_values_beside_their_baselines(run: Path) -> None:
    evaluation = read_evaluation(run / "posttrain")
    console = Console(width=140, record=True, file=StringIO())
    console.print(results_table(evaluation))
    text = console.export_text()
    assert "0.00120" in text
    assert "0.400" in text
    assert re.search(r"Fetch .*70\.0.*5\.00", text)
