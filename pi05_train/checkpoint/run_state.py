"""The checkpoints of a run folder: `<run>/checkpoints/step-00001000/` holds the state after 1000 optimizer steps."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pi05_train.checkpoint.integrity import (
    COMPLETE,
    delete,
    is_complete,
    unreadable,
    verify,
    verify_content,
    write_together,
)
from pi05_train.checkpoint.ranks import ONE_RANK, Ranks
from pi05_train.checkpoint.tensors import (
    check_fit,
    own_share,
    read_tensors,
    shapes,
    stored_shapes,
    total_bytes,
    write_tensors,
)
from pi05_train.errors import UserError

EXTRA = "extra.json"


@dataclass(frozen=True)
class DataState:
    """Where a run stands in its data. The order is a function of these, so there is nothing more to restore."""

    seed: int
    step: int
    """The next step to draw."""
    global_batch_samples: int
    fingerprint: str
    """Of the mixture up to that step: sources, weights, phases, filters and shard contents."""


def step_folder(run: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` optimizer steps."""
    return run / "checkpoints" / f"step-{step:08d}"


@dataclass(frozen=True)
class Snapshot:
    """What one rank writes of a checkpoint."""

    step: int
    share: dict[str, Any]
    """Nested dicts of tensors, the `own_share` of this rank."""
    extra: str
    """JSON; the first rank's is written."""
    needed_bytes: int
    """Of all ranks together."""


def snapshot(step: int, engine_state: dict[str, Any], extra: dict[str, Any], ranks: Ranks) -> Snapshot:
    """The state after `step` optimizer steps, its tensors not copied yet; `extra` is anything JSON keeps exactly."""
    text = json.dumps(extra, indent=1) + "\n"
    return Snapshot(step, own_share(engine_state, ranks), text, total_bytes(engine_state))


def write(run: Path, state: Snapshot, ranks: Ranks) -> Path:
    """Write a checkpoint and return its folder; a crash at any moment leaves the earlier ones as they were.

    Every rank calls this.
    """
    folder = step_folder(run, state.step)

    def write_part(temporary: Path) -> list[Path]:
        files = write_tensors(temporary, state.share, ranks)
        if ranks.rank == 0:
            (temporary / EXTRA).write_text(state.extra)
            files.append(temporary / EXTRA)
        return files

    write_together(folder, write_part, ranks, needed_bytes=state.needed_bytes)
    return folder


def save(run: Path, step: int, engine_state: dict[str, Any], extra: dict[str, Any], ranks: Ranks = ONE_RANK) -> Path:
    """Take a `snapshot` and `write` it at once."""
    return write(run, snapshot(step, engine_state, extra, ranks), ranks)


def steps_saved(run: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    folders = (run / "checkpoints").glob("step-*")
    matches = [(folder, re.fullmatch(r"step-(\d{8,})", folder.name)) for folder in folders]
    return sorted(int(match[1]) for folder, match in matches if match and is_complete(folder))


def latest(run: Path) -> int | None:
    """The newest complete checkpoint's step; saves that were cut off do not count."""
    return max(steps_saved(run), default=None)


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


def prune(run: Path, keep_last: int, keep_every_steps: int = 0) -> None:
    """Delete all complete checkpoints but the newest `keep_last` and those of every `keep_every_steps` (0: none)."""
    for step in steps_saved(run)[:-keep_last]:
        if not keep_every_steps or step % keep_every_steps:
            delete(step_folder(run, step))


def load(run: Path, step: int, engine_state: dict[str, Any], ranks: Ranks = ONE_RANK) -> dict[str, Any]:
    """Fill the tensors of `engine_state` in place from the checkpoint and return its `extra`; every rank calls this.

    Refuses a checkpoint that is missing, damaged to a bit, or of another model or optimizer.
    """
    folder = step_folder(run, step)
    verify(folder)
    check_fit(
        folder, stored_shapes(folder), shapes(engine_state), "resume with the model and optimizer the run began with"
    )
    verify_content(folder, ranks)
    read_tensors(folder, engine_state)
    try:
        extra: dict[str, Any] = json.loads((folder / EXTRA).read_text())
    except ValueError as error:
        raise unreadable(folder, error) from error
    return extra


def check_data_state(folder: Path, saved: dict[str, Any], now: DataState) -> None:
    """Refuse to resume on other data: `saved` is the DataState in a checkpoint, as a dict."""
    for key, cure in (
        (
            "fingerprint",
            "restore the mixture and its shards, or let changes begin at a later step (mixture.phases) or in a new "
            "run folder with run.start_from",
        ),
        ("seed", "set run.seed back"),
        ("global_batch_samples", "set data.global_batch_samples back"),
        ("step", "do not rename checkpoint folders"),
    ):
        if saved.get(key) != asdict(now)[key]:
            raise UserError(
                f"data {key} on resuming from {folder}",
                got=asdict(now)[key],
                expected=f"{saved.get(key)} as saved",
                do=cure,
            )
