"""Our weights become a checkpoint of another program, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pi05_train.checkpoint.foreign.formats import write_layout
from pi05_train.checkpoint.foreign.identify import Format
from pi05_train.checkpoint.foreign.importing import Report, read_all
from pi05_train.checkpoint.foreign.layout import TheirView
from pi05_train.checkpoint.foreign.lerobot_files import LerobotPolicy, write_policy
from pi05_train.checkpoint.foreign.merged import Cast, Part
from pi05_train.checkpoint.foreign.paligemma_config import paligemma_config
from pi05_train.checkpoint.integrity import write_atomically
from pi05_train.checkpoint.storage.assets import STATISTICS, write_assets
from pi05_train.checkpoint.storage.orbax_write import write_orbax
from pi05_train.checkpoint.storage.safetensors_files import write_safetensors
from pi05_train.checkpoint.storage.source import TensorSource, total_bytes
from pi05_train.model.config import ModelConfig

EXPORTS = {
    "openpi": Format.OPENPI_ORBAX,
    "openpi_torch": Format.OPENPI_TORCH,
    "lerobot": Format.LEROBOT,
    "paligemma": Format.PALIGEMMA_SAFETENSORS,
}
"""The formats that can be written, by their name on the command line."""
NOTICE_BYTES = 1 << 20
"""For everything beside the numbers."""


@dataclass(frozen=True)
class Weights:
    """What is to be exported: plain weights (no LoRA) under our names, and what is known of them."""

    source: TensorSource
    model: ModelConfig
    statistics: Mapping[str, bytes]
    """norm_stats.json files by path below `assets/`."""
    lerobot: LerobotPolicy | None = None
    """What LeRobot has to be told; None where nothing is known."""
    lerobot_statistics: str = ""
    """Which of the statistics are LeRobot's, by path."""


def export_checkpoint(
    weights: Weights,
    folder: Path,
    format: Format,
    *,
    card: str,
    notice: str = "",
    dtype: str = "float32",
    report: Report | None = None,
) -> int:
    """Write `folder` in another program's format, with `card` as its README.md; returns how many arrays it holds.

    A `notice` is what a licence asks to stand beside the weights.

    PaliGemma has no place for the expert, which is left out. An older `folder` is replaced once the new one is whole.
    """
    source = weights.source
    if format is Format.PALIGEMMA_SAFETENSORS:
        source = Part(source, lambda name: not (name.startswith("action.") or ".expert." in name))
    shapes = {name: spec.shape for name, spec in source.specs.items()}
    view = TheirView(Cast(source, dtype), write_layout(format, weights.model, shapes))

    def write(temporary: Path) -> None:
        if format is Format.OPENPI_ORBAX:
            write_orbax(temporary, view.specs, read_all(view, report))
        else:
            write_safetensors(temporary / "model.safetensors", view.specs, read_all(view, report))
        _write_beside(temporary, weights, format, dtype)
        (temporary / "README.md").write_text(card)
        if notice:
            (temporary / "Notice").write_text(notice + "\n")

    write_atomically(folder, write, needed_bytes=total_bytes(view.specs) + NOTICE_BYTES, listed=False)
    return len(view.specs)


def _write_beside(folder: Path, weights: Weights, format: Format, dtype: str) -> None:
    if format is Format.LEROBOT:
        assert weights.lerobot is not None
        found = weights.statistics.get(weights.lerobot_statistics)
        write_policy(folder, weights.lerobot, json.loads(found)["norm_stats"] if found else {})
        return
    if format is Format.PALIGEMMA_SAFETENSORS:
        (folder / "config.json").write_text(json.dumps(paligemma_config(weights.model, dtype), indent=2) + "\n")
        return
    write_assets(folder, weights.statistics)
    if format is Format.OPENPI_TORCH:
        (folder / "config.json").write_text(json.dumps(_openpi_config(weights.model, dtype), indent=2) + "\n")


def _openpi_config(model: ModelConfig, dtype: str) -> dict[str, int | str]:
    """The five fields that openpi's converter writes (examples/convert_jax_model_to_pytorch.py)."""
    return {
        "action_dim": model.action_dim,
        "action_horizon": model.action_horizon,
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "precision": dtype,
    }


def asset_path(source: str) -> str:
    """Where the statistics of a source lie below `assets/`."""
    return f"{source}/{STATISTICS}"
