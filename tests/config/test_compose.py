"""Every shipped experiment composes and validates; a typo is one sentence naming the nearest key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pi05_train.config.compose import compose, compose_model, read_config, to_yaml
from pi05_train.config.schema import Config
from pi05_train.config.validate import validate
from pi05_train.data.order.phases import plan_phases
from pi05_train.errors import UserError
from pi05_train.processing.templates import Templates
from pi05_train.resources import resource
from pi05_train.samples.mixture_config import GroupEntry, PowerWeight

EXPERIMENTS = sorted(path.stem for path in (resource("conf") / "experiment").glob("*.yaml"))
STAGES = sorted(path.stem for path in (resource("conf") / "stage").glob("*.yaml"))
SOURCES = sorted(
    path.stem
    for path in (resource("data_mixtures") / "source").glob("*.yaml")
    if not path.stem.startswith("open_")  # they are all in the open experiments: tests/commands/test_open_mixture.py
)
DATA = "data.root=/data"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_validates(experiment: str) -> None:
    validate(compose([f"experiment={experiment}", DATA]))


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_composes_with_the_full_model(stage: str) -> None:
    overrides = ["experiment=pi05_posttrain", "mixture=paper_actions", f"stage={stage}", DATA]
    assert compose(overrides).stage.name == stage


@pytest.mark.parametrize("source", SOURCES)
def test_every_card_fits_a_mixture(source: str) -> None:
    extra = [f"+source@mixture.sources.{source}.card={source}", f"+mixture.sources.{source}.weight=0.1"]
    shipped = compose(["experiment=pi05_pretrain", DATA]).mixture.sources
    config = compose(["experiment=pi05_pretrain", DATA, *([] if source in shipped else extra)])
    assert config.mixture.sources[source].card.name == source


def shares(config: Config) -> dict[str, float]:
    """Of the examples at the first step, whatever the sources' sizes."""
    rows = {name: 10 + i for i, name in enumerate(config.mixture.sources)}
    first = plan_phases(config.mixture, rows, global_batch=1, steps=0).phases[0]
    return {name: first.share(name) for name in rows}


def test_the_paper_numbers_are_the_papers() -> None:
    pretrain = compose(["experiment=pi05_pretrain", DATA])
    posttrain = compose(["experiment=pi05_posttrain", DATA])
    assert (pretrain.run.steps, pretrain.stage.objective.alpha, pretrain.stage.objective.expert) == (280_000, 0, False)
    assert (posttrain.run.steps, posttrain.stage.objective.alpha) == (80_000, 10)
    assert posttrain.stage.objective.insulation
    assert shares(pretrain) == pytest.approx(
        {
            "paper_mobile": 0.024,
            "paper_homes": 0.276,
            "paper_laboratory": 0.40,
            "paper_subtasks": 0.10,
            "paper_web": 0.20,
        }
    )
    assert shares(posttrain) == pytest.approx(
        {
            "paper_mobile": 0.30,
            "paper_homes": 0.30,
            "paper_subtasks": 0.178,
            "paper_verbal": 0.022,  # 11 % of subtasks + verbal
            "paper_web": 0.20,
        }
    )
    high = posttrain.mixture.sources
    assert "CE" not in {entry.card.kind for entry in high.values()}


