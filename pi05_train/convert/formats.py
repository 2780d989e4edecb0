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
    "master": "whole episodes that --tier master wrote, into samples",
    "annotations": "subtasks, boxes and verbal instructions (--dataset FILE.json) joined to converted shards",
}

OF_EPISODES = ("lerobot", "rlds", "hdf5")
"""Formats whose data are whole robot episodes: only of those there is a tier master."""


def opener(name: str, tier: str = "train") -> OpenSource:
    """The format's `open_source`; refuses (UserError) an unknown name, and tier master where there are no episodes."""
    if name not in FORMATS:
        raise UserError("format", got=repr(name), expected="one of " + ", ".join(FORMATS), do="correct it")
    if tier == "master" and name not in OF_EPISODES:
        raise UserError(
            f"format {name}, tier", got=repr(tier), expected="'train'", do=f"master is for {', '.join(OF_EPISODES)}"
        )
    open_source: OpenSource = import_module(f"pi05_train.convert.{name}").open_source
    return open_source
