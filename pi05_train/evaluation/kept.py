"""Episodes of an evaluation that has not ended, kept as they end: the same evaluation goes on after them.

One JSON object a line: {"place": of the episode in the evaluation, "seconds": played so far, "result": fields of
`RolloutResult`, "actions": [steps, action_dim] float32, little-endian, as base64}.
"""

from __future__ import annotations

import base64
import fcntl
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pi05_train.checkpoint.integrity import a_disk_for
from pi05_train.errors import UserError
from pi05_train.evaluation.results import RolloutResult
from pi05_train.evaluation.rollouts import Action


@dataclass(frozen=True)
class Played:
    """One episode that has ended."""

    result: RolloutResult
    actions: Sequence[Action]
    """What it did: with its start, enough to play it again."""


class KeptEpisodes:
    """The ended episodes of one evaluation, in memory and in a file; a context manager that lets go of the file."""

    def __init__(self, path: Path) -> None:
        """Reads what the file has; a last line that was cut off, and what follows a damaged one, is played again.

        Refuses (UserError) a file that another process adds to, and a disk that is full or may not be written on.
        """
        self.path = path
        self.episodes: dict[int, Played] = {}
        """By place."""
        self.seconds = 0.0
        """How long those were played for."""
        with a_disk_for(path.parent):
            self._file = path.open("a+b")
            try:
                self._lock()
                self._file.truncate(self._read())
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> KeptEpisodes:
        return self

    def __exit__(self, *_: object) -> None:
        with a_disk_for(self.path.parent):
            self._file.close()

    def add(self, place: int, result: RolloutResult, actions: Sequence[Action], seconds: float) -> None:
        """Keep an episode, `seconds` after the evaluation began; it is in the file when this returns."""
        self.episodes[place], self.seconds = Played(result, actions), seconds
        content = base64.b64encode(np.stack(actions).astype("<f4").tobytes()).decode()
        row = {"place": place, "seconds": seconds, "result": asdict(result), "actions": content}
        with a_disk_for(self.path.parent):
            self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            self._file.flush()

    def delete(self) -> None:
        """Remove the file: the evaluation has ended."""
        self.path.unlink()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"closed loop of {self.path.parent}",
                got="an evaluation that another process is playing",
                expected="one of its own",
                do="wait for that process",
            ) from error

    def _read(self) -> int:
        """Fill in the episodes; returns the number of bytes that hold them."""
        self._file.seek(0)
        size = 0
        for line in _whole_lines(self._file.read()):
            try:
                row = json.loads(line)
            except ValueError:
                break
            result = RolloutResult(**row["result"])
            numbers = np.frombuffer(base64.b64decode(row["actions"]), "<f4").astype(np.float32)
            self.episodes[row["place"]] = Played(result, list(numbers.reshape(result.steps, -1)))
            self.seconds = row["seconds"]
            size += len(line)
        return size


def _whole_lines(content: bytes) -> Iterator[bytes]:
    return (line for line in content.splitlines(keepends=True) if line.endswith(b"\n"))
