"""Combinations that cannot be right, refused before any accelerator time is spent."""

from __future__ import annotations

from pi05_train.checkpoint.config import check_checkpoint
from pi05_train.config.robots import read_robot
from pi05_train.config.run_parts import check_run_parts
from pi05_train.config.schema import Config
from pi05_train.errors import UserError
from pi05_train.model.adaptation import check_adaptation
from pi05_train.model.config import FAMILIES, ModelConfig
from pi05_train.samples.card import check_card
from pi05_train.samples.mixture_config import check_mixture
from pi05_train.samples.robot_card import check_agreement


def validate(config: Config) -> None:
    """Raise UserError on the first contradiction between fields."""
    check_run_parts(config.optimizer, config.schedule, config.engine, config.logger, config.run)
    check_checkpoint(config.checkpoint)
    check_adaptation(config.adaptation)
    check_model(config.model)
    _check_objective(config)
    _check_mixture(config)
    _check_batch_and_schedule(config)


def check_model(model: ModelConfig) -> None:
    """Refuse sizes no network can have."""
    vision = model.vision
    if vision.image_size % vision.patch_size:
        raise UserError(
            "model.vision.image_size",
            got=vision.image_size,
            expected=f"a multiple of model.vision.patch_size={vision.patch_size}",
            do="change one of them",
        )
    if vision.width % vision.heads:
        raise UserError(
            "model.vision.width",
            got=vision.width,
            expected=f"a multiple of model.vision.heads={vision.heads}",
            do="change one of them",
        )
    if model.family not in FAMILIES:
        raise UserError(
            "model.family", got=repr(model.family), expected="one of " + ", ".join(FAMILIES), do="change it"
        )
    if model.max_prompt_tokens < 1:
        raise UserError(
            "model.max_prompt_tokens", got=model.max_prompt_tokens, expected="at least 1", do="raise it (openpi: 200)"
        )
    if model.head_dim % 2:
        raise UserError(
            "model.head_dim", got=model.head_dim, expected="an even number (RoPE turns pairs)", do="change it"
        )
    if model.heads % model.kv_heads:
        raise UserError(
            "model.heads", got=model.heads, expected=f"a multiple of model.kv_heads={model.kv_heads}", do="change it"
        )


def _check_objective(config: Config) -> None:
    objective = config.stage.objective
    if objective.alpha < 0:
        raise UserError("stage.objective.alpha", got=objective.alpha, expected="0 or more", do="change it")
    if objective.alpha > 0 and not objective.expert:
        raise UserError(
            "stage.objective.alpha",
            got=f"{objective.alpha} without an action expert",
            expected="alpha=0 when stage.objective.expert=false",
            do="set stage.objective.expert=true, or alpha to 0",
        )
    if objective.insulation and not objective.expert:
        raise UserError(
            "stage.objective.insulation",
            got="true without an action expert",
            expected="false when stage.objective.expert=false",
            do="there is nothing to insulate; set it to false",
        )
    if config.model.family == "pi0_fast" and objective.expert:
        raise UserError(
            "model.family",
            got="pi0_fast with an action expert",
            expected="stage.objective.expert=false: pi0-FAST writes actions as tokens",
            do="use stage=pi0_fast, or another model",
        )
    if not objective.text and objective.alpha == 0:
        raise UserError(
            "stage.objective.text", got="false with alpha=0", expected="a loss", do="set text=true or alpha above 0"
        )
    if objective.flow_draws < 1:
        raise UserError("stage.objective.flow_draws", got=objective.flow_draws, expected="1 or more", do="change it")


def _check_mixture(config: Config) -> None:
    check_mixture(config.mixture)
    enabled = config.mixture.taking_part
    if not enabled:
        raise UserError(
            "mixture.sources",
            got="no enabled source" + (f" without kinds {config.mixture.without}" if config.mixture.without else ""),
            expected="at least one",
            do="enable a source",
        )
    for name, entry in enabled.items():
        check_card(entry.card)
        if entry.card.robot and entry.card.has_actions:
            check_agreement(read_robot(entry.card.robot), entry.card)
        if entry.card.name != name:
            raise UserError(
                f"mixture.sources.{name}.card.name",
                got=repr(entry.card.name),
                expected=f"{name!r}, the key it stands under",
                do="use the same name",
            )
        if not config.stage.objective.text and not entry.card.has_actions:
            raise UserError(
                f"mixture.sources.{name}",
                got=f"kind {entry.card.kind} in a stage without text",
                expected="sources with actions (MM, ME, CE): stage.objective.text=false trains nothing else",
                do=f"set mixture.sources.{name}.enabled=false",
            )
        if config.model.state_token and entry.card.state_dim > config.model.action_dim:
            raise UserError(
                f"mixture.sources.{name}.card.state_dim",
                got=entry.card.state_dim,
                expected=f"at most model.action_dim={config.model.action_dim}, the width of pi0's state token",
                do="choose a wider model",
            )
        if entry.card.action_dim > config.model.action_dim:
            raise UserError(
                f"mixture.sources.{name}.card.action_dim",
                got=entry.card.action_dim,
                expected=f"at most model.action_dim={config.model.action_dim}",
                do="choose a wider model",
            )
    if config.stage.objective.alpha > 0 and not any(entry.card.has_actions for entry in enabled.values()):
        raise UserError(
            "mixture.sources",
            got="no source with actions",
            expected="at least one of kind MM, ME or CE when stage.objective.alpha > 0",
            do="enable one, or set alpha to 0",
        )


def _check_batch_and_schedule(config: Config) -> None:
    data, schedule = config.data, config.schedule
    budgets = {name: getattr(data, name) for name in ("micro_batch_tokens", "micro_batch_images")}
    for name, budget in budgets.items():
        if budget is not None and budget < 1:
            raise UserError(f"data.{name}", got=budget, expected="null or at least 1", do="correct it")
    in_equal_numbers = all(budget is None for budget in budgets.values())
    if in_equal_numbers and (data.micro_batch_samples < 1 or data.global_batch_samples % data.micro_batch_samples):
        raise UserError(
            "data.global_batch_samples",
            got=data.global_batch_samples,
            expected=f"a multiple of data.micro_batch_samples={data.micro_batch_samples}",
            do="change one of them",
        )
    if data.read_group < 1 or data.global_batch_samples % data.read_group:
        raise UserError(
            "data.read_group",
            got=data.read_group,
            expected=f"a divisor of data.global_batch_samples={data.global_batch_samples}",
            do="change one of them",
        )
    if schedule.warmup_steps > config.run.steps:
        raise UserError(
            "schedule.warmup_steps",
            got=schedule.warmup_steps,
            expected=f"at most run.steps={config.run.steps}",
            do="shorten the warm-up",
        )
