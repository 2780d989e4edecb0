from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pi05_train.data.sources.inspect import Inspected, inspect
from pi05_train.report.sample_page import sample_page
from pi05_train.samples.card import SourceCard

World = tuple[Path, dict[str, SourceCard]]


class Page(HTMLParser):
    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = io.StringIO()
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.write(data + " ")


def inspected(world: World, source: str, row: int = 0) -> Inspected:
    return inspect(world[0] / source, world[1][source], row=row)


@pytest.mark.parametrize("source", ["toy_mobile", "toy_bimanual", "toy_subtasks", "toy_web", "toy_verbal"])
def test_the_page_holds_every_picture_and_every_word_and_asks_nothing_of_the_network(
    synthetic_world: World, source: str
) -> None:
    found = inspected(synthetic_world, source)
    sample = found.sample
    content = sample_page(found)
    page = Page(content)
    pictures = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == len(sample.images) + (sample.actions is not None)
    assert all(picture.startswith("data:image/") for picture in pictures)
    assert not re.search(r"""(src|href)=["'](?!data:)""", content)
    words = page.words.getvalue()
    for said in (sample.task, sample.subtask, sample.verbal_instruction, sample.question, sample.answer, sample.key):
        assert said in words
    assert all(camera in words for camera in sample.images)


def test_boxes_are_drawn_in_the_pictures_own_pixels(synthetic_world: World) -> None:
    found = inspected(synthetic_world, "toy_subtasks")
    (box,) = found.sample.boxes
    (drawn,) = [attributes for tag, attributes in Page(sample_page(found)).tags if tag == "rect"]
    expected = {"x": 56 * box.x_min, "y": 56 * box.y_min, "width": 56 * (box.x_max - box.x_min)}
    for name, value in expected.items():
        assert float(drawn[name] or "nan") == pytest.approx(value, abs=0.051)


def test_a_sample_that_the_card_forbids_is_shown_with_the_complaint(synthetic_world: World) -> None:
    root, cards = synthetic_world
    found = inspect(root / "toy_mobile", cards["toy_arm"])
    assert "toy_arm" in found.complaint
    assert found.complaint.split(":")[0] in Page(sample_page(found)).words.getvalue()
