"""The shipped sbatch file, and Hydra's submitit launcher, on a real SLURM of two nodes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pi05_train.trainer.code_version import copy_code, variables_of
from tests.commands.conftest import Workspace
from tests.engine.launched import run_ranks
from tests.services.ports import free_ports
from tests.services.slurm import Slurm, missing, slurm
from tests.trainer.logged import logged

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


def submit(cluster: Slurm, *command: str, **variables: str) -> str:
    """What a command says that submits jobs whose two nodes are this machine, which is why their names mean nothing."""
    here = {
        "RENDEZVOUS": f"127.0.0.1:{free_ports(1)[0]}",
        "ADDRESS": "127.0.0.1",
        "MASTER_ADDR": "127.0.0.1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    return cluster.call(*command, cwd=ROOT, **here | variables).strip()


def overrides(prepared: Workspace, *more: str) -> list[str]:
    """Of a small run, each a word of its own."""
    option, config_dir, *rest = prepared.overrides("pretrain", "engine.precision=fp32", *more)
    return [f"{option}={config_dir}", *rest]


def finish(cluster: Slurm, seconds: float = 240) -> None:
    """Wait until the queue is empty."""
    cluster.wait_until(lambda: not cluster.call("squeue", "--noheader"), seconds)


def rows(run: Path) -> list[dict[str, Any]]:
    """What a run has logged that may not have begun."""
    return logged(run) if (run / "metrics.jsonl").exists() else []


def test_a_preempted_run_waits_in_the_queue_again_and_ends_as_the_uninterrupted_one(
    prepared: Workspace, cluster: Slurm, tmp_path: Path
) -> None:
    """One rank on each of two nodes; the signal is the one that `--signal=B:USR1@...` sends before the time limit."""

    def words(run: Path) -> list[str]:
        return overrides(
            prepared, "engine=ddp", f"run.steps={STEPS}", "checkpoint.every_steps=1000", f"run.folder={run}"
        )

    preempted, whole, log = tmp_path / "preempted", tmp_path / "whole", tmp_path / "job.log"
    job = submit(cluster, "launch/slurm.sbatch", "--parsable", f"--output={log}", *words(preempted))
    cluster.wait_until(lambda: len(rows(preempted)) >= 2, seconds=240)
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    ended = run_ranks(2, "-m", "pi05_train.commands.main", "train", *words(whole))
    assert [rank.returncode for rank in ended] == [0, 0], ended[0].stderr
    finish(cluster)
    said = cluster.call("scontrol", "show", "job", job)
    assert "JobState=COMPLETED" in said, log.read_text()
    assert "Restarts=1" in said
    assert rows(preempted) == rows(whole)
    assert len(rows(whole)) == STEPS


def test_a_failed_rank_has_the_last_word_and_the_job_fails(prepared: Workspace, cluster: Slurm, tmp_path: Path) -> None:
    """Each variant of a study is a job of its own; what shows only on two ranks is said there."""
    study = overrides(prepared, "engine=ddp", "data.global_batch_samples=7", "run.seed=0,1", f"run.folder={tmp_path}")
    options = ("--parsable", f"--output={tmp_path}/job-%a.log", "--multirun")
    job = submit(cluster, "launch/slurm.sbatch", *options, *study)
    finish(cluster)
    for number in (0, 1):
        last = (tmp_path / f"job-{number}.log").read_text().splitlines()[-1]
        assert last.startswith("UserError: data.global_batch_samples: got 7 over 2 ranks")
    assert cluster.call("scontrol", "show", "job", job).count("JobState=FAILED") == 2
    assert not list(ROOT.glob(".pi05-*"))


def test_a_wrong_override_never_reaches_the_queue(prepared: Workspace, cluster: Slurm, tmp_path: Path) -> None:
    for command in (("launch/slurm.sbatch",), ("pi05", "train", "--multirun", "hydra/launcher=submitit_slurm")):
        wrong = overrides(prepared, "optimizer.learning_rat=1,2", f"run.folder={tmp_path / 'study'}")
        with pytest.raises(AssertionError, match="did you mean 'learning_rate'"):
            submit(cluster, *command, *(["--multirun"] if len(command) == 1 else []), *wrong)
    assert not (tmp_path / "study").exists()
    log = tmp_path / "job.log"
    submit(cluster, "sbatch", f"--output={log}", "launch/slurm.sbatch", *overrides(prepared))
    finish(cluster)
    assert "got started by sbatch, expected as a program" in log.read_text()


def test_hydras_submitit_launcher_submits_a_study_that_outlives_its_checkout(
    prepared: Workspace, cluster: Slurm, tmp_path: Path
) -> None:
    """Two jobs of two ranks: the first is preempted and goes on behind the second; what submitted them is gone."""
    study, checkout = tmp_path / "study", copy_code(tmp_path)
    words = ["engine=fsdp2", f"run.steps={STEPS}", "checkpoint.every_steps=1000", f"run.folder={study}"]
    words += ["hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2", "ablation=none,no_web"]
    command = (sys.executable, "-m", "pi05_train.commands.main", "train", "--multirun")
    said = submit(cluster, *command, *overrides(prepared, *words), **variables_of(checkout))
    job = said.partition("_")[0]
    shutil.rmtree(checkout)
    cluster.wait_until(lambda: len(rows(study / "none")) >= 2, seconds=240)
    cluster.call("scancel", "--signal=USR2", f"{job}_0")
    finish(cluster, seconds=480)
    states = cluster.call("scontrol", "show", "job", job)
    logs = "".join(path.read_text() for path in study.glob(".submitit/*/*.err"))
    assert states.count("JobState=COMPLETED") == 2, logs
    assert states.count("Restarts=1") == 1, logs
    assert [len(rows(study / name)) for name in ("none", "no_web")] == [STEPS, STEPS]
    assert len(json.loads((study / "none" / "code_version.json").read_text())) == 1
