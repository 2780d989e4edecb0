"""Tensors of one checkpoint folder, through torch.distributed.checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed import is_initialized
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from pi05_train.checkpoint.integrity import unreadable
from pi05_train.errors import UserError


def write_tensors(folder: Path, state: dict[str, Any]) -> None:
    """Write nested dicts of tensors into `folder`; every rank of the process group, if there is one, calls this."""
    try:
        with _perhaps_alone():
            save(state, storage_writer=FileSystemWriter(folder), no_dist=not is_initialized())
    except CheckpointException as error:  # a BaseException, which nobody expects
        raise UserError(
            f"checkpoint {folder}",
            got="; ".join(repr(cause) for cause, _ in error.failures.values()),
            expected="a disk that takes it",
            do="make room or mend the disk, then start the run again: it resumes",
        ) from error


def read_tensors(folder: Path, state: dict[str, Any]) -> None:
    """Fill the tensors of `state` in place, whichever ranks wrote them; every one must be in the checkpoint."""
    try:
        with _perhaps_alone():
            load(state, storage_reader=FileSystemReader(folder), no_dist=not is_initialized())
    except (Exception, CheckpointException) as error:  # whatever a damaged file makes the reader raise
        raise unreadable(folder, error) from error


@contextmanager
def _perhaps_alone() -> Iterator[None]:
    """Silences the remark that there is no process group, which one process does not need."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Dotted name to shape of every tensor in the checkpoint."""
    try:
        entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    except Exception as error:  # the metadata is a pickle, and a damaged one may raise anything
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
