"""One episode's rows of a LeRobot dataset: numbers, time stamps, texts, pictures kept in the table or beside it.

Shapes: T frames of the episode, S state dimensions, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import dataset as tables
from pyarrow import parquet

from pi05_train.convert.lerobot_files import Description, refuse_table
from pi05_train.errors import UserError

STATE_NAMES = ("observation.state", "state")
ACTION_NAMES = ("action", "actions")
"""LeRobot's name first; the second is in use in datasets that were made for openpi."""
NUMBERING = ("episode_index", "frame_index", "timestamp", "task_index")
_SUCCESS = ("is_episode_successful", "next.success")
_LANGUAGE = ("language_persistent", "language_events", "subtask_index")
_PICTURES_AT_ONCE = 16
_RATE_TOLERANCE = 0.01
_STAMP_TOLERANCE_S = 1e-3
"""Time stamps are float32."""


class EpisodeError(ValueError):
    """An episode that cannot be used as it is; the text is a fixed phrase to count by."""


@dataclass(frozen=True)
class Rows:
    """What an episode's rows say, in the order of the frames."""

    times_T: NDArray[np.float64]
    """Seconds from the episode's beginning."""
    state_TS: NDArray[np.float32]
    actions_TA: NDArray[np.float32]
    """[T, 0] where the dataset has no actions."""
    tasks: list[str]
    subtasks: list[str]
    """Empty where nothing is annotated; "" for frames before the first annotation."""
    utterances: list[str]
    """What a person said at a frame; empty where the dataset has no such column."""
    success: bool


def feature_name(description: Description, names: Sequence[str]) -> str:
    """Which of these features the dataset has; "" for none."""
    return next((name for name in names if name in description.features), "")


def check_table(root: Path, file: str, description: Description, needed: Sequence[str]) -> pyarrow.Schema:
    """The columns of a table; refuses (UserError) an unreadable one, and one that is not as info.json says."""
    where = f"{description.where}, {file}"
    try:
        schema = parquet.read_schema(root / file)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        refuse_table(where, error)
    if missing := [name for name in needed if name not in schema.names]:
        raise UserError(f"{where}, columns", got=f"no {missing}", expected=list(needed), do="fetch the dataset again")
    for name in needed:
        kind, shape = schema.field(name).type, description.features.get(name, {}).get("shape")
        if pyarrow.types.is_fixed_size_list(kind) and isinstance(shape, list | tuple) and shape != [kind.list_size]:
            raise UserError(
                f"{where}, {name}",
                got=f"{kind.list_size} numbers per row",
                expected=f"the shape {list(shape)} of meta/info.json",
                do="correct one of them",
            )
    return schema


def measured_rate(root: Path, episode: int, description: Description) -> float:
    """Frames per second by the episode's time stamps, 0 where they do not tell; info.json can differ from it."""
    try:
        table = _table(root, episode, description, ["frame_index", "timestamp"])
        times_T = np.sort(_vector(table, "timestamp"))
    except EpisodeError:
        return 0.0
    steps = np.diff(times_T)
    return float(1 / np.median(steps)) if len(steps) and np.isfinite(steps).all() and np.median(steps) > 0 else 0.0


def read_rows(root: Path, episode: int, description: Description, rate_hz: float, subtask_column: str = "") -> Rows:
    """The episode's rows; raises EpisodeError where they do not make an episode.

    `subtask_column`: the text column with the subtask of every frame; "": LeRobot's own columns for it.
    """
    state_name = feature_name(description, STATE_NAMES)
    action_name = feature_name(description, ACTION_NAMES)
    columns = [*NUMBERING, state_name, action_name, *_SUCCESS, *_LANGUAGE, subtask_column]
    table = _table(root, episode, description, columns)
    frames = table.num_rows
    if frames != description.lengths[episode]:
        raise EpisodeError("row count differs from the metadata")
    if not frames:
        raise EpisodeError("no frames")
    if not np.array_equal(_vector(table, "frame_index"), np.arange(frames)):
        raise EpisodeError("frames are not numbered 0, 1, 2, ...")
    times_T = _vector(table, "timestamp")
    _check_times(times_T, rate_hz)
    task_index = _whole_numbers(table, "task_index")
    success = [bool(value) for name in _SUCCESS if name in table.column_names for value in _vector(table, name)]
    return Rows(
        times_T=times_T,
        state_TS=_matrix(table, state_name),
        actions_TA=_matrix(table, action_name) if action_name else np.zeros((frames, 0), np.float32),
        tasks=[description.tasks.get(int(index), "") for index in task_index],
        subtasks=_texts(table, subtask_column) if subtask_column else _subtasks(table, times_T, description),
        utterances=_utterances(table),
        success=any(success) if success else True,
    )


