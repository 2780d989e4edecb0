"""Where a policy computes, and how finely: chosen alike by all commands that ask one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pi05_train.errors import UserError


@dataclass(frozen=True)
class Computing:
    """A device and a precision; the fields are arguments of `load_policy`."""

    device: str = "cpu"
    bfloat16: bool = False

    @classmethod
    def of(cls, device: str | None, precision: str | None) -> Computing:
        """What was named; None: a GPU where there is one, bf16 on a GPU and fp32 elsewhere."""
        there = torch.cuda.is_available()
        if device == "cuda" and not there:
            raise UserError(
                "--device", got="cuda", expected="a CUDA GPU on this machine", do="leave it out, or name the cpu"
            )
        chosen = device or ("cuda" if there else "cpu")
        return cls(chosen, (precision or ("bf16" if chosen == "cuda" else "fp32")) == "bf16")

    @property
    def precision(self) -> str:
        return "bf16" if self.bfloat16 else "fp32"
