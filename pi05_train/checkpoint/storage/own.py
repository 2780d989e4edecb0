"""Our own weights: those inside a run's checkpoints, and the weights folder that a conversion makes.

A weights folder is `weights.safetensors` (our names, float32), `model.yaml` (which network), `origin.json` (where the
numbers come from), `assets/<asset_id>/norm_stats.json` (as found) and `complete.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from pi05_train.checkpoint.integrity import unreadable, verify, write_atomically
from pi05_train.checkpoint.run_state import find_checkpoint
from pi05_train.checkpoint.storage.assets import find_assets, write_assets
from pi05_train.checkpoint.storage.safetensors_files import SafetensorsSource, write_safetensors
from pi05_train.checkpoint.storage.source import Source, TensorSpec, half_there, total_bytes
from pi05_train.checkpoint.tensors import read_tensors
from pi05_train.errors import UserError

WEIGHTS = "weights.safetensors"
MODEL = "model.yaml"
ORIGIN = "origin.json"
Kind = Literal["ema", "model"]
HEADROOM_BYTES = 1 << 20
"""For everything beside the numbers."""


class RunSource(Source):
    """The averaged (`ema`) or raw (`model`) weights in a run folder's newest checkpoint, or in one checkpoint folder.

    `kind` None takes the averaged ones where the run kept an average.
    """

    def __init__(self, path: Path, kind: Kind | None = None) -> None:
        self._folder = find_checkpoint(path)
        super().__init__(str(self._folder))
        stored = _stored_specs(self._folder)
        self.kind: Kind = kind or ("ema" if any(name.startswith("ema.") for name in stored) else "model")
        prefix = f"{self.kind}."
        self.specs = {name.removeprefix(prefix): spec for name, spec in stored.items() if name.startswith(prefix)}
        if not self.specs:
            raise UserError(
                f"checkpoint {self._folder}",
                got="no averaged weights" if kind == "ema" else "no weights",
                expected=f"weights under '{self.kind}'",
                do="take the raw weights; its run had optimizer.ema_decay=null" if kind == "ema" else "check the path",
            )

    def _read(self, name: str) -> Tensor:
        spec = self.specs[name]
        tensor = torch.empty(spec.shape, dtype=spec.torch_dtype)
        read_tensors(self._folder, {self.kind: {name: tensor}})
        return tensor


def _stored_specs(folder: Path) -> dict[str, TensorSpec]:
    try:
        entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    except Exception as error:  # the metadata is a pickle, and a damaged one may raise anything
        raise unreadable(folder, error) from error
    return {
        name: TensorSpec(tuple(entry.size), str(entry.properties.dtype).removeprefix("torch."))
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
    }


@dataclass(frozen=True)
class WeightsFolder:
    """An opened weights folder."""

    path: Path
    source: SafetensorsSource
    model: dict[str, Any]
    """The content of `model.yaml`."""
    origin: dict[str, Any]
    """The content of `origin.json`."""

    @classmethod
    def open(cls, path: Path) -> WeightsFolder:
        """The folder `path`, once its files were found to be there in their sizes."""
        verify(path, do="convert it again")
        try:
            model, origin = yaml.safe_load((path / MODEL).read_text()), json.loads((path / ORIGIN).read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise half_there(str(path), "description", f"content that does not read ({error})") from error
        return cls(path, SafetensorsSource(path / WEIGHTS), model, origin)

    def assets(self) -> dict[str, bytes]:
        """The statistics beside the weights, by path below `assets/`."""
        return find_assets(str(self.path)).files


def write_weights_folder(
    folder: Path,
    specs: Mapping[str, TensorSpec],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    model_yaml: str,
    origin: Mapping[str, Any],
    assets: Mapping[str, bytes],
) -> None:
    """Write a weights folder, whole or not at all, in place of an older one; one tensor is held at a time.

    `assets` are files by path below `assets/`, written as they are.
    """

    def write(temporary: Path) -> None:
        write_safetensors(temporary / WEIGHTS, specs, tensors)
        (temporary / MODEL).write_text(model_yaml)
        (temporary / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n")
        write_assets(temporary, assets)

    write_atomically(folder, write, needed_bytes=total_bytes(specs) + HEADROOM_BYTES)
