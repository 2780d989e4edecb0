"""Weights of an earlier run as the start of a new one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from pi05_train.checkpoint.integrity import COMPLETE, verify
from pi05_train.checkpoint.run_state import latest, step_folder
from pi05_train.checkpoint.tensors import check_fit, read_tensors, stored_shapes
from pi05_train.errors import UserError
from pi05_train.model.adaptation import is_lora
from pi05_train.model.pi05 import Pi05


def find_checkpoint(path: Path) -> Path:
    """The checkpoint folder meant by `path`: itself, or the newest complete one of a run folder."""
    if (path / COMPLETE).is_file() or path.name.startswith("step-"):
        verify(path)
        return path
    step = latest(path)
    if step is None:
        raise UserError(
            f"checkpoint in {path}",
            got="no complete checkpoint",
            expected="a run folder with checkpoints/step-*/, or one such folder",
            do="check the path",
        )
    folder = step_folder(path, step)
    verify(folder)
    return folder


def load_weights(path: Path, model: Pi05, *, ema: bool) -> bool:
    """Fill `model` from a run folder or checkpoint, averaged (`ema`) or raw weights; return whether an expert came too.

    The backbone must be there whole. A checkpoint without an expert leaves the model's expert as it is (stage 2 begins
    so), and one without LoRA leaves the model's LoRA; an expert or LoRA the model has no place for, or any other
    difference, is refused.
    """
    folder = find_checkpoint(path)
    kind = "ema" if ema else "model"
    stored = {name: shape for name, shape in stored_shapes(folder).items() if name.startswith(f"{kind}.")}
    if not stored:
        raise UserError(
            f"checkpoint {folder}",
            got="no averaged weights",
            expected="weights under 'ema'",
            do="load the raw weights; its run had optimizer.ema_decay=null",
        )
    parameters = {f"{kind}.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    expert = {f"{kind}.{name}" for name, _ in model.expert_parameters()}
    if expert and not expert & stored.keys():
        parameters = {name: value for name, value in parameters.items() if name not in expert}
    parameters = _without_new_lora(folder, stored, parameters)
    wanted = {name: tuple(value.shape) for name, value in parameters.items()}
    check_fit(folder, stored, wanted, "use the model size and stage of the run that saved it")
    read_tensors(folder, {kind: {name.removeprefix(f"{kind}."): value for name, value in parameters.items()}})
    return bool(expert & parameters.keys())


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
