"""How long `pi05 --help` takes: the median of whole processes, against a bare interpreter started in turn.

Run: uv run python benchmarks/help_time.py
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time

RUNS = 10


def seconds(code: str) -> float:
    """Elapsed time of one fresh interpreter."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Print the settings, both medians and their ratio."""
    verb = "from pi05_train.commands.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    pairs = [(seconds(verb), seconds("pass")) for _ in range(RUNS + 1)][1:]
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"python {platform.python_version()}, {platform.machine()}, {RUNS} runs in turn after a warm-up")
    print(f"pi05 --help {ours:.3f} s, bare interpreter {bare:.3f} s, ratio {ours / bare:.1f}; the bar is 1 s")


if __name__ == "__main__":
    main()
