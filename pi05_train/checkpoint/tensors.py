"""Tensors of one checkpoint folder, through torch.distributed.checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed import is_initialized
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from pi05_train.checkpoint.integrity import unreadable
from pi05_train.checkpoint.ranks import Ranks
from pi05_train.errors import UserError


def write_tensors(folder: Path, share: dict[str, Any], ranks: Ranks) -> list[Path]:
    """Write the `own_share` of every rank, each of which calls this, into `folder`; returns the files of this one."""
    _silence()
    # A copy that runs ahead would open a CUDA context on the first device in every process.
    writer = _Writer(folder, per_thread_copy_ahead=0)
    try:
        save(share, storage_writer=writer, process_group=ranks.group, no_dist=ranks.group is None)
    except CheckpointException as error:  # a BaseException, which nobody expects
        raise UserError(
            f"checkpoint {folder}",
            got="; ".join(dict.fromkeys(repr(cause) for cause, _ in error.failures.values())),
            expected="a disk that takes it",
            do="make room or mend the disk, then start the run again: it resumes",
        ) from error
    return [*folder.glob(f"__{ranks.rank}_*"), *([folder / ".metadata"] if ranks.rank == 0 else [])]


class _Writer(FileSystemWriter):
    """Passes on what the disk said, which torch.save hides behind an error of its own."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_tensors(folder: Path, state: dict[str, Any]) -> None:
    """Fill the tensors of `state` in place, whichever ranks wrote them; every one must be in the checkpoint."""
    _silence()
    try:
        load(state, storage_reader=FileSystemReader(folder), no_dist=not is_initialized())
    except (Exception, CheckpointException) as error:  # whatever a damaged file makes the reader raise
        raise unreadable(folder, error) from error


def _silence() -> None:
    """Of the remark that there is no process group, which one process does not need; for every thread."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


def own_share(state: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The part of `state` that this rank writes: its shards, and some of the tensors that all ranks have alike.

    So each of these is copied and written once, not once per rank; they are given out by size.
    """
    tensors = flat(state)
    written, own = [0] * ranks.size, set()
    for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name)):
        if isinstance(tensors[name], DTensor):
            own.add(name)
            continue
        rank = written.index(min(written))
        written[rank] += tensors[name].nbytes
        if rank == ranks.rank:
            own.add(name)
    return _only(state, own)


def _only(state: dict[str, Any], names: set[str], prefix: str = "") -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, dict):
            kept[key] = _only(value, names, f"{prefix}{key}.")
        elif prefix + key in names:
            kept[key] = value
    return kept


def total_bytes(state: dict[str, Any]) -> int:
    """What the tensors of all ranks together take on the disk."""
    return sum(value.numel() * value.element_size() for value in flat(state).values())


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Dotted name to shape of every tensor in the checkpoint."""
    try:
        entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    except Exception as error:  # the metadata is a pickle, and a damaged one may raise anything
        raise unreadable(folder, error) from error
    return {name: tuple(entry.size) for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}


def shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Dotted name to shape of every tensor in nested dicts."""
    return {name: tuple(value.shape) for name, value in flat(state).items()}


def flat(state: dict[str, Any]) -> dict[str, Tensor]:
    """Nested dicts as one, under dotted names."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            found[name] = value
        else:
            found |= {f"{name}.{inner}": tensor for inner, tensor in flat(value).items()}
    return found


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
