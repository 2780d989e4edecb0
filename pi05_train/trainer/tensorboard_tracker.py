"""TensorBoard: the rows and example predictions as event files in the run folder. Needs the extra `tensorboard`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pi05_train.checkpoint.run_state import latest
from pi05_train.trainer.examples import COLUMNS, Prediction
from pi05_train.trainer.metrics import Row


class TensorboardTracker:
    """Event files in `<run>/tensorboard`. A resumed run hides what an earlier process wrote beyond its checkpoint."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "the package tensorboard is not installed; `uv sync --extra tensorboard` adds it"
            ) from error
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=latest(folder) or 0)

    def log(self, row: Row) -> None:
        """Write one row, at its own step, and let readers see it at once."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(row["step"]))
        self._writer.flush()

    def show(self, step: int, predictions: Sequence[Prediction]) -> None:
        """Write the pictures, and the texts as one table."""
        lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
        for prediction in predictions:
            lines.append("| " + " | ".join(_one_line(cell) for cell in prediction.cells()) + " |")
            for name, picture in prediction.pictures().items():
                where = f"examples/{prediction.source}/{prediction.key}/{name}"
                self._writer.add_image(where, picture, step, dataformats="HWC")
        self._writer.add_text("examples", "\n".join(lines), step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


def _one_line(text: str) -> str:
    """A cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
