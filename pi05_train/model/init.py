"""Initial weights for training from scratch; loaded checkpoints replace them.

Every parameter draws from its own generator, seeded by (seed, name): the same seed gives the same weight whichever
other parts exist, so adding the expert to a trained backbone gives the expert a fresh model would have had.

- kernels: normal with variance 1 / fan_in; biases and norms: zero offsets (LayerNorm weights: one);
- adaRMS: zero kernel and zero bias, so the expert's blocks start as the identity (openpi models/gemma.py);
- embedding: normal, of the size PaliGemma's N(0, 0.01^2) gives after the factor sqrt(width) at width 2048, at any
  width; the vision head makes image tokens of the same size (openpi starts it at zero, since PaliGemma replaces it);
- LoRA: `lora_a` normal, `lora_b` zero, so that training starts from exactly the weights that were loaded (openpi draws
  both from N(0, 0.01^2), which moves the weights a little at once).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pi05_train.model.adaptation import LORA_A
from pi05_train.model.gemma import AdaptiveRMSNorm

TOKEN_RMS = 0.01 * math.sqrt(2048)
LORA_STD = 0.01


@torch.no_grad()
def init_parameters(model: nn.Module, names: Iterable[str], seed: int) -> None:
    """Draws the named parameters of `model` anew."""
    for name in names:
        parameter = model.get_parameter(name)
        std = _std(model, name, parameter)
        if std is None:
            parameter.fill_(_constant(model, name))
            continue
        # Hashed together: torch's CPU generator looks at 32 bits of its seed only.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _std(model: nn.Module, name: str, parameter: Tensor) -> float | None:
    """Standard deviation of the parameter's first values; None for constants."""
    owner, leaf = _owner(model, name)
    if leaf == LORA_A:
        return LORA_STD
    if leaf == "position_embedding":
        return float(parameter.shape[-1] ** -0.5)
    if isinstance(owner, nn.Embedding):
        return TOKEN_RMS * float(parameter.shape[-1] ** -0.5)
    if leaf != "weight" or isinstance(owner, nn.LayerNorm):
        return None
    parent, _ = _owner(model, name.rpartition(".")[0])
    if isinstance(parent, AdaptiveRMSNorm):
        return None
    size = TOKEN_RMS if name == "vision.head.weight" else 1.0
    return size * float(parameter[0].numel() ** -0.5)


def _constant(model: nn.Module, name: str) -> float:
    owner, leaf = _owner(model, name)
    return 1.0 if isinstance(owner, nn.LayerNorm) and leaf == "weight" else 0.0


class NoDraws(TorchFunctionMode):
    """Parameters stay undrawn: drawing on the meta device draws nothing and imports torch's compiler for seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
