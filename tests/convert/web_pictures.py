"""What the tests of formats of pictures with text share."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHARED = Path(os.environ.get("PI05_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def red_box_picture(height: int, width: int, box: tuple[int, int, int, int]) -> bytes:
    """A grey PNG with a red rectangle at (x, y, width, height)."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    x, y, w, h = box
    pixels[y : y + h, x : x + w] = (255, 0, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
