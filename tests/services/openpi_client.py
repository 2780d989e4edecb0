"""An environment of openpi-client's own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

VERSION = "0.1.2"


def openpi_client(folder: Path) -> Path | str:
    """The Python of a new environment in `folder` with openpi-client, or why there is none."""
    if shutil.which("uv") is None:
        return "uv is not installed"
    python = folder / "bin" / "python"
    for command in (
        ["uv", "venv", "-q", "--python", "3.11", str(folder)],
        # It imports typing_extensions without saying that it needs it.
        ["uv", "pip", "install", "-q", "--python", str(python), f"openpi-client=={VERSION}", "typing_extensions"],
    ):
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            return f"openpi-client {VERSION} cannot be installed: {ended.stderr.strip()}"
    return python
