"""One self-contained training record, the same for every kind of source, in physical units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["MM", "ME", "CE", "HL", "WD", "VI"]
Split = Literal["train", "heldout"]

KINDS: dict[str, str] = {
    "MM": "mobile manipulators",
    "ME": "other robots in many environments",
    "CE": "cross-embodiment laboratory data",
    "HL": "high-level subtasks with boxes",
    "WD": "web data",
    "VI": "verbal instructions",
}
ACTION_KINDS = ("MM", "ME", "CE")
"""Kinds whose samples carry an action chunk ("low-level" samples)."""

CAMERAS = ("base_0_rgb", "base_1_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""Camera names in the order their tokens stand in the prefix (openpi's names; base_1 is the rear camera)."""

BOXES_FIELD = "{boxes}"
"""In a web sample's question or answer: its boxes, written once the picture's resizing and augmentation are known."""


@dataclass(frozen=True)
class Box:
    """A labelled box on one camera's image; coordinates are fractions of the image's height and width."""

    label: str
    y_min: float
    x_min: float
    y_max: float
    x_max: float
    camera: str = CAMERAS[0]


@dataclass(frozen=True)
class Sample:
    """One anchor frame of an episode, or one picture with text. Nothing is normalised or tokenised.

    `key` is unique in its source: "{episode:08d}_{frame:06d}". Absent text is "", absent numbers are None.
    """

    key: str
    source: str
    kind: Kind
    images: dict[str, bytes]
    """Camera name (one of `CAMERAS`) to the JPEG file's bytes, in `CAMERAS` order."""
    task: str = ""
    """The command: low-level instruction for MM/ME/CE, high-level command for HL and VI."""
    subtask: str = ""
    """HL: what to do next. VI: the human's relabelled subtask. MM/ME/CE: the subtask being executed, if annotated."""
    boxes: tuple[Box, ...] = ()
    verbal_instruction: str = ""
    """VI: what the person said."""
    question: str = ""
    answer: str = ""
    state: NDArray[np.float32] | None = None
    """[state_dim], physical units (metres, radians; see the source's card)."""
    actions: NDArray[np.float32] | None = None
    """[H_max, action_dim], physical units, as commanded; steps past the episode's end repeat the last action."""
    action_valid: NDArray[np.bool_] | None = None
    """[H_max], False past the episode's end."""
    embodiment: str = ""
    control_mode: str = ""
    """"joint", "end effector" or ""."""
    rate_hz: float = 0.0
    """Control steps per second: the spacing of `actions`."""
    environment_id: str = ""
    episode: int = 0
    frame: int = 0
    split: Split = "train"
    success: bool = True
    provenance: dict[str, str] = field(default_factory=dict)
    """How the record came to be (simulator, seed, file, resize policy); free text, never used in training."""
