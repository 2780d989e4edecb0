"""The shipped sbatch file on a real SLURM of two nodes."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import Workspace
from tests.engine.launched import run_ranks
from tests.services.ports import free_ports
from tests.services.slurm import Slurm, missing, slurm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"SLURM cannot run here: {', '.join(missing())} missing"),
]
ROOT = Path(__file__).resolve().parents[2]
STEPS = 25


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """A socket stands in its folder, whose path must be short."""
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, slurm(Path(folder) / "slurm") as running:
        yield running


def submit(cluster: Slurm, log: Path, *arguments: str) -> str:
    """The number of a job whose two nodes are this machine, which is why their names mean nothing."""
    variables = {
        "RENDEZVOUS": f"127.0.0.1:{free_ports(1)[0]}",
        "ADDRESS": "127.0.0.1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    command = ("sbatch", "--parsable", f"--output={log}", *arguments)
    return cluster.call(*command, cwd=ROOT, **variables).strip()


def rows(run: Path) -> list[dict[str, Any]]:
    """What was logged, without what the clock says."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(("speed/", "memory/"))}
        for line in lines
    ]


def test_a_preempted_run_waits_in_the_queue_again_and_ends_as_the_uninterrupted_one(
    prepared: Workspace, cluster: Slurm, tmp_path: Path
) -> None:
    """One rank on each of two nodes; the signal is the one that `--signal=B:USR1@...` sends before the time limit."""

    def overrides(run: Path) -> list[str]:
        more = ("engine=ddp", "engine.precision=fp32", f"run.steps={STEPS}", "checkpoint.every_steps=1000")
        return prepared.overrides("pretrain", *more, f"run.folder={run}")

    preempted, whole, log = tmp_path / "preempted", tmp_path / "whole", tmp_path / "job.log"
    job = submit(cluster, log, "launch/slurm.sbatch", *overrides(preempted))
    cluster.wait_until(lambda: len(rows(preempted)) >= 2, seconds=120)
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    ended = run_ranks(2, "-m", "pi05_train.commands.main", "train", *overrides(whole))
    assert [rank.returncode for rank in ended] == [0, 0], ended[0].stderr
    cluster.wait_until(lambda: not cluster.call("squeue", "--noheader"), seconds=120)
    said = cluster.call("scontrol", "show", "job", job)
    assert "JobState=COMPLETED" in said, log.read_text()
    assert "Restarts=1" in said
    assert rows(preempted) == rows(whole)
    assert len(rows(whole)) == STEPS


def test_a_failed_rank_has_the_last_word_and_the_job_fails(prepared: Workspace, cluster: Slurm, tmp_path: Path) -> None:
    """Each line of a sweep is a job of its own; the last has an override that no run can have."""
    sweep, log = tmp_path / "sweep.txt", tmp_path / "job-%a.log"
    sweep.write_text(f"run.folder={tmp_path / 'a'}\nrun.folder={tmp_path / 'b'} run.seed=1\nrun.seed=2\n")
    shared = prepared.overrides("pretrain", "engine=ddp", "engine.precision=fp32", "data.global_batch_samples=7")
    job = submit(cluster, log, "--array=2-3", "launch/slurm.sbatch", str(sweep), *shared)
    cluster.wait_until(lambda: not cluster.call("squeue", "--noheader"), seconds=120)
    last = {number: (tmp_path / f"job-{number}.log").read_text().splitlines()[-1] for number in (2, 3)}
    assert last[2].startswith("UserError: data.global_batch_samples: got 7 over 2 ranks")
    assert last[3].startswith(f"launch/slurm.sbatch: line 3 of {sweep}: got 'run.seed=2'")
    assert cluster.call("scontrol", "show", "job", job).count("JobState=FAILED") == 2
    assert not list(ROOT.glob(".pi05-*"))
