"""Pictures with text and tars of every format, and what may be wrong with each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.convert import test_coco, test_conversations, test_lbm, test_pixmo, test_vqa
from tests.convert.bad_format import Damage, Format, edit_json
from tests.convert.lerobot_folders import cut, rewrite
from tests.convert.test_tars import tar_bytes
from tests.convert.test_webdataset import record

CAPTIONS, INSTANCES = "annotations/captions_train2017.json", "annotations/instances_train2017.json"


COCO = Format(
    "coco", "WD", test_coco.coco_folder,
    {
        "cut": (lambda r: cut(r / CAPTIONS), r"captions_train2017\.json: got .*expected a whole JSON file"),
        "cut picture": (
            lambda r: cut(r / "train2017/000000000008.png", 0.5),
            {"picture unreadable": 3},
        ),
        "foreign": (lambda r: edit_json(r / CAPTIONS, lambda _: {"data": []}), "got no list 'annotations'"),
        "types": (
            lambda r: edit_json(r / INSTANCES, lambda c: c["annotations"][0].update(category_id=[90])),
            {"box without a label": 1, "no object in the picture": 2},
        ),
        "dimensions": (
            lambda r: edit_json(r / INSTANCES, lambda c: c["annotations"][0].update(bbox=[1, 2, 3])),
            {"no box": 1, "no object in the picture": 2},
        ),
        "NaN": (
            lambda r: edit_json(r / INSTANCES, lambda c: c["annotations"][0].update(bbox=[60, 10, float("nan"), 30])),
            {"no box": 1, "no object in the picture": 2},
        ),
        "empty": (
            lambda r: [edit_json(r / name, lambda c: c.update(images=[], annotations=[])) for name in
                       (CAPTIONS, INSTANCES)],
            "got no annotations",
        ),
    },
)  # fmt: skip


QUESTIONS = "v2_OpenEnded_mscoco_train2014_questions.json"


VQA = Format(
    "vqa", "WD", lambda folder: test_vqa.vqav2_folder(folder, ["red"]),
    {
        "cut": (lambda r: cut(r / QUESTIONS), r"questions\.json: got .*expected a whole JSON file"),
        "cut picture": (
            lambda r: cut(r / "train2014/COCO_train2014_000000000002.jpg", 0.5), {"picture unreadable": 2},
        ),
        "foreign": (lambda r: edit_json(r / QUESTIONS, lambda _: {"data": 1}), "got no list 'questions'"),
        "types": (
            lambda r: edit_json(r / QUESTIONS, lambda c: c["questions"][0].update(question=5)), "got int as 'question'",
        ),
        "empty": (lambda r: edit_json(r / QUESTIONS, lambda c: c.update(questions=[])), "got no answered questions"),
    },
)  # fmt: skip


def pixmo(folder: Path) -> Path:
    test_pixmo.pictures(folder, 0)
    test_pixmo.table(folder / "points.parquet", [test_pixmo.cup(), test_pixmo.cup()], row_group_size=1)
    return folder


def pixmo_row(**changes: Any) -> Damage:
    """The second row with these changes."""
    rows = [test_pixmo.cup(), test_pixmo.cup(**changes)]
    return lambda folder: test_pixmo.table(folder / "points.parquet", rows, row_group_size=1)


PIXMO = Format(
    "pixmo", "WD", pixmo,
    {
        "cut": (lambda r: cut(r / "points.parquet"), r"points\.parquet: got .*expected a whole parquet file"),
        "foreign": (
            lambda r: test_pixmo.table(r / "points.parquet", [{"url": "a", "text": "b"}]),
            "expected image_url with caption or points",
        ),
        "types": (
            lambda r: test_pixmo.table(r / "points.parquet", [test_pixmo.cup(points=7)]),
            r"no usable sample: malformed points \(2\)",
        ),
        "dimensions": (pixmo_row(points=[{"x": 70.0, "y": 102.0}]), {"point outside the picture": 1}),
        "NaN": (pixmo_row(points=[{"x": float("nan"), "y": 5.0}]), {"malformed points": 2}),
        "Inf": (pixmo_row(points=[{"x": float("inf"), "y": 5.0}]), {"malformed points": 2}),
        "empty": (
            lambda r: rewrite(r / "points.parquet", lambda table: table[:0]), "got no rows, expected rows for cap",
        ),
    },
)  # fmt: skip


CONVERSATIONS = Format(
    "conversations", "WD", test_conversations.llava_folder,
    {
        "cut": (lambda r: cut(r / "talks.json"), r"talks\.json: got .*expected a whole JSON file"),
        "cut picture": (lambda r: cut(r / "images/gqa/b.png", 0.5), {"picture unreadable": 1}),
        "foreign": (lambda r: edit_json(r / "talks.json", lambda _: {"data": 1}), "got no conversations"),
        "types": (
            lambda r: edit_json(r / "talks.json", lambda c: c[1].update(conversations=5)), {"no turns": 1},
        ),
        "empty": (lambda r: edit_json(r / "talks.json", lambda _: []), "got no conversations"),
    },
)  # fmt: skip


def image_text(folder: Path) -> Path:
    folder.mkdir()
    for number, name in enumerate("ab"):
        members = [member for each in range(3) for member in record(3 * number + each)]
        (folder / f"{name}.tar").write_bytes(tar_bytes(members))
    return folder


def robot_tars(folder: Path) -> Path:
    folder.mkdir()
    for number, name in enumerate("ab"):
        test_lbm.write(folder / f"{name}.tar", [test_lbm.record(3 * number + each) for each in range(3)])
    return folder


def robot_record(**arrays: Any) -> Damage:
    """The second tar begins with a record whose arrays have these changes."""
    bad = test_lbm.record(9)
    bad["arrays"] |= {name.replace("__left", "__poses__left::panda__xyz"): value for name, value in arrays.items()}
    return lambda folder: test_lbm.write(folder / "b.tar", [bad, test_lbm.record(3)])


CUT_TAR = "expected a whole tar; fetch it again"


TARS = {
    "webdataset": Format(
        "webdataset", "WD", image_text,
        {
            "cut": (lambda r: cut(r / "b.tar", 0.5), {"tar cut or damaged": 1}),
            "no bytes": (lambda r: (r / "b.tar").write_bytes(b""), CUT_TAR),
            "foreign": (
                lambda r: [test_lbm.write(r / name, [test_lbm.record(1)]) for name in ("a.tar", "b.tar")],
                r"no usable sample: no caption \(2\)",
            ),
            "empty": (
                lambda r: [(r / name).write_bytes(tar_bytes([])) for name in ("a.tar", "b.tar")],
                "no usable sample: it is empty",
            ),
        },
    ),
    "webdataset lbm": Format(
        "webdataset", "CE", robot_tars,
        {
            "cut": (lambda r: cut(r / "b.tar", 0.5), {"tar cut or damaged": 1}),
            "no bytes": (lambda r: (r / "b.tar").write_bytes(b""), CUT_TAR),
            "foreign": (
                lambda r: [(r / name).write_bytes(tar_bytes(record(1))) for name in ("a.tar", "b.tar")],
                "expected records as vla_foundry writes them",
            ),
            "dimensions": (
                robot_record(robot__actual__left=np.zeros((test_lbm.STEPS, 4))), {"dimensions differ from the card": 1},
            ),
            "NaN": (robot_record(robot__action__left=np.full((test_lbm.STEPS, 3), np.nan)), {"NaN in actions": 1}),
            "Inf": (robot_record(robot__actual__left=np.full((test_lbm.STEPS, 3), np.inf)), {"NaN in states": 1}),
            "empty": (
                lambda r: [(r / name).write_bytes(tar_bytes([])) for name in ("a.tar", "b.tar")],
                "got no record, expected records as vla_foundry",
            ),
        },
        dataset="lbm",
    ),
}  # fmt: skip
