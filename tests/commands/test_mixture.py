"""`pi05 data mixture` and `pi05 train` where the data of some sources is not there."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, replace

import pytest
import yaml

from pi05_train.commands.main import main
from tests.commands.conftest import Workspace
from tests.synthetic import CARDS

COMMAND = "pi05 data convert coco $DOWNLOADS/coco $DATA/{0} --name {0} --kind WD"


def without(workspace: Workspace, *names: str, samples: int | None) -> None:
    """Take away sources whose cards then say how to make them."""
    for name in names:
        shutil.rmtree(workspace.data / name)
        card = replace(
            CARDS[name], samples=samples, download_gb=12.5, convert=[COMMAND.format(name)], origin="https://example.org"
        )
        (workspace.config_dir / "source" / f"{name}.yaml").write_text(yaml.safe_dump(asdict(card)))


def row(printed: str, source: str, table: int = 0) -> list[str]:
    """Cells of a source's line in the table of that number."""
    lines = [line for line in printed.splitlines() if re.match(rf"│ {source} ", line)]
    return [cell.strip() for cell in lines[table].strip("│").split("│")]


def test_absent_sources_are_planned_with_what_their_cards_declare(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    without(workspace, "toy_web", samples=2000)
    without(workspace, "toy_verbal", samples=None)
    capsys.readouterr()
    assert main(["data", "mixture", *workspace.overrides("pretrain", "run.steps=100")]) == 0
    printed = capsys.readouterr().out
    #                                              kind  asked     drawn     samples    of        rooms epochs
    assert row(printed, "toy_web")[1:8] == ["WD", "0.1667", "0.1667", "~1,900", "~2,000", "", "0.05"]
    assert row(printed, "toy_web")[8:] == ["CC0-1.0", "12.5"]
    assert row(printed, "toy_verbal")[4:8] == ["unknown", "unknown", "", "unknown"]
    assert row(printed, "toy_arm")[4:] == ["30", "40", "4", "3.33", "CC0-1.0", ""]
    assert f"2 sources are not in {workspace.data}" in printed
    assert (
        "To fetch: 25 GB and 0 downloads of unknown size; to store: 0.0 million pictures and those of 1 so" in printed
    )
    assert f"  {COMMAND.format('toy_web').replace('$DATA', str(workspace.data))}\n" in printed


def test_the_next_stage_adds_its_epochs(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    without(workspace, "toy_web", samples=100)
    capsys.readouterr()
    stages = workspace.overrides("pretrain", "run.steps=19")
    assert main(["data", "mixture", *stages, "--then", "demo_posttrain"]) == 0
    printed = capsys.readouterr().out
    # Both stages are on the toy mixture here: 19 draws of 95 rows each time.
    assert row(printed, "toy_web")[7] == row(printed, "toy_web", 1)[7] == "0.20"
    assert row(printed, "toy_web", 2) == ["toy_web", "0.20", "0.20", "0.40"]


def test_training_is_refused_before_anything_is_made(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    without(workspace, "toy_web", "toy_verbal", samples=2000)
    capsys.readouterr()
    assert main(["train", *workspace.overrides("pretrain")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"pi05: source toy_web: got no shards in {workspace.data / 'toy_web'}, and none of 1 other")
    assert COMMAND.format("toy_web").replace("$DATA", str(workspace.data)) in said
    assert said.count("\n") == 1
    assert not (workspace.root / "pretrain").exists()
