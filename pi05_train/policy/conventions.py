"""What weights from elsewhere expect around them: words, tokenizers, normalisation, the state in the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pi05_train.checkpoint.foreign.identify import Format
from pi05_train.checkpoint.foreign.lerobot_files import STATE_PROMPT, LerobotPolicy
from pi05_train.checkpoint.foreign.lerobot_reading import read_policy
from pi05_train.checkpoint.storage.own import WeightsFolder
from pi05_train.checkpoint.storage.place import local_path
from pi05_train.config.compose import compose_prompts
from pi05_train.config.convert import build
from pi05_train.config.schema import TokenizerConfig
from pi05_train.errors import UserError
from pi05_train.processing.templates import Templates
from pi05_train.samples.card import SourceCard

PUBLISHED: dict[str, tuple[str, ...]] = {
    "pi05": ("templates=openpi", "tokenizer.text=paligemma"),
    "pi0": ("templates=pi0", "tokenizer.text=paligemma"),
    "pi0_fast": (
        "templates=pi0_fast",
        "tokenizer.text=paligemma_pi0_fast",
        "tokenizer.fast_native_dims=true",
    ),
}
"""By family, how openpi's published weights are talked to."""
NETWORK, PROMPTS = ("model", "adaptation"), ("templates", "tokenizer")
"""What overrides may choose."""
NORMALISATION = {"pi05": "quantile", "pi0": "z_score", "pi0_fast": "quantile"}


@dataclass(frozen=True)
class Conventions:
    """How a network from elsewhere is talked to."""

    templates: Templates
    tokenizer: TokenizerConfig
    normalisation: str
    euler_steps: int = 10
    prompt_state_dim: int = 0
    """Numbers of the state in the prompt, zeros behind the robot's own; 0: its own alone."""


def conventions_of(
    family: str, overrides: Sequence[str], policy: LerobotPolicy | None, robot: SourceCard
) -> Conventions:
    """Those of openpi's published weights of the family, or what LeRobot's files say of a `policy` of its own.

    `overrides` of `templates` and `tokenizer` come first. Refuses (UserError) a robot that a LeRobot policy is not for.
    """
    if policy is not None:
        _check_robot(policy, robot)
    templates, tokenizer = compose_prompts(["tokenizer.fast=fast_universal", *PUBLISHED[family], *overrides])
    if policy is None:
        return Conventions(templates, tokenizer, NORMALISATION[family])
    if not names_group(overrides, "templates"):
        before, after = STATE_PROMPT if policy.prompt_state_dim else ("", "")
        low_level, separator = before + policy.task_text + after, "" if policy.prompt_state_dim else "\n"
        templates = replace(templates, low_level=low_level, low_level_separator=separator)
    return Conventions(templates, tokenizer, policy.normalisation, policy.euler_steps, policy.prompt_state_dim)


def lerobot_policy(where: str, format: Format) -> LerobotPolicy | None:
    """What LeRobot's files say of its policy, where that is one or was imported from one."""
    if format is Format.LEROBOT:
        return read_policy(local_path(where))
    if format is Format.WEIGHTS:
        found = WeightsFolder.open(local_path(where)).origin.get("lerobot")
        return None if found is None else build(LerobotPolicy, found, "lerobot")
    return None


def names_group(overrides: Sequence[str], *groups: str) -> bool:
    """Whether any override is of one of these groups."""
    return any(group_of(override) in groups for override in overrides)


def group_of(override: str) -> str:
    """The group that an override chooses or changes."""
    return override.partition("=")[0].partition(".")[0].lstrip("+~")


def check_overrides(where: str, format: Format, overrides: Sequence[str]) -> None:
    """Refuse (UserError) overrides that would change nothing: imported weights say which network they are."""
    groups = [*NETWORK, *PROMPTS] if format is not Format.WEIGHTS else [*PROMPTS]
    for override in overrides:
        if group_of(override) not in groups:
            raise UserError(f"{where}, overrides", got=override, expected=f"overrides of {groups}", do="leave it out")


def _check_robot(policy: LerobotPolicy, robot: SourceCard) -> None:
    """LeRobot's statistics are not padded, its actions never relative; pictures may be missing."""

    def require(good: bool, what: str, got: object, expected: str) -> None:
        if not good:
            where = f"source card {robot.name}, {what}"
            raise UserError(
                where, got=got, expected=f"{expected}, as the LeRobot policy has it", do="name another card"
            )

    require(robot.state_dim == policy.state_dim, "state_dim", robot.state_dim, str(policy.state_dim))
    require(robot.action_dim == policy.action_dim, "action_dim", robot.action_dim, str(policy.action_dim))
    require(not any(robot.delta_mask), "delta_mask", robot.delta_mask, "nothing relative")
    cameras = len(policy.cameras)
    require(len(robot.cameras) <= cameras, "cameras", robot.cameras, f"at most {cameras}")
