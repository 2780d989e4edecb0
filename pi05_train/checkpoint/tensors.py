"""Tensors of one checkpoint folder, through torch.distributed.checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from pi05_train.checkpoint.integrity import unreadable
from pi05_train.errors import UserError


def write_tensors(folder: Path, state: dict[str, Any]) -> None:
    """Write nested dicts of tensors into `folder`."""
    save(state, storage_writer=FileSystemWriter(folder), no_dist=True)


def read_tensors(folder: Path, state: dict[str, Any]) -> None:
    """Fill the tensors of `state` in place; every one must be in the checkpoint."""
    try:
        load(state, storage_reader=FileSystemReader(folder), no_dist=True)
    except Exception as error:  # whatever a damaged file makes the reader raise, the cure is the same
        raise unreadable(folder, error) from error


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Dotted name to shape of every tensor in the checkpoint."""
    try:
        entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    except Exception as error:  # as above: the metadata is a pickle, and a damaged one may raise anything
        raise unreadable(folder, error) from error
    return {name: tuple(entry.size) for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


def shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Dotted name to shape of every tensor in nested dicts."""
    flat: dict[str, tuple[int, ...]] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            flat[name] = tuple(value.shape)
        else:
            flat |= {f"{name}.{inner}": shape for inner, shape in shapes(value).items()}
    return flat


def check_fit(folder: Path, stored: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], do: str) -> None:
    """Refuse a checkpoint that lacks a wanted tensor, has one more, or one of another shape; `do` is the cure."""
    for name in sorted(stored.keys() | wanted.keys()):
        got, expected = stored.get(name), wanted.get(name)
        if got != expected:
            raise UserError(
                f"checkpoint {folder}, tensor {name}",
                got="none" if got is None else f"shape {list(got)}",
                expected="no such tensor" if expected is None else f"shape {list(expected)}",
                do=do,
            )
