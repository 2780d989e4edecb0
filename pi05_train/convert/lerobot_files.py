"""What a LeRobot dataset's metadata say (v2.0, v2.1, v3.0): episodes, where their rows and videos lie, tasks.

Layouts: LeRobot's `datasets/utils.py` at v2.1 and v3.0. Versions 2.x keep one table and one video per episode and
camera; 3.0 puts many episodes into each file, and `meta/episodes` says which file and from what time on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet

from pi05_train.errors import UserError

VERSIONS = ("v2.0", "v2.1", "v3.0")
_DATA_PATHS = {
    2: "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    3: "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
_VIDEO_PATHS = {
    2: "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    3: "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
_PLACES = ("/chunk_index", "/file_index", "/from_timestamp", "/to_timestamp")
"""How the columns of `meta/episodes` end that say where things lie."""


@dataclass(frozen=True)
class Clip:
    """Where an episode's pictures of one camera lie in a video file."""

    file: str
    """Relative to the dataset."""
    start_s: float = 0.0
    end_s: float | None = None
    """None: the whole file is the episode's."""


@dataclass(frozen=True)
class Description:
    """A dataset's metadata."""

    where: str
    """Names the dataset in messages."""
    name: str
    """Of its folder."""
    version: str
    fps: float
    robot_type: str
    features: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[int, str]
    subtasks: Mapping[int, str]
    lengths: Mapping[int, int]
    """Episode number to its frames, in the metadata's order."""
    announced: int
    """Episodes that info.json speaks of."""
    chunks_size: int
    data_path: str
    video_path: str
    columns: Mapping[str, NDArray[Any]]
    """v3.0: columns of `meta/episodes`; empty in v2."""
    rows: Mapping[int, int]
    """v3.0: episode number to its row in `columns`."""

    @property
    def major(self) -> int:
        return 3 if self.version == "v3.0" else 2

    def data_file(self, episode: int) -> str:
        """The table with the episode's rows."""
        return self._file(self.data_path, "data_path", episode, "data")

    def clip(self, episode: int, video_key: str) -> Clip:
        """The episode's part of a camera's video."""
        prefix = f"videos/{video_key}"
        file = self._file(self.video_path, "video_path", episode, prefix, video_key=video_key)
        if self.major == 2:
            return Clip(file)
        row = self.rows[episode]
        times = [float(self._column(f"{prefix}/{name}")[row]) for name in ("from_timestamp", "to_timestamp")]
        return Clip(file, *times)

    def _file(self, template: str, what: str, episode: int, prefix: str, **names: str) -> str:
        if self.major == 2:
            fields: dict[str, Any] = {"episode_index": episode, "episode_chunk": episode // self.chunks_size}
        else:
            row = self.rows[episode]
            fields = {name: int(self._column(f"{prefix}/{name}")[row]) for name in ("chunk_index", "file_index")}
        try:
            return template.format(**fields, **names)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self.where}, meta/info.json, {what}",
                got=repr(template),
                expected=f"a template of {sorted(fields | names)}",
                do="correct it",
            ) from error

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self.columns:
            raise UserError(
                f"{self.where}, meta/episodes", got=f"no column {name}", expected="one", do="fetch the dataset again"
            )
        return self.columns[name]


def read_description(root: Path) -> Description:
    """The metadata of the dataset in this folder; refuses (UserError) what is not a LeRobot dataset that we know."""
    where = f"LeRobot dataset {root}"
    info = _info(root, where)
    version = info["codebase_version"]
    major = 3 if version == "v3.0" else 2
    columns = _episode_columns(root, where) if major == 3 else {}
    lengths = _lengths_v3(columns, where) if major == 3 else _lengths_v2(root, where)
    if not lengths:
        raise UserError(where, got="no episodes", expected="at least one", do="give a dataset with data in it")
    return Description(
        where=where,
        name=root.resolve().name,
        version=version,
        fps=float(info["fps"]),
        robot_type=str(info.get("robot_type") or ""),
        features=info["features"],
        tasks=_texts(root, "tasks", "task", where),
        subtasks=_texts(root, "subtasks", "subtask", where, optional=True),
        lengths=lengths,
        announced=_positive(info.get("total_episodes", len(lengths)), f"{where}, meta/info.json, total_episodes"),
        chunks_size=_positive(info.get("chunks_size", 1000), f"{where}, meta/info.json, chunks_size"),
        data_path=info.get("data_path") or _DATA_PATHS[major],
        video_path=info.get("video_path") or _VIDEO_PATHS[major],
        columns=columns,
        rows={number: row for row, number in enumerate(columns["episode_index"].tolist())} if major == 3 else {},
    )


def read_table(path: Path, where: str, **options: Any) -> pyarrow.Table:
    """A whole small table; refuses (UserError) a file that is none."""
    try:
        return parquet.read_table(path, **options)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        refuse_table(where, error)


def refuse_table(where: str, error: Exception) -> NoReturn:
    """Of what pyarrow says only the first line: the rest is a guess at the cause."""
    raise UserError(
        where,
        got=str(error).splitlines()[0].rstrip("."),
        expected="a whole parquet file",
        do="fetch it again, or finish the recording (LeRobot's finalize())",
    ) from error


