"""Which format lies at a path or address: told by its files and its tensors' names, never by words of the path."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

from pi05_train.checkpoint.storage.npz import NpzSource
from pi05_train.checkpoint.storage.orbax import MANIFEST, ROOT, OrbaxSource
from pi05_train.checkpoint.storage.own import MODEL, WEIGHTS, Kind, RunSource, WeightsFolder
from pi05_train.checkpoint.storage.place import is_url, local_path
from pi05_train.checkpoint.storage.safetensors_files import INDEX, SINGLE, SafetensorsSource
from pi05_train.checkpoint.storage.source import TensorSource
from pi05_train.errors import UserError

CONFIG = "config.json"
LEROBOT_TYPES = ("pi0", "pi05", "pi0_fast")
SHOWN = 6
"""Names that a refusal lists."""


class Format(Enum):
    """What a checkpoint may be; the value is its name for a person."""

    OPENPI_ORBAX = "openpi orbax"
    OPENPI_TORCH = "openpi-PyTorch"
    LEROBOT = "LeRobot"
    PALIGEMMA_NPZ = "PaliGemma npz"
    PALIGEMMA_SAFETENSORS = "PaliGemma safetensors"
    RUN = "pi05 run checkpoint"
    WEIGHTS = "pi05 weights"


def identify(where: str) -> Format:
    """The format of a folder, file or address; whether it is whole is found on opening."""
    if is_url(where):
        return Format.OPENPI_ORBAX  # nothing else is read from an address, and opening says so
    path = local_path(where)
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_file(path)
    raise UserError(
        "checkpoint", got=f"{where}, which is not there", expected="a folder, file or address", do="check the path"
    )


def open_source(where: str, *, kind: Kind | None = None) -> tuple[Format, TensorSource]:
    """The format and the tensors under their stored names; `kind` chooses between a run's averaged and raw weights."""
    found, path = identify(where), local_path(where)
    if found is Format.OPENPI_ORBAX:
        return found, OrbaxSource(where)
    if found is Format.RUN:
        return found, RunSource(path, kind)
    if found is Format.WEIGHTS:
        return found, WeightsFolder.open(path).source
    if found is Format.PALIGEMMA_NPZ:
        return found, NpzSource(path)
    return found, SafetensorsSource(path)


def _of_folder(path: Path) -> Format:
    has = {entry.name for entry in path.iterdir()}
    if {MODEL, WEIGHTS} <= has:
        return Format.WEIGHTS
    if has & {MANIFEST, "_METADATA"} or any((path / ROOT / name).is_file() for name in (MANIFEST, "_METADATA")):
        return Format.OPENPI_ORBAX
    if ".metadata" in has or any(path.glob("*.distcp")) or any((path / "checkpoints").glob("step-*")):
        return Format.RUN
    if has & {*SINGLE, INDEX}:
        return _of_names(SafetensorsSource(path).specs, path, path)
    raise _unknown(str(path), f"a folder with {_some(has)}")


def _of_file(path: Path) -> Format:
    with path.open("rb") as file:
        begin = file.read(9)
    if begin.startswith(b"PK"):
        names = NpzSource(path).specs.keys()
        if {"img/embedding/kernel", "llm/embedder/input_embedding"} <= names:
            return Format.PALIGEMMA_NPZ
        raise _unknown(str(path), f"a zip file with the arrays {_some(names)}")
    if begin[8:] == b"{":
        return _of_names(SafetensorsSource(path).specs, path, path.parent)
    raise _unknown(str(path), f"a file that begins with {begin!r}")


def _of_names(names: Iterable[str], path: Path, folder: Path) -> Format:
    """The format of a safetensors file with these tensors, in `folder`."""
    roots = {name.split(".")[0] for name in names}
    second = {name.split(".")[1] for name in names if name.startswith("model.")}
    if "paligemma_with_expert" in roots:
        return Format.OPENPI_TORCH
    if "paligemma_with_expert" in second:
        if _lerobot_type(folder) in LEROBOT_TYPES:
            return Format.LEROBOT
        raise _unknown(str(path), f"a LeRobot policy's weights without its {CONFIG} of type pi0 or pi05 beside them")
    towers = {"vision_tower", "multi_modal_projector", "language_model"}
    if towers <= roots or towers <= second:
        return Format.PALIGEMMA_SAFETENSORS
    raise _unknown(str(path), f"safetensors with {_some(names)}")


def _lerobot_type(folder: Path) -> object:
    """What LeRobot's `config.json` says the policy is; None without such a file."""
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        return None
    return config.get("type") if isinstance(config, dict) else None


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return (", ".join(ordered[:SHOWN]) or "nothing") + (f" and {len(ordered) - SHOWN} more" if ordered[SHOWN:] else "")


def _unknown(where: str, got: str) -> UserError:
    names = ", ".join(it.value for it in Format)
    return UserError(f"checkpoint {where}", got=got, expected=f"one of {names}", do="give the folder or file of one")
