"""torch.compile for blocks that are many and alike: compiled once for all of a kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def compiled(function: Callable[P, T], *, any_length: bool = False) -> Callable[P, T]:
    """The function with kernels made for its code when it is first called.

    `any_length`: kernels that take every length from the start. Otherwise those of the first call, then of any length.
    """
    # The compiler looks at .grad of what it is given, of other blocks' results too.
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf Tensor")
    return torch.compile(function, dynamic=True if any_length else None)