def test_paper_and_insulation_presets_differ_as_the_papers_do() -> None:
    paper = compose(["experiment=pi05_posttrain", "stage=paper_pi05", DATA]).stage.objective
    insulation = compose(["experiment=pi05_posttrain", "stage=knowledge_insulation", DATA]).stage.objective
    assert (paper.alpha, paper.insulation) == (10, False)
    assert (insulation.alpha, insulation.insulation) == (1, True)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optimizer.learning_rat=1e-3", r"optimizer\.learning_rat: .*did you mean 'learning_rate'"),
        ("experiment=demo_pretrian", r"experiment: .*did you mean 'demo_pretrain'"),
        ("mixture.sources.sim_wib.enabled=false", r"sim_wib.*did you mean 'sim_web'"),
        ("stagee=pretrain", r"stagee: .*did you mean 'stage'"),
        ("+optimizer.momentum=0.9", r"optimizer\.momentum: got an unknown key"),
        ("run.steps=many", r"run\.steps: got 'many', expected a value of type int"),
        ("data.micro_batch_samples=5", r"data\.global_batch_samples: got 32, expected a multiple"),
        ("data.read_group=5", r"data\.read_group: got 5, expected a divisor of data\.global_batch_samples=32"),
        ("data.read_group=0", r"data\.read_group: got 0, expected a divisor"),
        ("data.micro_batch_tokens=0", r"data\.micro_batch_tokens: got 0, expected null or at least 1"),
        ("data.micro_batch_images=-1", r"data\.micro_batch_images: got -1, expected null or at least 1"),
        ("stage.objective.alpha=10", r"stage\.objective\.alpha: got 10\.0 without an action expert"),
        ("mixture.sources.sim_web.weight=0", r"sim_web\.weight: got 0\.0, expected a positive share"),
        ("model.action_dim=7", r"action_dim: got 14, expected at most model\.action_dim=7"),
        ("run.steps=3", r"schedule\.warmup_steps: got 30, expected at most run\.steps=3"),
        ("run.folder=???", r"run\.folder"),
        ("stage=pi0", r"mixture\.sources\.\w+: got kind \w+ in a stage without text"),
        ("stage.objective.text=false", r"stage\.objective\.text: got false with alpha=0"),
        ("model.family=pi1", r"model\.family: got 'pi1', expected one of pi05, pi0, pi0_fast"),
        ("data.normalisation=minmax", r"data\.normalisation: got 'minmax', expected one of quantile, z_score"),
    ],
)
def test_bad_overrides_are_refused_in_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        compose(["experiment=demo_pretrain", override])
    assert re.search(sentence, str(refused.value)), str(refused.value)
    assert "\n" not in str(refused.value)


def test_template_presets_differ_where_the_paper_does() -> None:
    openpi, paper = (
        compose(["experiment=demo_pretrain", f"templates={name}"]).templates for name in ("openpi", "paper")
    )
    assert openpi == Templates()
    assert "{control_mode}" in paper.low_level
    assert paper.low_level_end == openpi.low_level_end


def test_a_network_is_composed_without_a_run() -> None:
    model, adaptation = compose_model(["model=pi0", "model.action_horizon=10", "adaptation=openpi_lora"])
    assert (model.family, model.action_horizon, model.depth) == ("pi0", 10, 18)
    assert adaptation.lora
    with pytest.raises(UserError, match=r"model\.width: got an unknown key"):
        compose_model(["model.width=3"])


def test_weights_groups_and_phases_are_written_as_the_guide_says() -> None:
    overrides = [
        "mixture.sources.sim_web.weight={power: 0.43}",
        "mixture.sources.sim_web.on_exhaust=drop",
        "mixture.sources.sim_web.max_epochs=3",
        "mixture.groups.WD={share: 0.1}",
        "mixture.phases.cooldown={from_step: 400, weights: {sim_aloha: 0, sim_web: {power: 0.5, rows: 1000}}}",
    ]
    mixture = compose(["experiment=demo_pretrain", *(f"++{override}" for override in overrides)]).mixture
    web = mixture.sources["sim_web"]
    assert (web.weight, web.on_exhaust, web.max_epochs) == (PowerWeight(0.43), "drop", 3.0)
    assert mixture.groups == {"WD": GroupEntry(share=0.1)}
    assert mixture.phases["cooldown"].weights == {"sim_aloha": 0.0, "sim_web": PowerWeight(0.5, rows=1000)}
    back = compose(["experiment=pi05_pretrain", DATA, "mixture.sources.paper_web.weight=0.2"]).mixture
    assert back.sources["paper_web"].weight == 0.2


def test_an_ablation_is_one_override() -> None:
    config = compose(["experiment=demo_pretrain", "mixture.sources.sim_web.enabled=false"])
    assert not config.mixture.sources["sim_web"].enabled


def test_the_resolved_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = compose(["experiment=demo_posttrain"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_config(tmp_path / "config.yaml") == config


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.yaml"):
        read_config(tmp_path / "config.yaml")
