"""Small checkpoints for the tests of foreign formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pi05_train.checkpoint.storage.orbax_write import write_orbax
from pi05_train.checkpoint.storage.source import TensorSource, TensorSpec, spec_of

SIGLIP = "PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0"


def tensors(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    """Arrays under openpi's names, among them SigLIP's branch that is really called `value`."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "action_in_proj/kernel": (70, 30),  # too large to lie in the database's index, and not in its last file
        "PaliGemma/llm/layers/mlp/gating_einsum": (3, 2, 4, 5),
        "PaliGemma/llm/final_norm/scale": (4,),
        f"{SIGLIP}/value/bias": (2, 3),
        f"{SIGLIP}/value/kernel": (2, 4, 3),
    }
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def specs(made: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    return {name: spec_of(tensor) for name, tensor in made.items()}


def orbax_folder(folder: Path, made: Mapping[str, Tensor]) -> Path:
    """An openpi `<step>/` with these arrays."""
    folder.mkdir(parents=True)
    write_orbax(folder, specs(made), made.items())
    return folder


def same_bits(got: Tensor, expected: Tensor) -> bool:
    """Whether dtype, shape and every bit agree, NaN included."""
    return spec_of(got) == spec_of(expected) and torch.equal(
        got.reshape(-1).view(torch.uint8), expected.contiguous().reshape(-1).view(torch.uint8)
    )


def assert_holds(source: TensorSource, expected: Mapping[str, Tensor]) -> None:
    """The source has these tensors, bit for bit, and no other."""
    assert dict(source.specs) == specs(expected)
    for name, tensor in expected.items():
        assert same_bits(source.read(name), tensor), name
