"""Who is told about a run beside metrics.jsonl: Weights & Biases. A dead tracker never stops training."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

from pi05_train.config.run_parts import LoggerConfig
from pi05_train.trainer.metrics import Row


class Tracker(Protocol):
    """Receives every row of metrics."""

    def log(self, row: Row) -> None: ...

    def close(self) -> None: ...


def make_trackers(logger: LoggerConfig, folder: Path, config: dict[str, Any]) -> list[Tracker]:
    """The trackers asked for; WANDB_MODE wins over `logger.wandb`. `config` is shown beside the curves."""
    mode = os.environ.get("WANDB_MODE", logger.wandb)
    return [] if mode == "disabled" else [WandbTracker(mode, logger.project, folder, config)]


class WandbTracker:
    """A Weights & Biases run with its files in the run folder. Never asks for a login; warns once and goes quiet on
    any error."""

    def __init__(self, mode: str, project: str, folder: Path, config: dict[str, Any]) -> None:
        self._run: Any = None
        self._try(lambda: self._start(mode, project, folder, config))

    def log(self, row: Row) -> None:
        """Send one row, at its own step."""
        self._try(lambda: self._run and self._run.log(dict(row), step=int(row["step"])))

    def close(self) -> None:
        """Finish the W&B run."""
        self._try(lambda: self._run and self._run.finish())

    def _start(self, mode: str, project: str, folder: Path, config: dict[str, Any]) -> None:
        import wandb  # slow to import, and not needed where the tracker is disabled

        if mode == "online" and not wandb.login(prompt=False):
            warnings.warn("W&B has no API key, so the run is recorded offline; `wandb login` adds one", stacklevel=2)
            mode = "offline"
        self._run = wandb.init(
            mode=cast(Any, mode),
            project=project,
            dir=folder,
            id=_run_id(folder),
            name=folder.name,
            resume="allow" if mode == "online" else None,
            config=config,
            settings=wandb.Settings(silent=True),
        )

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # a tracker is a convenience: whatever it raises, training goes on
            self._run = None
            warnings.warn(f"W&B stopped ({error}); training goes on and metrics.jsonl has every row", stacklevel=3)


def _run_id(folder: Path) -> str:
    """The W&B id of this run folder: the same after a resume."""
    path = folder / "wandb_id.txt"
    if not path.is_file():
        path.write_text(uuid.uuid4().hex[:8])
    return path.read_text()
