"""Simulators and torch live in one process."""

from __future__ import annotations

import subprocess
import sys


def test_rendering_before_torch_compiles_does_not_end_the_process() -> None:
    code = (
        "from pi05_train.simulation.rendering import check_rendering\n"
        "check_rendering()\n"
        "import torch._dynamo\n"
        "print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "alive", done.stderr
