"""Boxes survive the trip through text."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.tokenization.boxes import TextBox, box_text, coordinate_bin, parse_boxes

fractions = st.floats(0, 1)
labels = st.text(st.characters(exclude_characters="<\n", exclude_categories=["C", "Z"]), min_size=1, max_size=12)
boxes = st.builds(TextBox, labels, fractions, fractions, fractions, fractions)


@given(st.lists(boxes, max_size=5))
@settings(max_examples=60, deadline=None)
def test_boxes_come_back_within_half_a_bin(written: list[TextBox]) -> None:
    read = parse_boxes("Bounding boxes:\n" + "\n".join(map(box_text, written)) + "\nSubtask: go")
    assert [box.label for box in read] == [box.label for box in written]
    for before, after in zip(written, read, strict=True):
        for side in ("y_min", "x_min", "y_max", "x_max"):
            assert abs(getattr(before, side) - getattr(after, side)) <= 0.5 / 1023 + 1e-12
        assert box_text(after) == box_text(before)


def test_the_papers_box() -> None:
    (box,) = parse_boxes("<loc0405><loc0011><loc0911><loc0197>closet")
    assert (box.label, coordinate_bin(box.y_min), coordinate_bin(box.x_max)) == ("closet", 405, 197)


def test_positions_outside_the_picture_are_clipped() -> None:
    assert box_text(TextBox("a", -0.2, 0.0, 1.0, 7.5)) == "<loc0000><loc0000><loc1023><loc1023>a"


def test_fragments_are_no_boxes() -> None:
    assert parse_boxes("<loc0001><loc0002><loc0003>cup <loc1024><loc0000><loc0000><loc0000>cup") == []
