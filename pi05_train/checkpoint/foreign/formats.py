"""The formats by name: how each is seen under our names, and ours under its."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pi05_train.checkpoint.foreign import openpi_jax, torch_names
from pi05_train.checkpoint.foreign.identify import Format
from pi05_train.checkpoint.foreign.layout import Layout, OurView, Shape
from pi05_train.checkpoint.foreign.sizes import Sizes, check_lora, check_sizes, openpi_sizes, torch_sizes
from pi05_train.checkpoint.foreign.torch_names import TorchNames, find_names
from pi05_train.checkpoint.storage.source import TensorSource
from pi05_train.model.adaptation import AdaptationConfig
from pi05_train.model.config import ModelConfig
from pi05_train.model.init import NoDraws
from pi05_train.model.lora import apply_lora
from pi05_train.model.pi05 import Pi05

_TORCH = {
    Format.OPENPI_TORCH: torch_names.OPENPI,
    Format.LEROBOT: torch_names.LEROBOT,
    Format.PALIGEMMA_SAFETENSORS: torch_names.PALIGEMMA,
}
FOREIGN = (Format.OPENPI_ORBAX, Format.PALIGEMMA_NPZ, *_TORCH)
"""Everything that is not under our names already."""
WITHOUT_EXPERT = (Format.PALIGEMMA_NPZ, Format.PALIGEMMA_SAFETENSORS)
"""Formats that have no place for an action expert."""


def our_shapes(config: ModelConfig, *, expert: bool, adaptation: AdaptationConfig | None = None) -> dict[str, Shape]:
    """Name and shape of every parameter of the model, in its own order."""
    with torch.device("meta"), NoDraws():
        model = Pi05(config, expert=expert)
        if adaptation is not None:
            apply_lora(model, adaptation.lora)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def infer_sizes(source: TensorSource, format: Format, config_json: Mapping[str, Any] | None = None) -> Sizes:
    """What the arrays, and the `config.json` beside them if there is one, tell of the network."""
    assert format in FOREIGN, format
    if format in _TORCH:
        names = find_names(source.specs, _TORCH[format])
        return torch_sizes(source.specs, source.where, names, config_json)
    return openpi_sizes(source.specs, source.where, "" if format is Format.PALIGEMMA_NPZ else "PaliGemma/")


def our_view(
    source: TensorSource,
    format: Format,
    config: ModelConfig,
    *,
    expert: bool,
    adaptation: AdaptationConfig | None = None,
    config_json: Mapping[str, Any] | None = None,
    take: str | None = None,
) -> OurView:
    """The checkpoint under our names. Another family, other sizes, missing and unknown arrays are refused here."""
    sizes = infer_sizes(source, format, config_json)
    check_sizes(source.where, sizes, config, expert=expert)
    check_lora(source.where, sizes, adaptation)
    ours = our_shapes(config, expert=expert, adaptation=adaptation)
    return OurView(source, read_layout(source, format, config, ours), take=take)


def read_layout(source: TensorSource, format: Format, config: ModelConfig, ours: Mapping[str, Shape]) -> Layout:
    """The layout of this very checkpoint: PyTorch formats have been written under several names."""
    if format not in _TORCH:
        return write_layout(format, config, ours)
    names = find_names(source.specs, _TORCH[format])
    if format is Format.PALIGEMMA_SAFETENSORS:
        embedding = source.specs.get(names.embedding) or source.specs.get(names.head)
        rows = None if embedding is None else embedding.shape[0]
        return torch_names.paligemma_layout(config, ours, names, vocab_rows=rows)
    return _torch_layout(format, config, ours, names)


def write_layout(format: Format, config: ModelConfig, ours: Mapping[str, Shape]) -> Layout:
    """The layout that this format's own programs write and load."""
    assert format in FOREIGN, format
    if format is Format.OPENPI_ORBAX:
        return openpi_jax.openpi_layout(config, ours)
    if format is Format.PALIGEMMA_NPZ:
        return openpi_jax.paligemma_npz_layout(config, ours)
    return _torch_layout(format, config, ours, _TORCH[format])


def _torch_layout(format: Format, config: ModelConfig, ours: Mapping[str, Shape], names: TorchNames) -> Layout:
    make = {
        Format.OPENPI_TORCH: torch_names.openpi_layout,
        Format.LEROBOT: torch_names.lerobot_layout,
        Format.PALIGEMMA_SAFETENSORS: torch_names.paligemma_layout,
    }
    return make[format](config, ours, names)
