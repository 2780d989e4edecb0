from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.forked import fork_ranks


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_runs_killed_at_random_moments_end_as_the_uninterrupted_one(tmp_path: Path, rounds: int) -> None:
    """One process, and two that share a model (fsdp2); kills of one, of all, and of one inside a checkpoint, two in
    each of many rounds: the same batches (ids and pixels), losses and weights, to the last bit.
    """
    (done,) = fork_ranks(1, "-m", "tests.trainer.killed_runs", str(tmp_path), str(rounds), seconds=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("round ") == 2 * rounds
