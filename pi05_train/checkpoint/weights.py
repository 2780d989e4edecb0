"""Weights of an earlier run, or imported ones, as the start of a new run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pi05_train.checkpoint.run_state import find_checkpoint
from pi05_train.checkpoint.storage.own import MODEL, WeightsFolder
from pi05_train.checkpoint.tensors import check_fit, read_tensors, stored_shapes
from pi05_train.errors import UserError
from pi05_train.model.adaptation import is_lora
from pi05_train.model.config import ModelConfig
from pi05_train.model.pi05 import Pi05

BESIDE_THE_NETWORK = ("name", "action_horizon", "max_prompt_tokens")
"""What may differ between imported weights and the network that they start: no weight knows of it."""


def load_weights(path: Path, model: Pi05, *, ema: bool) -> bool:
    """Fill `model` from a run folder or checkpoint, averaged (`ema`) or raw weights, or from a weights folder, which
    has one kind; return whether an expert came too.

    The backbone must be there whole. Weights without an expert leave the model's expert as it is (stage 2 begins so),
    and those without LoRA leave the model's LoRA; an expert or LoRA the model has no place for, or any other
    difference, is refused.
    """
    if (path / MODEL).is_file():
        return _load_folder(path, model)
    folder = find_checkpoint(path)
    kind = "ema" if ema else "model"
    shapes = stored_shapes(folder)
    stored = {name.removeprefix(f"{kind}."): shape for name, shape in shapes.items() if name.startswith(f"{kind}.")}
    if not stored:
        raise UserError(
            f"checkpoint {folder}",
            got="no averaged weights",
            expected="weights under 'ema'",
            do="load the raw weights; its run had optimizer.ema_decay=null",
        )
    parameters = _to_fill(folder, stored, model)
    read_tensors(folder, {kind: parameters})
    return _has_expert(parameters, model)


@torch.no_grad()
def _load_folder(path: Path, model: Pi05) -> bool:
    """Imported weights, one tensor at a time."""
    opened = WeightsFolder.open(path)
    _check_network(path, opened.model["model"], model.config)
    parameters = _to_fill(path, {name: spec.shape for name, spec in opened.source.specs.items()}, model)
    for name in parameters:
        parameters[name].copy_(opened.source.read(name))
    return _has_expert(parameters, model)


def _to_fill(folder: Path, stored: Mapping[str, tuple[int, ...]], model: Pi05) -> dict[str, Tensor]:
    """The parameters that the stored weights fill, once everything fits."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    expert = {name for name, _ in model.expert_parameters()}
    if not expert & stored.keys():
        parameters = {name: value for name, value in parameters.items() if name not in expert}
    parameters = _without_new_lora(folder, stored, parameters)
    wanted = {name: tuple(value.shape) for name, value in parameters.items()}
    check_fit(folder, dict(stored), wanted, "use the model size and stage of the run that saved it")
    return parameters


def _has_expert(filled: Mapping[str, Tensor], model: Pi05) -> bool:
    return any(name in filled for name, _ in model.expert_parameters())


def _check_network(path: Path, saved: Mapping[str, Any], config: ModelConfig) -> None:
    """Heads and family are in no shape, so the description beside the weights is compared."""
    for key, now in asdict(config).items():
        if key not in BESIDE_THE_NETWORK and saved[key] != now:
            raise UserError(
                f"weights {path}, model.{key}",
                got=saved[key],
                expected=f"{now}, as configured",
                do="set the model that these weights were imported with",
            )


def _without_new_lora(folder: Path, stored: Collection[str], parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters to read: without LoRA where the checkpoint has none."""
    trained_with = any(map(is_lora, stored))
    if trained_with and not any(map(is_lora, parameters)):
        raise UserError(
            f"checkpoint {folder}",
            got="weights with LoRA",
            expected="plain weights: this network has no LoRA",
            do="set the adaptation of the run that saved it, or merge its LoRA with `pi05 checkpoint export`",
        )
    return {name: value for name, value in parameters.items() if trained_with or not is_lora(name)}
