"""`pi05 train --prepare`, for jobs that wait: what runs later is what was here then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pi05_train.commands.main import main
from pi05_train.trainer.code_version import code_version, copy_code, variables_of
from tests.commands.conftest import Workspace


def test_a_prepared_run_is_trained_without_its_overrides(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run = workspace.root / "pretrain"
    assert main(["train", "--prepare", *workspace.overrides("pretrain", "optimizer.weight_decay=0.125")]) == 0
    *_, code, folder = capsys.readouterr().out.splitlines()
    assert folder == str(run)
    assert Path(code).parent == run / ".code"
    assert not (run / "metrics.jsonl").read_text()
    (workspace.config_dir / "mixture" / "toy.yaml").unlink()
    assert main(["train", "--run-folder", folder]) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    assert "weight_decay: 0.125" in (run / "config.yaml").read_text()


def test_every_variant_is_prepared(prepared: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = prepared.overrides("pretrain", f"run.folder={tmp_path}", "ablation=none,no_web")
    assert main(["train", "--prepare", "--multirun", *overrides]) == 0
    *_, code, first, second = capsys.readouterr().out.splitlines()
    assert Path(code).parent == tmp_path / ".code"
    assert (first, second) == (str(tmp_path / "none"), str(tmp_path / "no_web"))


def test_what_cannot_run_is_refused_before_it_waits(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace.data / "toy_arm" / "norm_stats.json").unlink()
    assert main(["train", "--prepare", *workspace.overrides("pretrain")]) == 2
    assert "norm_stats.json" in capsys.readouterr().err
    assert not (workspace.root / "pretrain").exists()
    assert main(["train", "--run-folder", str(workspace.root / "pretrain")]) == 2
    assert "got no config.yaml" in capsys.readouterr().err
    assert main(["train", "--run-folder", str(workspace.root), "run.steps=3"]) == 2
    assert "--run-folder: got more than a folder" in capsys.readouterr().err


def test_a_copy_of_the_code_runs_in_place_of_the_checkout_and_says_which_version_it_is(tmp_path: Path) -> None:
    copy = copy_code(tmp_path)
    assert copy_code(tmp_path) == copy
    assert code_version(copy).version == code_version().version
    say = "import json, pi05_train.resources as r; print(json.dumps([r.__file__, str(r.resource('conf'))]))"
    said = subprocess.run(
        [sys.executable, "-c", say], env=variables_of(copy), capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(said) == [str(copy / "pi05_train" / "resources.py"), str(copy / "conf")]
    assert (copy / "launch" / "torchrun.sh").stat().st_mode & 0o100


def test_other_code_is_another_copy(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    (root / "pi05_train").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    (root / "pi05_train" / "a.py").write_text("1")
    first = copy_code(tmp_path, root)
    (root / "pi05_train" / "a.py").write_text("2")
    assert copy_code(tmp_path, root) != first
    assert (first / "pi05_train" / "a.py").read_text() == "1"
