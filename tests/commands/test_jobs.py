"""A study as jobs, by Hydra's submitit launcher: here as processes of this machine."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from pi05_train.commands.jobs import WARNING, warned_after_saving
from pi05_train.commands.main import main
from pi05_train.commands.train import submit_variants
from pi05_train.config.sweep import launcher
from pi05_train.trainer.stop import stop_requests
from tests.commands.conftest import Workspace


def test_every_variant_is_a_job_that_trains_what_was_submitted(prepared: Workspace, tmp_path: Path) -> None:
    more = ["run.steps=1", f"run.folder={tmp_path}", "ablation=glob(none)", "hydra/launcher=submitit_local"]
    _, config_dir, *overrides = prepared.overrides("pretrain", *more)
    jobs = submit_variants(overrides, config_dir, launcher(overrides, config_dir, tmp_path))
    assert [job.exception() for job in jobs] == [None]
    assert len((tmp_path / "none" / "metrics.jsonl").read_text().splitlines()) == 1
    assert len(json.loads((tmp_path / "none" / "code_version.json").read_text())) == 1
    assert "ablation=glob(none)" in (tmp_path / "multirun.yaml").read_text(), "a second stage may start from this study"


def test_a_warned_run_saves_before_the_job_is_requeued() -> None:
    """Where it does not listen there is nothing to save."""
    heard: list[str] = []
    before = signal.signal(WARNING, lambda *_: heard.append("requeued"))
    try:
        with warned_after_saving(), stop_requests() as stop:
            signal.raise_signal(WARNING)
            assert stop.signal == signal.SIGUSR1
            heard.append("saved")
        assert heard == ["saved", "requeued"]
        with warned_after_saving():
            signal.raise_signal(WARNING)
            heard.append("went on")
        assert heard[2:] == ["requeued", "went on"]
    finally:
        signal.signal(WARNING, before)


def test_the_launcher_is_an_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    known = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(known, "submitit_slurm.yaml")
    overrides = ["experiment=demo_pretrain", "ablation=none,no_web", "hydra/launcher=submitit_slurm"]
    assert main(["train", "--multirun", *overrides]) == 2
    said = capsys.readouterr().err
    assert "hydra/launcher: got 'submitit_slurm'" in said
    assert "`uv sync --extra slurm`" in said


def test_a_machine_without_slurm_and_wrong_options_are_refused(
    prepared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = prepared.overrides("pretrain", f"run.folder={tmp_path}", "ablation=none,no_web")
    study = ["train", "--multirun", *study, "hydra/launcher=submitit_slurm"]
    assert main([*study, "hydra.launcher.nodes=many"]) == 2
    assert "hydra.launcher.nodes" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert main(study) == 2
    assert "got no sbatch here" in capsys.readouterr().err
