"""Image-text tars: every caption with its own picture, and each bad record counted by its reason."""

from __future__ import annotations

import io
import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pi05_train.convert.source import Options
from pi05_train.convert.webdataset import open_source
from pi05_train.errors import UserError
from tests.convert.found import Found, checked, dropped, everything, samples
from tests.convert.test_tars import tar_bytes

OPTIONS = Options("toy_web", "WD", image_size=32)


def picture(number: int, kind: str = "JPEG", height: int = 20, width: int = 40) -> bytes:
    """A grey picture whose brightness is 10 times its number."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 10 * number, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def record(number: int, **facts: Any) -> list[tuple[str, bytes]]:
    """As img2dataset writes one."""
    key = f"{number:09d}"
    content = {
        "key": key,
        "url": f"https://example.org/{number}.jpg",
        "caption": f"picture {number}",
        "status": "success",
    }
    content |= facts
    return [(f"{key}.jpg", picture(number)), (f"{key}.json", json.dumps(content).encode()),
            (f"{key}.txt", str(content["caption"] or "").encode())]  # fmt: skip


def opened(path: Path, members: list[tuple[str, bytes]], **options: Any) -> Found:
    path.write_bytes(tar_bytes(members))
    source = open_source(path, Options(**vars(OPTIONS) | options))
    return checked(source)


def test_each_caption_stands_by_its_picture(tmp_path: Path) -> None:
    for tar in range(2):
        (tmp_path / f"{tar:05d}.tar").write_bytes(tar_bytes([m for i in range(4) for m in record(4 * tar + i)]))
    (tmp_path / "00000_stats.json").write_text("{}")
    source = open_source(tmp_path, OPTIONS)
    found = samples(everything(source))
    assert [sample.answer for sample in found] == [f"picture {number}" for number in range(8)]
    assert len({sample.key for sample in found}) == 8
    for number, sample in enumerate(found):
        pixels = np.asarray(Image.open(io.BytesIO(sample.images["base_0_rgb"])), float)
        assert pixels.shape == (32, 32, 3)
        assert pixels[12:20].mean() == pytest.approx(10 * number, abs=3)
        assert sample.question == "caption the image"
        assert sample.provenance["url"] == f"https://example.org/{number}.jpg"
    assert everything(pickle.loads(pickle.dumps(source))) == everything(source)


@pytest.mark.parametrize("kind", ["jpg", "jpeg", "png", "webp"])
def test_pictures_and_texts_of_other_kinds(tmp_path: Path, kind: str) -> None:
    content = picture(7, {"jpg": "JPEG", "jpeg": "JPEG"}.get(kind, kind.upper()))
    found = samples(opened(tmp_path / "a.tar", [(f"a/k.{kind}", content), ("a/k.txt", b" words \n")]))
    assert [(sample.answer, sample.provenance["member"]) for sample in found] == [("words", "a/k")]


def test_captions_and_questions_of_the_json(tmp_path: Path) -> None:
    def of(facts: dict[str, Any], **options: Any) -> list[tuple[str, str]]:
        members = [("k.jpg", picture(1)), ("k.json", json.dumps(facts).encode())]
        return [(each.question, each.answer) for each in samples(opened(tmp_path / "a.tar", members, **options))]

    ask = "caption the image"
    assert of({"caption": None, "text": "t"}) == [(ask, "t")]
    assert of({"captions": ["one", " ", "two"]}) == [(ask, "one"), (ask, "two")]
    assert of({"question": "What is it?", "answer": "a cup"}) == [("What is it?", "a cup")]
    assert of({"caption": "raw", "capsfusion": "fused"}, dataset="capsfusion") == [(ask, "fused")]
    assert of({"caption": "raw"}, dataset="capsfusion") == []


def test_bad_records_are_counted_and_move_no_other(tmp_path: Path) -> None:
    good = record(9)
    bad = [
        *record(0, status="failed_to_download"),
        ("1.txt", b"no picture"),
        ("2.jpg", picture(2)),
        ("3.jpg", picture(3)[:-30]), ("3.txt", b"cut"),
        ("4.jpg", b""), ("4.txt", b"empty"),
        ("5.jpg", picture(5)), ("5.json", b"{"),
        ("6.jpg", picture(6)), ("6.txt", b"\xff\xfe"),
        ("7.jpg", picture(7)), ("7.png", picture(7, "PNG")), ("7.txt", b"two"),
        ("8.jpg", picture(8)), ("8.txt", b"look {boxes}"),
    ]  # fmt: skip
    found = opened(tmp_path / "a.tar", bad + good)
    assert dropped(found) == Counter({
        "picture missing (its download failed)": 1, "picture missing": 1, "no caption": 1, "picture unreadable": 2,
        "json unreadable": 1, "txt is not UTF-8": 1, "several pictures under one key": 1,
        "text with a placeholder of ours": 1,
    })  # fmt: skip
    assert [(sample.episode, sample.answer) for sample in samples(found)] == [(9, "picture 9")]


def test_a_photograph_is_on_the_same_side_wherever_it_comes_from(tmp_path: Path) -> None:
    url = "http://images.cocodataset.org/train2017/{:012d}.jpg"
    members = [m for i in range(20) for m in record(i, url=url.format(i))]
    one, other = (
        {
            s.provenance["url"]: s.split
            for s in samples(opened(tmp_path / f"{name}.tar", members, name=name, heldout=0.5))
        }
        for name in ("one", "other")
    )
    assert one == other
    assert set(one.values()) == {"train", "heldout"}


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(record(1)))
    for change, words in (({"kind": "CE"}, "kind"), ({"dataset": "lmb"}, "'lbm'")):
        with pytest.raises(UserError, match=words):
            open_source(tmp_path / "a.tar", Options(**vars(OPTIONS) | change))
    (tmp_path / "b.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError, match=r"b\.tar"):
        open_source(tmp_path, OPTIONS)
    allowed = Options(**vars(OPTIONS) | {"allow_missing": True})
    assert dropped(everything(open_source(tmp_path, allowed))) == {"tar cut or damaged": 1}