def stored_pictures(root: Path, episode: int, description: Description, feature: str) -> Iterator[bytes]:
    """Image files of a feature that is no video, in the order of the frames; b"" for one that is not there.

    A row holds the file's bytes or its path. Paths lead from the dataset, or name a file of the feature's own folder.
    """
    try:
        expected = 0
        for batch in _scanner(root, episode, description, ["frame_index", feature], _PICTURES_AT_ONCE).to_batches():
            if not pyarrow.types.is_struct(batch.schema.field(feature).type):
                raise EpisodeError("pictures have another form")
            for frame, row in zip(batch["frame_index"].to_pylist(), batch[feature], strict=True):
                if frame != expected:
                    raise EpisodeError("rows are not in the order of their frames")
                stored = row.as_py() or {}
                content, path = stored.get("bytes"), stored.get("path")
                yield (
                    content if isinstance(content, bytes) and content else _beside(root, episode, feature, frame, path)
                )
                expected += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise EpisodeError("table unreadable") from error


def _beside(root: Path, episode: int, feature: str, frame: int, path: object) -> bytes:
    folder = root / "images" / feature
    places = [root / path] if isinstance(path, str) else []
    places += [
        folder / f"episode_{episode:06d}" / f"frame_{frame:06d}.png",
        folder / f"episode-{episode:06d}" / f"frame-{frame:06d}.png",
    ]
    return next((place.read_bytes() for place in places if place.is_file()), b"")


def _table(root: Path, episode: int, description: Description, columns: Sequence[str]) -> pyarrow.Table:
    """The episode's rows sorted by frame, with those of the columns that there are."""
    try:
        table = _scanner(root, episode, description, columns).to_table()
    except (pyarrow.ArrowException, OSError) as error:
        raise EpisodeError("table unreadable") from error
    if any(name in NUMBERING and name not in table.column_names for name in columns):
        raise EpisodeError("columns are missing")
    frames = _whole_numbers(table, "frame_index")
    return table if (np.diff(frames) >= 0).all() else table.take(np.argsort(frames, kind="stable"))


def _scanner(
    root: Path, episode: int, description: Description, columns: Sequence[str], batch_size: int = 2**17
) -> tables.Scanner:
    """Reads the episode's rows from a file that may hold others' too; of the columns those that there are."""
    path = root / description.data_file(episode)
    try:
        data = tables.dataset(path, format="parquet")
        kept = [name for name in columns if name and name in data.schema.names]
        chosen = tables.field("episode_index") == episode
        return data.scanner(columns=kept, filter=chosen, batch_size=batch_size, batch_readahead=1, use_threads=False)
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"table {path}", got=error.strerror, expected="a file to read", do="fetch it again") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise EpisodeError("table unreadable") from error


def _check_times(times_T: NDArray[np.float64], rate_hz: float) -> None:
    if not np.isfinite(times_T).all() or (np.diff(times_T) <= 0).any():
        raise EpisodeError("time stamps do not rise")
    if len(times_T) > 1 and abs(float(times_T[-1] - times_T[0]) * rate_hz / (len(times_T) - 1) - 1) > _RATE_TOLERANCE:
        raise EpisodeError("time stamps disagree with the rate")


