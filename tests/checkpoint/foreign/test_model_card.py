"""The model card tells what a person needs to trust and load exported weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
import yaml

from pi05_train.checkpoint.foreign.model_card import FORMATS, GEMMA_NOTICE, Exported, model_card
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig

MODEL = asdict(
    ModelConfig(
        "pi05", VisionConfig(224, 14, 1152, 27, 4304, 16), TowerConfig(2048, 16384), TowerConfig(1024, 4096),
        18, 8, 1, 256, 257152, 32, 50,
    )
)  # fmt: skip


def card_of(kind: str, **changes: Any) -> dict[str, Any]:
    described = {
        "kind": kind, "embodiment": "sawyer", "cameras": ["base_0_rgb", "right_wrist_0_rgb"], "state_dim": 4,
        "action_dim": 4, "rate_hz": 16.0, "delta_mask": [], "licence": "CC BY 4.0",
    }  # fmt: skip
    return {**described, **changes}


CONFIG: dict[str, Any] = {
    "run": {"steps": 600, "seed": 0, "start_from": "runs/demo/pretrain"},
    "stage": {"name": "posttrain", "objective": {"alpha": 10.0, "insulation": True, "expert": True, "flow_draws": 8}},
    "mixture": {
        "sources": {
            "arm": {"card": card_of("ME"), "weight": 3.0, "enabled": True},
            "web": {"card": card_of("WD", licence="CC0 | CC BY\n2.0"), "weight": 1.0, "enabled": True},
            "off": {"card": card_of("VI"), "weight": 5.0, "enabled": False},
        },
        "filters": {"split": "train", "environments": None},
    },
    "templates": {"low_level": "Task: {task}, State: {state};\nAction: ", "low_level_separator": ""},
    "data": {"global_batch_samples": 32, "normalisation": "quantile"},
    "optimizer": {"name": "adamw", "learning_rate": 0.002, "ema_decay": 0.95},
    "schedule": {"name": "warmup_cosine"},
    "engine": {"precision": "bf16"},
    "adaptation": {"lora": [], "freeze": []},
}
VERSIONS = [
    {"pi05_train": "0.1.0", "torch": "2.13.0", "git_commit": "68633340", "git_diff": "none"},
    {"pi05_train": "0.2.0", "torch": "2.13.0", "git_commit": "12345678", "git_diff": "none"},
]
EXPORTED = Exported(
    name="tabletop", format="lerobot", weights="averaged", dtype="float32", model=MODEL, source="arm", step=600,
    config=CONFIG, versions=VERSIONS, limits=["It cannot dance."],
)  # fmt: skip


def rows(card: str, section: str) -> list[list[str]]:
    """The cells of the table in a section, without its head."""
    lines = card.split(f"\n## {section}\n")[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    return cells[2:]


def settings(card: str, section: str) -> dict[str, str]:
    return {row[0]: row[1] for row in rows(card, section)}


def with_config(**changes: Any) -> Exported:
    return replace(EXPORTED, config={**CONFIG, **changes})


def code(card: str) -> Sequence[str]:
    return [block.split("```")[0] for block in card.split("```python\n")[1:]]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("family", ["pi05", "pi0", "pi0_fast"])
def test_every_format_says_how_to_load(format: str, family: str) -> None:
    card = model_card(replace(EXPORTED, format=format, model={**MODEL, "family": family}))
    (block,) = code(card)
    compile(block, "how to load", "exec")
    assert "{" not in block.replace('{"device_processor": {"device": ', "")


def test_the_front_matter_is_hugging_faces() -> None:
    _, front, _ = model_card(EXPORTED).split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["license"] == "gemma"
    assert fields["library_name"] == "lerobot"
    assert {"robotics", "pi05"} <= set(fields["tags"])


def test_weights_trained_from_nothing_are_under_no_gemma_terms() -> None:
    card = model_card(replace(EXPORTED, gemma=False))
    assert "license" not in yaml.safe_load(card.split("---\n", 2)[1])
    assert GEMMA_NOTICE not in card
    assert GEMMA_NOTICE in model_card(EXPORTED)


def test_the_recipe_is_the_runs() -> None:
    found = settings(model_card(EXPORTED), "Recipe")
    assert found["stage"] == "posttrain"
    assert found["flow loss, alpha"] == "10.0"
    assert found["knowledge insulation"] == "yes"
    assert found["flow loss over padded dimensions"] == "no"
    assert found["started from"] == "runs/demo/pretrain"
    assert found["low-level prompt"] == "`'Task: {task}, State: {state};\\nAction: '`"


def test_a_stage_without_expert_has_no_flow_loss_and_nothing_to_insulate() -> None:
    objective = {"alpha": 0.0, "insulation": True, "expert": False}
    found = settings(model_card(with_config(stage={"name": "pretrain", "objective": objective})), "Recipe")
    assert found["flow loss, alpha"] == "none: no action expert"
    assert found["knowledge insulation"] == "no"


def test_shares_are_of_the_enabled_sources_and_no_cell_breaks_the_table() -> None:
    table = rows(model_card(EXPORTED), "Mixture")
    assert [row[:3] for row in table] == [["arm", "ME", "75.0 %"], ["web", "WD", "25.0 %"]]
    assert table[1][-1] == "CC0 \\| CC BY 2.0"
    assert "Filters: split train." in model_card(EXPORTED)


def test_weights_say_which_and_at_which_step() -> None:
    found = settings(model_card(EXPORTED), "Weights")
    assert found["weights"] == "averaged over the steps, decay 0.95"
    assert found["step"] == "600"
    assert settings(model_card(replace(EXPORTED, weights="raw")), "Weights")["weights"] == "raw"


def test_normalisation_names_formula_source_and_relative_dimensions() -> None:
    card = model_card(EXPORTED)
    assert "(x - q01) / (q99 - q01 + 1e-6) * 2 - 1" in card
    assert "`arm`" in card
    assert "relative to the state" not in card
    mixture = {"sources": {"arm": {"card": card_of("ME", delta_mask=[True, False, True]), "weight": 1.0}}}
    card = model_card(with_config(mixture=mixture, data={"global_batch_samples": 32, "normalisation": "z_score"}))
    assert "(x - mean) / (std + 1e-6)" in card
    assert "Action dimensions 0, 2 are relative" in card


def test_versions_of_all_the_code_that_worked_on_it() -> None:
    assert [row[0] for row in rows(model_card(EXPORTED), "Versions")] == ["0.1.0", "0.2.0"]


def test_limits_are_passed_on() -> None:
    assert "- It cannot dance.\n" in model_card(EXPORTED)
    assert "## Limits" not in model_card(replace(EXPORTED, limits=[]))


def test_openpi_is_told_of_a_prompt_without_state() -> None:
    without = {"low_level": "{task}", "low_level_separator": "\n"}
    (with_state,) = code(model_card(replace(EXPORTED, format="openpi")))
    (bare,) = code(model_card(replace(with_config(templates=without), format="openpi")))
    assert "discrete_state_input=False" in bare
    assert "discrete_state_input" not in with_state
    assert "pi05=True" in with_state


def test_weights_without_a_run_tell_their_origin() -> None:
    imported = Exported(
        name="pi05_droid", format="openpi_torch", weights="as published", dtype="bfloat16", model=MODEL,
        origin={"path": "gs://bucket/pi05_droid", "format": "openpi"},
    )  # fmt: skip
    card = model_card(imported)
    assert settings(card, "Weights")["origin: path"] == "gs://bucket/pi05_droid"
    assert "step" not in settings(card, "Weights")
    assert all(f"## {section}" not in card for section in ("Recipe", "Mixture", "Versions", "Normalisation"))
    assert "(x - mean) / (std + 1e-6)" in model_card(replace(imported, normalisation="z_score"))