def _info(root: Path, where: str) -> dict[str, Any]:
    path = root / "meta" / "info.json"
    if not path.is_file():
        raise UserError(where, got="no meta/info.json", expected="one", do="give the folder that holds meta/")
    try:
        info = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{where}, meta/info.json", got=error, expected="JSON", do="fetch it again") from error
    if not isinstance(info, dict):
        raise UserError(f"{where}, meta/info.json", got=type(info).__name__, expected="a table", do="fetch it again")
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise UserError(
            f"{where}, codebase_version",
            got=repr(version),
            expected=", ".join(VERSIONS),
            do="convert it with LeRobot's own scripts first",
        )
    fps, features = info.get("fps"), info.get("features")
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not 0 < fps < 10_000:
        raise UserError(f"{where}, meta/info.json, fps", got=fps, expected="frames per second", do="correct it")
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise UserError(f"{where}, meta/info.json, features", got=features, expected="a table", do="fetch it again")
    return info


def _positive(value: object, what: str) -> int:
    if not isinstance(value, int) or value < 1:
        raise UserError(what, got=value, expected="a positive number", do="correct it")
    return value


def _lengths_v2(root: Path, where: str) -> dict[int, int]:
    records = _json_lines(root / "meta" / "episodes.jsonl", f"{where}, meta/episodes.jsonl")
    return _lengths(
        [record.get("episode_index") for record in records],
        [record.get("length") for record in records],
        f"{where}, meta/episodes.jsonl",
    )


def _lengths_v3(columns: Mapping[str, NDArray[Any]], where: str) -> dict[int, int]:
    return _lengths(columns["episode_index"].tolist(), columns["length"].tolist(), f"{where}, meta/episodes")


def _lengths(numbers: Sequence[Any], lengths: Sequence[Any], where: str) -> dict[int, int]:
    for what, values in (("episode_index", numbers), ("length", lengths)):
        if bad := [value for value in values if not isinstance(value, int) or value < 0]:
            raise UserError(f"{where}, {what}", got=bad[0], expected="a whole number", do="fetch it again")
    if len(set(numbers)) != len(numbers):
        raise UserError(f"{where}, episode_index", got="a number twice", expected="unique ones", do="fetch it again")
    return dict(zip(numbers, lengths, strict=True))


def _episode_columns(root: Path, where: str) -> dict[str, NDArray[Any]]:
    """Columns of `meta/episodes`, without statistics, texts and lists; all files joined in their order."""
    paths = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        raise UserError(where, got="no meta/episodes/*/*.parquet", expected="the episodes", do="fetch it again")
    tables = []
    for path in paths:
        place = f"{where}, {path.relative_to(root)}"
        try:
            names = parquet.read_schema(path).names
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            refuse_table(place, error)
        kept = [name for name in names if name in ("episode_index", "length") or _says_where(name)]
        if not {"episode_index", "length"} <= set(kept):
            raise UserError(place, got=names[:8], expected="episode_index and length", do="fetch it again")
        tables.append(read_table(path, place, columns=kept))
    joined = pyarrow.concat_tables(tables, promote_options="default")
    nulls = [name for name in joined.column_names if joined[name].null_count]
    if nulls:
        raise UserError(f"{where}, meta/episodes", got=f"empty fields in {nulls}", expected="none", do="fetch it again")
    columns = {name: np.asarray(joined[name].to_numpy()) for name in joined.column_names}
    for name, values in columns.items():
        if values.dtype.kind not in ("iuf" if name.endswith("_timestamp") else "iu"):
            raise UserError(
                f"{where}, meta/episodes, {name}", got=values.dtype, expected="numbers", do="fetch it again"
            )
    return columns


def _says_where(column: str) -> bool:
    return column.startswith(("data/", "videos/")) and column.endswith(_PLACES)


def _texts(root: Path, plural: str, singular: str, where: str, *, optional: bool = False) -> dict[int, str]:
    """Index to text from `meta/<plural>.parquet` (the text is the pandas index there) or `meta/<plural>.jsonl`."""
    table_path, lines_path = root / "meta" / f"{plural}.parquet", root / "meta" / f"{plural}.jsonl"
    number = f"{singular}_index"
    if table_path.is_file():
        place = f"{where}, meta/{plural}.parquet"
        table = read_table(table_path, place)
        texts = [name for name in table.column_names if name != number and _is_text(table.schema.field(name).type)]
        numbers = [name for name in table.column_names if name == number and _is_whole(table.schema.field(name).type)]
        if not numbers or len(texts) != 1:
            raise UserError(
                place, got=table.column_names, expected=f"{number} and the text as index", do="fetch it again"
            )
        try:
            pairs = list(zip(table[number].to_pylist(), table[texts[0]].to_pylist(), strict=True))
        except UnicodeDecodeError as error:
            refuse_table(place, error)
        return {int(index): text or "" for index, text in pairs if index is not None}
    if optional and not lines_path.is_file():
        return {}
    if not lines_path.is_file():
        got = f"neither {table_path.name} nor {lines_path.name}"
        raise UserError(f"{where}, meta", got=got, expected="one of them", do="fetch it")
    place = f"{where}, meta/{lines_path.name}"
    records = _json_lines(lines_path, place)
    if bad := [record for record in records if not isinstance(record.get(number), int) or singular not in record]:
        raise UserError(place, got=bad[0], expected=f"{number} and {singular}", do="fetch it again")
    return {record[number]: str(record[singular]) for record in records}


def _is_text(kind: pyarrow.DataType) -> bool:
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _is_whole(kind: pyarrow.DataType) -> bool:
    return bool(pyarrow.types.is_integer(kind))


def _json_lines(path: Path, where: str) -> list[dict[str, Any]]:
    if not path.is_file():
        raise UserError(where, got="no such file", expected="one", do="fetch it")
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}, line {number}", got=error, expected="JSON", do="fetch it again") from error
        if not isinstance(record, dict):
            raise UserError(f"{where}, line {number}", got=record, expected="a JSON object", do="fetch it again")
        records.append(record)
    return records
