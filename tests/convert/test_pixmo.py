"""PixMo: pictures behind dead links are counted, and points stay on what they point at."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from pi05_train.convert import pixmo
from pi05_train.convert.source import Options
from pi05_train.errors import UserError
from pi05_train.samples.shards import check_sample, parse_sample, sample_members
from tests.convert.found import Found, dropped, everything, samples
from tests.convert.web_pictures import red_box_picture

OPTIONS = Options("toy_pixmo", "WD", image_size=64)
WIDE = red_box_picture(50, 100, (60, 10, 20, 30))
"""The red cup's middle is at x 70, y 25."""


def link(number: int) -> str:
    return f"https://pictures/{number}.jpg"


def sha256(content: bytes | str) -> str:
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()


def table(path: Path, rows: list[dict[str, Any]], **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **settings)


def pictures(folder: Path, *numbers: int) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / "images" / sha256(link(number))).write_bytes(WIDE)


def cup(number: int = 0, **change: Any) -> dict[str, Any]:
    """A row of PixMo-Points, positions in per cent."""
    row = {"image_url": link(number), "image_sha256": sha256(WIDE), "points": [{"x": 70.0, "y": 50.0}], "count": 1}
    return row | {"label": "red cups", "collection_method": "pointing"} | change


def converted(path: Path, options: Options = OPTIONS) -> Found:
    return everything(pixmo.open_source(path, options))


def loc(y: float, x: float) -> str:
    return f"<loc{round(y * 1023):04d}><loc{round(x * 1023):04d}>"


def test_the_golden_point_is_written_row_first_on_the_stored_square(tmp_path: Path) -> None:
    pictures(tmp_path, 0)
    table(tmp_path / "points.parquet", [cup()])
    pointing, counting = samples(converted(tmp_path))
    # y 25 of 50 pixels is the middle; the picture fills the middle half of the square.
    assert (pointing.question, pointing.answer) == ("Point to the red cups.", loc(0.5, 0.7))
    assert (counting.question, counting.answer) == ("How many red cups are in the image?", "1")
    table(tmp_path / "points.parquet", [cup(points=[{"x": 70.0, "y": 20.0}])])
    assert samples(converted(tmp_path))[0].answer == loc(0.25 + 0.5 * 0.2, 0.7)


def test_pixmo_count_gives_pixels(tmp_path: Path) -> None:
    pictures(tmp_path, 0)
    row = {"image_url": link(0), "points": {"x": [70.0, 10.0], "y": [25.0, 10.0]}, "count": 2, "label": "cups"}
    table(tmp_path / "count.parquet", [row])
    answer = samples(converted(tmp_path))[0].answer
    assert answer == f"{loc(0.25 + 0.5 * 0.2, 0.1)}\n{loc(0.5, 0.7)}"


def test_captions_and_points_of_several_files_fit_card_and_shards(tmp_path: Path) -> None:
    pictures(tmp_path, 0, 1, 2)
    captions = [{"image_url": link(i), "caption": f"A long text {i}.", "transcripts": ["well"]} for i in range(3)]
    table(tmp_path / "data" / "cap-0.parquet", captions, row_group_size=2)
    table(tmp_path / "data" / "points-0.parquet", [cup(1), cup(2)])
    source = pixmo.open_source(tmp_path, OPTIONS)
    found = samples(everything(source))
    assert [s.key for s in found] == [
        "00000000_000000", "00000001_000000", "00000002_000000",
        "00000003_000000", "00000003_000001", "00000004_000000", "00000004_000001",
    ]  # fmt: skip
    assert found[1].answer == "A long text 1."
    assert found[2].provenance == {"url": link(2), "row": "cap-0.parquet 0"} | found[2].provenance
    for sample in found:
        check_sample(sample, source.card)
        assert parse_sample(sample_members(sample)) == sample
    assert everything(pickle.loads(pickle.dumps(source))) == found
    only = converted(tmp_path, Options("toy_pixmo", "WD", image_size=64, dataset="counts"))
    assert [s.question for s in samples(only)] == ["How many red cups are in the image?"] * 2


