"""The card of a source: what a person declares about one dataset before it may enter a mixture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from pi05_train.errors import UserError
from pi05_train.samples.schema import ACTION_KINDS, CAMERAS, KINDS

TIERS = ("train", "master")
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "str": str, "int": int, "float": (int, float), "list[str]": list, "list[bool]": list,
    "int | None": (int, type(None)), "float | None": (int, float, type(None)),
}  # fmt: skip
"""How a card's fields are annotated, and what YAML makes of them."""


@dataclass(frozen=True)
class SourceCard:
    """One declared dataset; a YAML file in `data_mixtures/source/`."""

    name: str
    kind: str
    """MM, ME, CE, HL, WD or VI."""
    shards: str
    """Folder with `*.tar` shards, their index and `norm_stats.json`; relative paths start at `data.root`."""
    description: str = ""
    cameras: list[str] = field(default_factory=list)
    embodiment: str = ""
    control_mode: str = ""
    """"joint" or "end effector"; "" for sources without actions."""
    rate_hz: float = 0.0
    state_dim: int = 0
    action_dim: int = 0
    delta_mask: list[bool] = field(default_factory=list)
    """Leading action dimensions that are trained relative to the chunk's first state (True) or absolute (False)."""
    robot: str = ""
    """The robot's card: a name in `data_mixtures/robot/`, or the path of a card file; "": none is written."""
    licence: str = ""
    origin: str = ""
    """Where the data comes from: a URL, or the command that makes it."""
    tier: str = "train"
    """"train": samples. "master": whole episodes, for archive and re-conversion; nothing can train on them."""
    version: str = ""
    """Of the data set as it is published."""
    samples: int | None = None
    """Rows, held-out ones included, that the conversion is expected to give; None: unknown. A mixture is planned with
    them while the shards are not there."""
    download_gb: float | None = None
    """What is to be fetched first, in 10^9 bytes; 0: the download of another card; None: unknown."""
    convert: list[str] = field(default_factory=list)
    """The commands, in order, that make the shards: $DOWNLOADS is where the downloads are, $DATA the `data.root`."""

    @property
    def has_actions(self) -> bool:
        return self.kind in ACTION_KINDS


def load_card(path: Path) -> SourceCard:
    """The card in a YAML file, only its fields' types checked; refuses (UserError) a file that is none."""
    try:
        card = SourceCard(**yaml.safe_load(path.read_text()))
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"source card {path}", got=" ".join(str(error).split()), expected="a card", do="correct it"
        ) from error
    for field_ in fields(card):
        value, kind = getattr(card, field_.name), _TYPES[str(field_.type)]
        if not isinstance(value, kind):
            raise UserError(f"source card {path}, {field_.name}", got=value, expected=field_.type, do="correct it")
    return card


def check_card(card: SourceCard) -> None:
    """Refuse a card that cannot describe a source of samples."""
    where = f"source card {card.name}"
    if card.tier != "train":
        raise UserError(
            f"{where}, tier",
            got=repr(card.tier) + " (whole episodes)" * (card.tier == "master"),
            expected="'train'",
            do="make samples of them with `pi05 data convert master` and use the card that it writes",
        )
    if card.kind not in KINDS:
        raise UserError(f"{where}, kind", got=repr(card.kind), expected="one of " + ", ".join(KINDS), do="correct it")
    unknown = [camera for camera in card.cameras if camera not in CAMERAS]
    if unknown:
        raise UserError(f"{where}, cameras", got=unknown, expected=f"names among {list(CAMERAS)}", do="rename them")
    if not card.cameras:
        raise UserError(f"{where}, cameras", got="an empty list", expected="at least one camera", do="name the cameras")
    if card.has_actions and (card.action_dim < 1 or card.state_dim < 1 or card.rate_hz <= 0):
        raise UserError(
            f"{where}, state_dim, action_dim, rate_hz",
            got=(card.state_dim, card.action_dim, card.rate_hz),
            expected=f"positive numbers for kind {card.kind}",
            do="fill them in",
        )
    if card.has_actions and card.control_mode not in ("joint", "end effector"):
        raise UserError(
            f"{where}, control_mode", got=repr(card.control_mode), expected="'joint' or 'end effector'", do="correct it"
        )
    if len(card.delta_mask) > min(card.action_dim, card.state_dim):
        raise UserError(
            f"{where}, delta_mask",
            got=f"{len(card.delta_mask)} entries",
            expected=f"at most min(state_dim, action_dim) = {min(card.action_dim, card.state_dim)}",
            do="shorten it",
        )
    _check_download(card, where)


def _check_download(card: SourceCard, where: str) -> None:
    declared = 1 if card.samples is None else card.samples
    if declared < 1 or not 0 <= (card.download_gb or 0) < math.inf:
        raise UserError(
            f"{where}, samples and download_gb",
            got=(card.samples, card.download_gb),
            expected="at least 1 row and 0 GB or more, or null where that is unknown",
            do="correct them",
        )
    if strange := [command for command in card.convert if not command.startswith("pi05 data ")]:
        raise UserError(f"{where}, convert", got=repr(strange[0]), expected="commands `pi05 data ...`", do="correct it")
