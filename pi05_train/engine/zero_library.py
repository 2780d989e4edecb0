"""DeepSpeed, kept from what it does unasked: it is imported by the engines that need it and by nothing else."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import warnings
from typing import Any

import torch

from pi05_train.errors import UserError

# ZeRO-2 gave wrong gradients from 0.17.6 to 0.18.2 (DeepSpeed issue 7718) and took 2.5 times as long in 0.18.5 and
# 0.18.6 (issue 7885).
_LEAST = (0, 19)


def load_deepspeed(device: torch.device) -> Any:
    """The module, for this kind of device. Raises UserError where it is absent or older than 0.19."""
    expected, do = "deepspeed 0.19 or newer", "pip install 'deepspeed>=0.19', or use engine=ddp"
    try:
        version = importlib.metadata.version("deepspeed")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("engine=zero1, zero2, zero3", got="no deepspeed", expected=expected, do=do) from None
    if tuple(int(part) for part in version.split(".")[:2]) < _LEAST:
        raise UserError("engine=zero1, zero2, zero3", got=f"deepspeed {version}", expected=expected, do=do)
    os.environ["DS_ACCELERATOR"] = device.type  # else it takes a GPU where there is one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations inside it
        import deepspeed

        deepspeed.utils.logger.setLevel(logging.ERROR)
        deepspeed.ops.__compatible_ops__ = {}  # else it compiles a replacement of gloo, with whatever compiler it finds
        _import_muon()
    # At every step, of names that torch renamed after this DeepSpeed was released.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    return deepspeed


def _import_muon() -> None:
    """DeepSpeed asks of every optimizer whether it is Muon; importing that alone would load torch's compiler (10 s)."""
    compiler: Any = importlib.import_module("deepspeed.runtime.compiler")
    compiled = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compiled