def test_a_picture_is_on_the_same_side_for_captions_and_points(tmp_path: Path) -> None:
    pictures(tmp_path, *range(40))
    table(tmp_path / "cap.parquet", [{"image_url": link(i), "caption": "A text."} for i in range(40)])
    table(tmp_path / "points.parquet", [cup(i) for i in range(40)])
    found = samples(converted(tmp_path, Options("toy_pixmo", "WD", image_size=64, heldout=0.3)))
    sides = {(s.provenance["url"], s.split) for s in found}
    assert len(sides) == 40
    assert 4 < sum(split == "heldout" for _, split in sides) < 24


def test_pictures_are_found_by_content_or_link_and_checked(tmp_path: Path) -> None:
    pictures(tmp_path, 0)
    (tmp_path / "images" / sha256(link(0))).rename(tmp_path / "images" / f"{sha256(WIDE)}.jpg")
    table(tmp_path / "points.parquet", [cup(0), cup(1, image_sha256=sha256("gone")), cup(2, image_sha256=None)])
    (tmp_path / "images" / sha256(link(2))).write_bytes(WIDE)
    found = converted(tmp_path)
    assert len(samples(found)) == 4
    assert dropped(found) == {"picture missing (dead link)": 2}
    (tmp_path / "images" / sha256(link(1))).write_bytes(b"<html>404</html>")
    assert dropped(converted(tmp_path)) == {"picture changed since it was annotated": 2}
    (tmp_path / "images" / sha256(link(2))).write_bytes(WIDE[:80])
    assert dropped(converted(tmp_path))["picture unreadable"] == 2


LOSSES: dict[str, tuple[dict[str, Any], int]] = {
    "no link to a picture": ({"image_url": None, "image_sha256": None}, 2),
    "malformed points": ({"points": [{"x": None, "y": 5.0}]}, 2),
    "count and points differ": ({"count": 2}, 2),
    "no label": ({"label": " "}, 2),
    "more than 100 points": ({"points": [{"x": float(i % 90), "y": 5.0} for i in range(101)], "count": 101}, 1),
}


@pytest.mark.parametrize(("reason", "change"), LOSSES.items(), ids=LOSSES)
def test_losses_are_counted(reason: str, change: tuple[dict[str, Any], int], tmp_path: Path) -> None:
    pictures(tmp_path, 0)
    table(tmp_path / "points.parquet", [cup(), cup(**change[0])])
    found = converted(tmp_path)
    assert dropped(found) == {reason: change[1]}
    assert len(samples(found)) == 4 - change[1]


def test_nothing_there_is_an_answer_and_a_near_miss_lies_on_the_edge(tmp_path: Path) -> None:
    pictures(tmp_path, 0)
    table(tmp_path / "points.parquet", [cup(points=[], count=0), cup(points=[{"x": 100.4, "y": -0.3}])])
    answers = [s.answer for s in samples(converted(tmp_path))]
    assert answers == ["There are none.", "0", loc(0.25, 1.0), "1"]


def test_long_row_groups_are_several_units_with_the_same_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path, 0)
    table(tmp_path / "cap.parquet", [{"image_url": link(0), "caption": f"{i}"} for i in range(7)], row_group_size=5)
    whole = converted(tmp_path)
    monkeypatch.setattr(pixmo, "ROWS_PER_UNIT", 2)
    source = pixmo.open_source(tmp_path, OPTIONS)
    assert [block.rows for block in source.blocks] == [2, 2, 1, 2]
    assert everything(source) == whole
    np.testing.assert_array_equal([s.episode for s in samples(whole)], range(7))


def test_what_is_no_pixmo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \*\.parquet"):
        converted(tmp_path)
    file = tmp_path / "cap.parquet"
    table(file, [{"image_url": link(0), "caption": "a"}])
    with pytest.raises(UserError, match="no pictures in images or pixmo_images"):
        converted(tmp_path)
    pictures(tmp_path, 0)
    with pytest.raises(UserError, match="no rows, expected rows for points"):
        converted(tmp_path, Options("toy_pixmo", "WD", dataset="points"))
