"""The whole road through the commands: two stages, evaluation, report; and what a second call does."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pi05_train.commands.main import main
from tests.commands.conftest import Workspace
from tests.trainer.logged import logged


def test_two_stages_evaluation_and_report(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain, posttrain = workspace.root / "pretrain", workspace.root / "posttrain"
    assert main(["train", *workspace.overrides("pretrain")]) == 0
    assert main(["train", *workspace.overrides("posttrain", f"run.start_from={pretrain}")]) == 0
    assert not any(key.startswith("loss/flow") for row in logged(workspace.root / "pretrain") for key in row)
    assert all(row["loss/flow"] > 0 for row in logged(workspace.root / "posttrain"))

    assert main(["evaluate", str(posttrain)]) == 0
    measured = {
        (row["source"], row["metric"]) for row in json.loads((posttrain / "evaluation.json").read_text())["heldout"]
    }
    assert {
        ("toy_mobile", "flow_action_error"),
        ("toy_subtasks", "box_iou"),
        ("toy_web", "text_cross_entropy"),
    } <= measured

    capsys.readouterr()
    assert main(["report", str(posttrain)]) == 0
    assert capsys.readouterr().out.strip() == str(posttrain / "report.html")
    assert "toy_bimanual" in (posttrain / "report.html").read_text()


def test_a_finished_run_is_left_alone_and_more_steps_continue_it(workspace: Workspace) -> None:
    assert main(["train", *workspace.overrides("pretrain")]) == 0
    first = logged(workspace.root / "pretrain")
    assert main(["train", *workspace.overrides("pretrain")]) == 0
    assert logged(workspace.root / "pretrain") == first
    assert main(["train", *workspace.overrides("pretrain", "run.steps=5")]) == 0
    assert logged(workspace.root / "pretrain")[:3] == first
    assert len(logged(workspace.root / "pretrain")) == 5


def test_removing_a_source_is_one_override(workspace: Workspace) -> None:
    assert main(["train", *workspace.overrides("pretrain", "mixture.sources.toy_web.enabled=false")]) == 0
    assert not any("toy_web" in key for row in logged(workspace.root / "pretrain") for key in row)


def test_mixture_prints_every_source(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["data", "mixture", *workspace.overrides("pretrain")]) == 0
    printed = capsys.readouterr().out
    assert all(f"toy_{name}" in printed for name in ("mobile", "arm", "subtasks", "web", "verbal"))


def test_a_run_goes_on_after_its_data_moved_but_not_with_other_tokenizers(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *workspace.overrides("pretrain")]) == 0
    moved = replace(workspace, data=workspace.data.rename(workspace.root / "moved"))
    assert main(["train", *moved.overrides("pretrain", "run.steps=4")]) == 0
    sizes = ["--pieces", "350", "--fast-size", "290"]
    assert main(["tokenizer", "fit", str(moved.tokenizers), *moved.overrides("pretrain"), *sizes]) == 0
    capsys.readouterr()
    assert main(["train", *moved.overrides("pretrain", "run.steps=5")]) == 2
    assert "fingerprint of tokenizer" in capsys.readouterr().err
