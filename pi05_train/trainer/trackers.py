"""Who is told about a run beside metrics.jsonl: Weights & Biases, TensorBoard. A dead tracker never stops training."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from pi05_train.config.run_parts import LoggerConfig
from pi05_train.trainer.examples import Prediction
from pi05_train.trainer.metrics import Row
from pi05_train.trainer.tensorboard_tracker import TensorboardTracker
from pi05_train.trainer.wandb_tracker import WandbTracker


class Tracker(Protocol):
    """Receives every row of metrics, and the example predictions where they are asked for."""

    def log(self, row: Row) -> None: ...

    def show(self, step: int, predictions: Sequence[Prediction]) -> None: ...

    def close(self) -> None: ...


def make_trackers(logger: LoggerConfig, folder: Path, config: dict[str, Any]) -> list[Tracker]:
    """The trackers asked for; WANDB_MODE wins over `logger.wandb`. `config` is shown beside the curves."""
    trackers: list[Tracker] = []
    mode = os.environ.get("WANDB_MODE", logger.wandb)
    if mode != "disabled":
        trackers.append(Guarded("W&B", lambda: WandbTracker(mode, logger, folder, config)))
    if logger.tensorboard:
        trackers.append(Guarded("TensorBoard", lambda: TensorboardTracker(folder)))
    return trackers


class Guarded:
    """A tracker that may fail, from its start on: its first error is said once, and then it is left alone."""

    def __init__(self, name: str, start: Callable[[], Tracker]) -> None:
        self._name = name
        self._tracker: Tracker | None = None
        self._try(lambda: setattr(self, "_tracker", start()))

    def log(self, row: Row) -> None:
        """Pass on one row."""
        if (tracker := self._tracker) is not None:
            self._try(lambda: tracker.log(row))

    def show(self, step: int, predictions: Sequence[Prediction]) -> None:
        """Pass on the predictions after `step`."""
        if (tracker := self._tracker) is not None:
            self._try(lambda: tracker.show(step, predictions))

    def close(self) -> None:
        """Finish the tracker, if it still lives."""
        if (tracker := self._tracker) is not None:
            self._try(tracker.close)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # a tracker is a convenience: whatever it raises, training goes on
            self._tracker = None
            warnings.warn(
                f"{self._name} stopped ({error}); training goes on and metrics.jsonl has every row", stacklevel=3
            )
