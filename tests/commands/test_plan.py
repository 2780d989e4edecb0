"""`pi05 plan` as a user has it: without shards, and with shards that have been counted."""

from __future__ import annotations

import re

import pytest

from pi05_train.commands.main import main
from tests.commands.conftest import Workspace


def cells(printed: str, first: str) -> list[str]:
    """Cells of the line of a table that begins so."""
    line = next(line for line in printed.splitlines() if re.match(rf"│ {re.escape(first)} ", line))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_256_ranks_of_the_full_size_are_planned_without_anything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "experiment=pi05_pretrain", "cluster.nodes=32"]) == 0
    printed = capsys.readouterr().out
    assert "runs/pi05_pretrain: 280000 steps of 256 samples on 32 x 8 h200: 256 ranks" in printed
    assert cells(printed, "together")[1] == "2,923,335,408"
    assert cells(printed, "hsdp")[2] == "fits"
    assert cells(printed, "paper_mobile")[1:5] == ["MM", "1,720,320", "888", "assumed"]
    assert "paper_mobile: its shards are not there" in printed
    assert "Suggested: engine hsdp, data.micro_batch_samples=1:" in printed
    assert "use fewer devices, or a larger data.global_batch_samples" in printed
    assert "a checkpoint has 46.8 GB" in printed


def test_counted_lengths_take_the_place_of_assumed_ones(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*workspace.overrides("posttrain"), f"data.cache={workspace.root / 'cache'}"]
    here = ["cluster.devices_per_node=1", "--engine", "single"]
    assert main(["plan", *arguments, *here]) == 0
    printed = capsys.readouterr().out
    assert cells(printed, "toy_web")[4] == "assumed"
    assert "token counts of source toy_mobile: got none" in printed
    assert main(["data", "count", *arguments]) == 0
    counted = cells(capsys.readouterr().out, "toy_web")
    assert main(["plan", *arguments, *here]) == 0
    printed = capsys.readouterr().out
    assert cells(printed, "toy_web")[3:5] == [counted[2], "counted"]
    assert "Prompt + target tokens" not in printed
    assert cells(printed, "toy_arm")[6] == f"{3 / 30:.2f}"  # one of the six samples of each of three steps


def test_an_impossible_job_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "experiment=pi05_pretrain", "cluster.nodes=3"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pi05: data.global_batch_samples: got 256 over 24 ranks (3 nodes of 8)")
    assert captured.err.count("\n") == 1


def test_training_knows_no_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "experiment=demo_pretrain", "cluster.nodes=2"]) == 2
    assert capsys.readouterr().err.startswith("pi05: cluster: got an unknown key")
