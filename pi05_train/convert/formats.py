"""The formats by name. A format is the module of this room that bears its name and has an `open_source`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pi05_train.errors import UserError

if TYPE_CHECKING:  # the command line lists the formats without importing numpy
    from pi05_train.convert.source import OpenSource

FORMATS = {
    "lerobot": "LeRobot data sets v2.0, v2.1 and v3.0 (parquet with mp4 or pictures)",
    "rlds": "RLDS / TFDS TFRecords of Open X-Embodiment and DROID; --dataset names the key map",
    "hdf5": "robomimic and LIBERO demonstrations",
    "coco": "COCO captions and detection",
    "vqa": "VQAv2 questions and answers, easy-VQA",
    "pixmo": "PixMo captions and points",
    "conversations": "LLaVA-style conversations (json)",
    "webdataset": "image-text tars; --dataset lbm for robot tars",
    "annotations": "subtasks, boxes and verbal instructions (--dataset FILE.json) joined to converted shards",
}


def opener(name: str) -> OpenSource:
    """The format's `open_source`; refuses (UserError) an unknown name."""
    if name not in FORMATS:
        raise UserError("format", got=repr(name), expected="one of " + ", ".join(FORMATS), do="correct it")
    open_source: OpenSource = import_module(f"pi05_train.convert.{name}").open_source
    return open_source
