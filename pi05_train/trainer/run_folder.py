"""The folder of one run: what was decided, what came of it, and one process at a time.

config.yaml, code_version.json, code-*.diff, fingerprints.json, metrics.jsonl, checkpoints/
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any, Protocol

import yaml

from pi05_train.checkpoint.integrity import a_disk_for
from pi05_train.errors import UserError
from pi05_train.trainer.code_version import code_version

MAY_CHANGE = (
    *("run.steps", "run.folder", "tokenizer", "mixture.phases", "logger", "checkpoint", "evaluation"),
    *("engine.name", "engine.device", "engine.activation_checkpointing"),
    *("engine.reshard_after_forward", "engine.shard_ranks", "engine.compile", "engine.cpu_offload"),
    *("data.root", "data.workers", "data.prefetch_batches"),
    *("data.micro_batch_samples", "data.micro_batch_tokens", "data.micro_batch_images"),
    *("data.cache", "data.cache_gigabytes", "data.patience_seconds"),
)
"""Keys a resumed run may change: its length, where things stand (fingerprints say that they are the same things), who
watches it, how processes share the work, how a step's batch is divided, phases still to come (a checkpoint refuses
others in what it has seen). Anything else is another run."""

BEFORE_CONFIG = (".lock", ".*.new", "fingerprints.json", "code_version.json", "code-*.diff")
"""What may lie in a folder without config.yaml: a start that was cut off leaves it."""


class RunRecords(Protocol):
    """What the loop needs of a run folder."""

    path: Path

    def append_metrics(self, row: dict[str, float | int]) -> None: ...

    def cut_metrics(self, step: int) -> None: ...


class FollowedRunFolder:
    """The run folder as every rank but the first has it: for its checkpoints alone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append_metrics(self, row: dict[str, float | int]) -> None:
        """The first rank has the same row."""

    def cut_metrics(self, step: int) -> None:
        """The first rank does it."""


class RunFolder:
    """An opened, locked run folder; a context manager that unlocks it."""

    def __init__(self, path: Path, *, config: str, fingerprints: dict[str, str]) -> None:
        """Create the folder, or open it to resume.

        `config` is the resolved configuration as YAML; `fingerprints` names what the data was. Refuses a folder that
        another process holds, that cannot be written, that is no run folder, or whose run had another configuration or
        other data.
        """
        self.path = path
        with a_disk_for(path):
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(path)
            try:
                self._open(config, fingerprints)
            except BaseException:
                self.close()
                raise
            self._metrics = (path / "metrics.jsonl").open("a")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unlock the folder."""
        try:
            if hasattr(self, "_metrics"):
                with a_disk_for(self.path):
                    self._metrics.close()
        finally:
            self._lock.close()

    def append_metrics(self, row: dict[str, float | int]) -> None:
        """Add a row to metrics.jsonl; a row is on its own line and readable at once."""
        with a_disk_for(self.path):
            self._metrics.write(json.dumps(row, allow_nan=False) + "\n")
            self._metrics.flush()

    def cut_metrics(self, step: int) -> None:
        """Drop the rows from `step` on, and a last line that was cut off: the file is then the uninterrupted run's."""
        path = self.path / "metrics.jsonl"
        rows = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = [line for line in rows if json.loads(line)["step"] < step]
        self._metrics.close()
        _replace(path, "".join(kept))
        self._metrics = path.open("a")

    def _open(self, config: str, fingerprints: dict[str, str]) -> None:
        written = self.path / "config.yaml"
        if written.is_file():
            check_same_config(self.path, yaml.safe_load(written.read_text()), yaml.safe_load(config))
            _check_same_data(self.path, fingerprints)
        elif others := sorted(p.name for p in self.path.iterdir() if not any(map(p.match, BEFORE_CONFIG))):
            raise UserError(
                f"run.folder {self.path}",
                got=f"a folder with {others[0]} and no config.yaml",
                expected="a run folder, an empty folder or none",
                do="choose another folder",
            )
        _replace(self.path / "fingerprints.json", json.dumps(fingerprints, indent=1, sort_keys=True) + "\n")
        self._record_code()
        _replace(written, config)

    def _record_code(self) -> None:
        """code_version.json lists the versions that worked on this run, one entry per change; diffs lie beside it."""
        path = self.path / "code_version.json"
        versions: list[dict[str, str]] = json.loads(path.read_text()) if path.is_file() else []
        now = code_version()
        if not versions or versions[-1] != now.version:
            if now.diff:
                _replace(self.path / now.version["git_diff"], now.diff)
            _replace(path, json.dumps([*versions, now.version], indent=1) + "\n")


def check_same_config(folder: Path, saved: Any, now: Any) -> None:
    """Refuse to resume with a configuration that differs outside `MAY_CHANGE`, naming the first such key."""
    was, is_now = _flatten(saved), _flatten(now)
    for key in sorted(was.keys() | is_now.keys()):
        if any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE):
            continue
        if was.get(key, "nothing") != is_now.get(key, "nothing"):
            raise UserError(
                f"{key} on resuming {folder}",
                got=is_now.get(key, "nothing"),
                expected=f"{was.get(key, 'nothing')} as in its config.yaml",
                do="set it back, or choose another run.folder",
            )


def _check_same_data(folder: Path, now: dict[str, str]) -> None:
    saved: dict[str, str] = json.loads((folder / "fingerprints.json").read_text())
    for name in sorted(saved.keys() | now.keys()):
        if saved.get(name) != now.get(name):
            raise UserError(
                f"fingerprint of {name} on resuming {folder}",
                got=now.get(name, "nothing"),
                expected=f"{saved.get(name, 'nothing')} as in its fingerprints.json",
                do="restore the data, or choose another run.folder",
            )


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{path}.{key}" if path else str(key))
    return flat


def _lock(folder: Path) -> IO[str]:
    lock = (folder / ".lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(
            f"run.folder {folder}",
            got="a folder another process is training in",
            expected="a free one",
            do="wait for that process, or choose another folder",
        ) from error
    return lock


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    os.replace(temporary, path)