def _vector(table: pyarrow.Table, name: str) -> NDArray[Any]:
    """One number per row: also where rows hold lists of one."""
    column = table[name].combine_chunks()
    if pyarrow.types.is_list(column.type) or pyarrow.types.is_fixed_size_list(column.type):
        column = column.flatten()
    if len(column) != table.num_rows or column.null_count:
        raise EpisodeError(f"numbers are missing in {name}")
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    if values.dtype.kind not in "fiub":
        raise EpisodeError(f"{name} holds no numbers")
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def _whole_numbers(table: pyarrow.Table, name: str) -> NDArray[Any]:
    values = _vector(table, name)
    if values.dtype.kind not in "iu":
        raise EpisodeError(f"{name} holds no whole numbers")
    return values


def _matrix(table: pyarrow.Table, name: str) -> NDArray[np.float32]:
    """[T, D]; a scalar feature is one dimension."""
    if name not in table.column_names:
        raise EpisodeError("columns are missing")
    column = table[name].combine_chunks()
    kind = column.type
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        widths = set(column.value_lengths().to_pylist()) if not _fixed(kind) else {kind.list_size}
        flat = column.flatten()
        if column.null_count or flat.null_count:
            raise EpisodeError(f"numbers are missing in {name}")
        if len(widths) > 1:
            raise EpisodeError(f"rows of {name} have several lengths")
        values = flat.to_numpy(zero_copy_only=False).reshape(table.num_rows, -1)
    else:
        values = _vector(table, name)[:, None]
    if values.dtype.kind not in "fiub":
        raise EpisodeError(f"{name} holds no numbers")
    return np.ascontiguousarray(values, np.float32)


def _fixed(kind: pyarrow.DataType) -> bool:
    return bool(pyarrow.types.is_fixed_size_list(kind))


def _texts(table: pyarrow.Table, name: str) -> list[str]:
    """The text of every frame; "" where there is none."""
    if name not in table.column_names:
        raise EpisodeError("columns are missing")
    texts = [text or "" for text in table[name].to_pylist()]
    if not all(isinstance(text, str) for text in texts):
        raise EpisodeError(f"{name} holds no texts")
    return texts


def _subtasks(table: pyarrow.Table, times_T: NDArray[np.float64], description: Description) -> list[str]:
    """Per frame the subtask that began last; rows of `language_persistent` stand on every frame of the episode."""
    if "language_persistent" in table.column_names:
        _check_language(table, "language_persistent", {"style", "content", "timestamp"})
        rows = [row for row in table["language_persistent"][0].as_py() or [] if row and row["style"] == "subtask"]
        rows = [row for row in rows if row["content"] and row["timestamp"] is not None]
        begun = sorted((float(row["timestamp"]), str(row["content"])) for row in rows)
        starts = np.array([start for start, _ in begun])
        last = np.searchsorted(starts, times_T + _STAMP_TOLERANCE_S, side="right")
        if begun:
            return [begun[index - 1][1] if index else "" for index in last]
    if "subtask_index" in table.column_names and description.subtasks:
        return [description.subtasks.get(int(index), "") for index in _whole_numbers(table, "subtask_index")]
    return []


def _utterances(table: pyarrow.Table) -> list[str]:
    """What a person says at exactly this frame: rows of style interjection with the role user."""
    if "language_events" not in table.column_names:
        return []
    _check_language(table, "language_events", {"style", "content", "role"})
    said = []
    for rows in table["language_events"].to_pylist():
        spoken = [row for row in rows or [] if row and row["style"] == "interjection" and row["role"] == "user"]
        said.append(next((str(row["content"]) for row in spoken if row["content"]), ""))
    return said


def _check_language(table: pyarrow.Table, name: str, fields: set[str]) -> None:
    kind = table.schema.field(name).type
    inner = kind.value_type if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) else kind
    if pyarrow.types.is_null(inner):  # a file in which nothing is annotated
        return
    if inner is kind or not pyarrow.types.is_struct(inner) or not fields <= {field.name for field in inner}:
        raise EpisodeError(f"rows of {name} have another form")
