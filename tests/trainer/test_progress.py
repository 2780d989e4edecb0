"""What a person sees: a bar in a terminal, few lines elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from pi05_train.trainer.progress import ProgressView


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(steps: int, *, start: int = 0, terminal: bool = False) -> str:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    with ProgressView(start, steps, console, clock) as view:
        for done in range(start + 1, steps + 1):
            clock.now += 2.0
            view.show(done, loss=1.0 / done, samples_per_second=3.21)
    return out.getvalue()


def test_without_a_terminal_a_line_every_five_percent() -> None:
    lines = shown(1000).splitlines()
    assert len(lines) == 20
    assert lines[4] == "step 250/1000  loss 0.0040  3.2 samples/s  0:25:00 left"
    assert lines[-1].startswith("step 1000/1000")


def test_short_runs_get_a_line_per_step_and_resumed_ones_only_theirs() -> None:
    assert len(shown(3).splitlines()) == 3
    lines = shown(1000, start=900).splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("0:01:40 left")


def test_terminal_gets_a_bar_with_steps_and_loss() -> None:
    text = shown(10, terminal=True)
    assert "10/10" in text
    assert "loss 0.1000" in text
    assert "3.2 samples/s" in text
