"""The papers' baselines and LoRA train and are measured like pi0.5: a family, a stage, a few overrides."""

from __future__ import annotations

import json

import pytest

from pi05_train.commands.main import main
from tests.commands.conftest import Workspace

TEXT_SOURCES = ["toy_subtasks", "toy_web", "toy_verbal"]
ACTIONS_ONLY = [f"mixture.sources.{name}.enabled=false" for name in TEXT_SOURCES]
PI0 = ["model.family=pi0", "stage=pi0", "templates=pi0", "data.normalisation=z_score"]
PI0_FAST = ["model.family=pi0_fast", "stage=pi0_fast", "templates=pi0_fast", "model.pi0_fast_quirks=true"]


def trained(workspace: Workspace, name: str, *overrides: str) -> list[dict[str, float]]:
    assert main(["train", *workspace.overrides("posttrain", *overrides, f"run.folder={workspace.root / name}")]) == 0
    return [json.loads(line) for line in (workspace.root / name / "metrics.jsonl").read_text().splitlines()]


def measured(workspace: Workspace, name: str, *options: str) -> set[str]:
    assert main(["evaluate", str(workspace.root / name), *options]) == 0
    rows = json.loads((workspace.root / name / "evaluation.json").read_text())["heldout"]
    return {row["metric"] for row in rows}


@pytest.mark.parametrize(
    ("overrides", "trains", "metric"),
    [
        (PI0, {"flow"}, "flow_action_error"),
        (PI0_FAST, {"text"}, "fast_action_error"),
        (["stage=pi0_fast_flow"], {"flow", "text"}, "flow_action_error"),
    ],
    ids=["pi0", "pi0_fast", "pi0_fast_flow"],
)
def test_a_baseline(workspace: Workspace, overrides: list[str], trains: set[str], metric: str) -> None:
    rows = trained(workspace, "baseline", *overrides, *ACTIONS_ONLY)
    assert {kind for kind in ("flow", "text") if f"loss/{kind}" in rows[-1]} == trains
    assert metric in measured(workspace, "baseline")


def test_lora_starts_from_plain_weights_and_is_measured(workspace: Workspace) -> None:
    trained(workspace, "plain")
    start = [f"run.start_from={workspace.root / 'plain'}", "adaptation=openpi_lora"]
    assert all(row["loss/flow"] > 0 for row in trained(workspace, "adapted", *start))
    assert "flow_action_error" in measured(workspace, "adapted")
