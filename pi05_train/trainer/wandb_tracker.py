"""Weights & Biases: one W&B run per run folder, whoever resumes it. Never asks for a login, never waits without end."""

from __future__ import annotations

import threading
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil

from pi05_train.checkpoint.run_state import latest, step_folder
from pi05_train.config.run_parts import LoggerConfig
from pi05_train.trainer.examples import COLUMNS, Prediction
from pi05_train.trainer.metrics import Row

FINISH_SECONDS = 240
"""How long the end of a run may take to send what is still unsent; `wandb sync` sends the rest."""
PATIENCE_SECONDS = 300
"""How long any one call may take before W&B's own process is ended."""


class WandbTracker:
    """A W&B run with its files in `<run>/wandb`; rows, examples and, by option, checkpoints as artifacts."""

    def __init__(self, mode: str, logger: LoggerConfig, folder: Path, config: dict[str, Any]) -> None:
        """Online without a key or a server the run is recorded offline, and a warning says why."""
        import wandb  # slow to import, and not needed where the tracker is disabled

        self._wandb: Any = wandb
        self._folder, self._logger, self._config = folder, logger, config
        self._sent: int | None = None
        with _patience():
            online = self._online() if mode == "online" else None
            self._run: Any = self._init("offline") if online is None else online

    def log(self, row: Row) -> None:
        """Send one row, at its own step, and a checkpoint that is new."""
        with _patience():
            self._run.log(dict(row), step=int(row["step"]))
            self._send_checkpoint()

    def show(self, step: int, predictions: Sequence[Prediction]) -> None:
        """Send the predictions as one table, and the pictures of each source."""
        table = self._wandb.Table(columns=[*COLUMNS, "picture", "chunk"])
        media: dict[str, Any] = {"examples": table}
        for prediction in predictions:
            images = {name: self._wandb.Image(picture) for name, picture in prediction.pictures().items()}
            table.add_data(*prediction.cells(), images["picture"], images.get("chunk"))
            caption = f"{prediction.truth} | {prediction.predicted}"
            for name, picture in prediction.pictures().items():
                of_source = media.setdefault(f"examples/{prediction.source}/{name}", [])
                of_source.append(self._wandb.Image(picture, caption=caption))
        with _patience():
            self._run.log(media, step=step)

    def close(self) -> None:
        """Send the last checkpoint and finish the W&B run."""
        with _patience():
            self._send_checkpoint()
            self._run.finish()

    def _online(self) -> Any:
        """The run on the server; None, with a warning, where there is no key or no server that takes it."""
        try:
            if self._wandb.login(prompt=False):  # verifies the key, so it fails in seconds where nobody answers
                return self._init("online")
            reason = "has no API key (`wandb login` adds one)"
        except self._wandb.errors.CommError as error:
            self._wandb.teardown()  # a run that could not start would keep its id
            reason = f"cannot be used online ({' '.join(str(error).split())})"
        warnings.warn(f"W&B {reason}, so the run is recorded offline; `wandb sync` sends it later", stacklevel=6)
        return None

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        return self._wandb.init(
            mode=mode,
            project=self._logger.project,
            dir=self._folder,
            id=_run_id(self._folder),
            name=self._folder.name,
            resume="allow" if mode == "online" else None,
            config=self._config,
            settings=self._wandb.Settings(silent=True, finish_timeout=FINISH_SECONDS, finish_timeout_raises=True),
        )

    def _send_checkpoint(self) -> None:
        """The newest complete checkpoint with the configuration beside it, once; W&B keeps a copy until it is sent."""
        step = latest(self._folder) if self._logger.artifacts else None
        if step is None or step == self._sent:
            return
        artifact = self._wandb.Artifact(
            f"checkpoint-{_run_id(self._folder)}", type="checkpoint", metadata={"step": step}
        )
        artifact.add_dir(str(step_folder(self._folder, step)))
        artifact.add_file(str(self._folder / "config.yaml"))
        self._run.log_artifact(artifact, aliases=["latest", f"step-{step}"])
        self._sent = step


def _run_id(folder: Path) -> str:
    """The W&B id of this run folder: the same after a resume."""
    path = folder / "wandb_id.txt"
    if not path.is_file():
        path.write_text(uuid.uuid4().hex[:8])
    return path.read_text()


@contextmanager
def _patience() -> Iterator[None]:
    """W&B's process, on which its calls may wait for ever, is ended after a time; the call in here then raises."""
    timer = threading.Timer(PATIENCE_SECONDS, _end_service)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_service() -> None:
    for child in psutil.Process().children():
        if child.name().startswith("wandb"):
            child.kill()
