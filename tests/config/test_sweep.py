"""A sweep becomes variants: a name, a configuration and a run folder each, all checked before the first begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from pi05_train.config.compose import compose
from pi05_train.config.sweep import Variant, multirun, variants
from pi05_train.data.order.phases import plan_phases
from pi05_train.errors import UserError
from pi05_train.resources import resource

ABLATIONS = sorted(path.stem for path in (resource("conf") / "ablation").glob("*.yaml"))
EXPERIMENTS = ["demo_pretrain", "demo_posttrain", "pi05_pretrain", "pi05_posttrain", "open_posttrain"]
DEMO = ["experiment=demo_posttrain", "run.folder=study"]


def names(*overrides: str) -> list[str]:
    return [variant.name for variant in variants([*DEMO, *overrides])]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_ablation_composes_on_every_sort_of_mixture_and_leaves_out_what_it_says(experiment: str) -> None:
    overrides = [f"experiment={experiment}", "run.folder=study", "data.root=/data", f"ablation={','.join(ABLATIONS)}"]
    found = {variant.name: variant.config.mixture for variant in variants(overrides)}
    assert sorted(found) == ABLATIONS
    whole = found["none"].taking_part
    assert whole == compose(overrides[:-1]).mixture.taking_part
    for mixture in found.values():
        kept = {name: entry for name, entry in whole.items() if entry.card.kind not in mixture.without}
        assert mixture.taking_part == kept
        rows = {name: 10 + place for place, name in enumerate(kept)}
        first = plan_phases(mixture, rows, global_batch=1, steps=0).phases[0]
        assert all(first.share(name) > 0 for name in kept), "shares of groups are whole again"


def test_an_ablation_of_ones_own_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "ablation").mkdir()
    mine = "# @package _global_\nmixture: {without: [ME, WD]}\nstage: {objective: {alpha: 5}}\n"
    (tmp_path / "ablation" / "mine.yaml").write_text(mine)
    _, variant = variants([*DEMO, "ablation=none,mine"], str(tmp_path))
    assert variant.config.mixture.taking_part.keys() == {"sim_fetch", "sim_subtasks", "sim_verbal"}
    assert variant.config.stage.objective.alpha == 5


def test_variants_are_named_by_what_is_swept_and_have_folders_of_their_own() -> None:
    assert names("ablation=none,no_web") == ["none", "no_web"]
    assert names("stage.objective.alpha=1,10") == ["alpha_1", "alpha_10"]
    assert names("ablation=none,no_web", "run.seed=0,1") == [
        "none+seed_0",
        "none+seed_1",
        "no_web+seed_0",
        "no_web+seed_1",
    ]
    assert names("mixture.sources.sim_web.weight=0.1,0.2", "mixture.sources.sim_verbal.weight=0.3,0.4")[0] == (
        "mixture.sources.sim_web.weight_0.1+mixture.sources.sim_verbal.weight_0.3"
    )
    assert names("mixture.filters.environments_of=[MM],[MM,HL]") == ["environments_of_-MM", "environments_of_-MM-HL"]
    (first, _) = variants([*DEMO, "ablation=none,no_web"])
    assert first.config.run.folder == "study/none"
    assert names("ablation=glob(no_*)") == [name for name in ABLATIONS if name.startswith("no_")]


def test_every_variant_starts_from_its_namesake_in_a_study_and_all_from_the_same_run(tmp_path: Path) -> None:
    def starts(folder: Path) -> list[str | None]:
        found = variants([*DEMO, "ablation=none,no_web", f"run.start_from={folder}"])
        return [variant.config.run.start_from for variant in found]

    assert starts(tmp_path) == [str(tmp_path)] * 2
    (tmp_path / "multirun.yaml").write_text("")
    assert starts(tmp_path) == [str(tmp_path / "none"), str(tmp_path / "no_web")]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["ablation=no_web"], "got nothing to sweep"),
        (["ablation=glob(nothing*)"], "got nothing to sweep"),
        (["run.folder=a,b"], r"got a sweep of run\.folder"),
        (["ablation=none,no_wed"], r"ablation: got 'no_wed', .*did you mean 'no_web'\?"),
        (["stage.objective.alpha=1,-1"], r"stage\.objective\.alpha: got -1\.0"),
        (["experiment=demo_pretrain,demo_posttrain"], "got 2 folders, .*set run.folder"),
        (["stage.objective.alpha=interval(0,1)"], "does not support sweep type"),
        (["ablation=none,("], "Hydra's key=value syntax"),
    ],
)
def test_a_study_is_refused_before_its_first_run(overrides: list[str], sentence: str) -> None:
    experiment = [] if overrides[0].startswith("experiment") else ["experiment=demo_posttrain"]
    with pytest.raises(UserError, match=sentence):
        variants([*experiment, *overrides])


def test_the_folder_of_a_run_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(UserError, match="got the folder of a run"):
        variants(["experiment=demo_posttrain", f"run.folder={tmp_path}", "ablation=none,no_web"])


def test_hydra_runs_what_was_announced_and_a_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    overrides = ["experiment=demo_posttrain", f"run.folder={tmp_path / 'study'}", "ablation=none,no_web,no_verbal"]
    done: list[Variant] = []

    def task(variant: Variant) -> None:
        done.append(variant)
        if variant.name == "no_web":
            raise UserError("this one", got="no luck", expected="some", do="try again")

    with pytest.raises(UserError, match="this one"):
        multirun(overrides, None, tmp_path / "study", task)
    assert done == variants(overrides)
    assert (tmp_path / "study" / "multirun.yaml").is_file()
