"""The robot's state as plain numbers in the prompt (openpi `models/tokenizer.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 256
EDGES = np.linspace(-1.0, 1.0, BINS + 1)[:-1]


def state_bins(state_normalised: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Bin of each number of a normalised state [D]: 0..255 over [-1, 1), -1 below, 255 above."""
    return np.asarray(np.digitize(state_normalised, bins=EDGES) - 1, dtype=np.int64)


def state_text(state_normalised: NDArray[np.floating[Any]]) -> str:
    """The bins in decimal, joined by single spaces; the state has its native dimension, unpadded."""
    return " ".join(map(str, state_bins(state_normalised).tolist()))
