"""Every shipped experiment and ablation trains two steps at the demo's size; a study is one command and one page."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from pi05_train.commands.main import main
from pi05_train.config.compose import compose, read_config
from pi05_train.resources import resource
from pi05_train.samples.schema import KINDS
from pi05_train.trainer.run_folder import RunFolder
from tests.commands.conftest import Workspace

ABLATIONS = sorted(path.stem for path in (resource("conf") / "ablation").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (resource("conf") / "experiment").glob("*.yaml"))
SOURCES = {
    "MM": "toy_mobile", "ME": "toy_arm", "CE": "toy_bimanual",
    "HL": "toy_subtasks", "WD": "toy_web", "VI": "toy_verbal",
}  # fmt: skip
LEFT_OUT = {
    "no_web": ["WD"], "no_multi_environment": ["ME"], "no_cross_embodiment": ["CE"], "no_other_robots": ["ME", "CE"],
    "no_verbal": ["VI"], "no_high_level": ["HL", "VI"], "no_mobile": ["MM"], "pi0": ["HL", "WD", "VI"],
    "pi0_fast_flow": ["HL", "WD", "VI"], "none": [], "no_insulation": [], "few_environments": [],
}  # fmt: skip
FAMILIES = {"baseline_pi0": "pi0", "baseline_pi0_fast": "pi0_fast"}
TWO_STEPS = ["run.steps=2", "evaluation.samples_per_source=4"]


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def study(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All ablations of the second stage, by one command."""
    folder = tmp_path_factory.mktemp("studies") / "study"
    overrides = [*TWO_STEPS, f"run.folder={folder}", "ablation=glob(*)"]
    assert main(["train", "--multirun", *prepared.overrides("posttrain", *overrides)]) == 0
    return folder


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_every_ablation_trains_on_what_it_leaves(study: Path, ablation: str) -> None:
    assert len(rows(study / ablation)) == 2
    mixture = json.loads((study / ablation / "mixture.json").read_text())
    assert {row["source"] for row in mixture} == {SOURCES[kind] for kind in KINDS if kind not in LEFT_OUT[ablation]}
    environments = {row["kind"]: row["environments"] for row in mixture}
    if ablation == "few_environments":
        assert environments == {"MM": 3, "HL": 3, "VI": 3, "ME": 4, "CE": 4, "WD": 4}
    else:
        assert set(environments.values()) == {4}


def test_ablations_draw_their_shared_sources_in_the_same_order(study: Path) -> None:
    orders: dict[str, set[str]] = {}
    for ablation in set(ABLATIONS) - {"few_environments"}:
        for row in json.loads((study / ablation / "mixture.json").read_text()):
            orders.setdefault(row["source"], set()).add(json.dumps(row["order"]))
    assert {source: len(found) for source, found in orders.items()} == dict.fromkeys(SOURCES.values(), 1)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains_at_the_demos_size(prepared: Workspace, tmp_path: Path, experiment: str) -> None:
    family = FAMILIES.get(experiment, "pi05")
    overrides = [
        *TWO_STEPS,
        f"experiment={experiment}",
        "model=demo",
        f"model.family={family}",
        f"run.folder={tmp_path}",
    ]
    overrides += ["mixture.without=[HL,WD,VI]"] if experiment.startswith("baseline") else []
    overrides += ["data.micro_batch_samples=3"]
    assert main(["train", *prepared.overrides("pretrain", *overrides)]) == 0
    assert len(rows(tmp_path)) == 2
    shipped = compose([f"experiment={experiment}", "data.root=/data"])
    assert read_config(tmp_path / "config.yaml").stage == shipped.stage


def test_a_study_is_evaluated_and_reported(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(study / "none"), str(study / "no_web")]) == 0
    assert main(["report", str(study), "--baseline", "no_web"]) == 0
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert last == str(study / "report.html")
    page = (study / "report.html").read_text()
    assert "Differences to the baseline, no_web" in page
    assert "few_environments and no_insulation, toy_mobile: rows differ" in page


def test_the_same_command_again_leaves_finished_variants_alone(study: Path, prepared: Workspace) -> None:
    before = (study / "none" / "metrics.jsonl").read_text()
    overrides = [*TWO_STEPS, f"run.folder={study}", "ablation=none,no_web"]
    assert main(["train", "--multirun", *prepared.overrides("posttrain", *overrides)]) == 0
    assert (study / "none" / "metrics.jsonl").read_text() == before


def test_sigterm_ends_the_study_and_the_same_command_goes_on_with_it(
    prepared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = prepared.overrides("posttrain", *TWO_STEPS, f"run.folder={tmp_path}", "ablation=none,no_web")

    def terminated(folder: RunFolder, row: dict[str, float | int]) -> None:
        write(folder, row)
        os.kill(os.getpid(), signal.SIGTERM)

    write = RunFolder.append_metrics
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", terminated)
        assert main(["train", "--multirun", *overrides]) == 130
    assert len(rows(tmp_path / "none")) == 1
    assert not (tmp_path / "no_web").exists()
    assert main(["train", "--multirun", *overrides]) == 0
    assert [len(rows(tmp_path / name)) for name in ("none", "no_web")] == [2, 2]


def test_a_second_stage_starts_from_its_namesake(study: Path, prepared: Workspace, tmp_path: Path) -> None:
    overrides = [*TWO_STEPS, f"run.folder={tmp_path}", "ablation=none,no_web", f"run.start_from={study}"]
    assert main(["train", "--multirun", *prepared.overrides("posttrain", *overrides)]) == 0
    assert f"start_from: {study / 'no_web'}" in (tmp_path / "no_web" / "config.yaml").read_text()


def test_a_baseline_belongs_to_a_study(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(study / "none"), "--baseline", "no_web"]) == 2
    assert "--baseline: got" in capsys.readouterr().err
