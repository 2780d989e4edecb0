"""Policies from a run folder, and from weights that come from elsewhere; without shards, engine or trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from pi05_train.checkpoint.foreign.formats import infer_sizes, our_view
from pi05_train.checkpoint.foreign.identify import Format, identify, open_source
from pi05_train.checkpoint.foreign.importing import beside, config_beside
from pi05_train.checkpoint.foreign.lerobot_files import LerobotPolicy
from pi05_train.checkpoint.storage.assets import STATISTICS
from pi05_train.checkpoint.storage.own import WeightsFolder
from pi05_train.checkpoint.storage.source import TensorSource
from pi05_train.checkpoint.weights import load_weights
from pi05_train.config.build import build_processor, run_statistics
from pi05_train.config.compose import compose_model, read_config
from pi05_train.config.convert import build
from pi05_train.errors import UserError
from pi05_train.model.adaptation import AdaptationConfig
from pi05_train.model.config import ModelConfig
from pi05_train.model.half import to_bfloat16
from pi05_train.model.init import NoDraws
from pi05_train.model.lora import adapt, apply_lora
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.conventions import (
    NETWORK,
    check_overrides,
    conventions_of,
    group_of,
    lerobot_policy,
    names_group,
)
from pi05_train.policy.policy import Policy
from pi05_train.processing.normalisation import NormStats, parse_norm_stats
from pi05_train.processing.processor import Processor
from pi05_train.samples.card import SourceCard
from pi05_train.tokenization.tokens import Tokens


def load_policy(run: Path, *, ema: bool, device: str = "cpu", bfloat16: bool = False, compiled: bool = False) -> Policy:
    """The newest checkpoint of a run folder, or one of its checkpoint folders, with averaged (`ema`) or raw weights."""
    folder = run_folder(run)
    config = read_config(folder / "config.yaml")
    processor = build_processor(config, run_statistics(folder))
    model = Pi05(config.model, expert=config.stage.objective.expert)
    adapt(model, config.adaptation)
    load_weights(run, model, ema=ema)
    if bfloat16:
        to_bfloat16(model)
    return _policy(model.to(device), processor, config.evaluation.euler_steps, compiled=compiled)


def load_foreign_policy(
    where: str,
    robot: SourceCard,
    overrides: Sequence[str] = (),
    *,
    asset: str | None = None,
    euler_steps: int | None = None,
    device: str = "cpu",
    bfloat16: bool = False,
    compiled: bool = False,
) -> Policy:
    """A policy from openpi's or LeRobot's checkpoint, or from a weights folder made of one, for the robot of a card.

    `overrides` choose `model`, `adaptation`, `templates` and `tokenizer` where they are not those of openpi's published
    weights; a weights folder and LeRobot's say themselves which network it is. `asset` names the statistics below
    `assets/`; None: there is one. `euler_steps` None: as LeRobot's folder says, or 10. Tensors go to the device one at
    a time.
    """
    format = identify(where)
    check_overrides(where, format, overrides)
    told = lerobot_policy(where, format)
    config, adaptation, expert, source = _opened(where, overrides, told)
    check_acts(where, config.family, expert=expert)
    around = conventions_of(config.family, overrides, told, robot)
    tokenizer = around.tokenizer
    processor = Processor(
        model=config,
        cards={robot.name: robot},
        statistics={robot.name: _statistics(where, asset)},
        tokens=Tokens.load(tokenizer.text, tokenizer.fast, native_dims=tokenizer.fast_native_dims),
        templates=around.templates,
        augmentation=None,
        stage_has_expert=expert,
        normalisation=around.normalisation,
        prompt_state_dim=around.prompt_state_dim,
        padded_dims_trained=True,  # openpi and LeRobot sample all dims, whatever the robot has
    )
    model = _filled(config, adaptation, source.read, expert=expert, device=device, bfloat16=bfloat16)
    return _policy(model, processor, euler_steps or around.euler_steps, compiled=compiled)


def run_folder(path: Path) -> Path:
    """The run folder that is meant by a path: itself, or that of a checkpoint folder."""
    return path.resolve().parent.parent if path.name.startswith("step-") else path


def check_acts(where: str, family: str, *, expert: bool) -> None:
    """Refuse (UserError) weights that no robot should be moved by.

    pi0-FAST was made to act by writing. pi0.5 writes actions in pre-training to learn from them; it acts by its expert.
    """
    if not expert and family != "pi0_fast":
        got, expected = "a network without an action expert", "one with it, or pi0-FAST"
        raise UserError(where, got=got, expected=expected, do="post-train it")


def _policy(model: Pi05, processor: Processor, euler_steps: int, *, compiled: bool) -> Policy:
    """Recorded CUDA graphs need variable-length attention, which is for half precision."""
    if compiled:
        model.compile_inference()
    weight = model.embedding.weight
    graphs = weight.is_cuda and weight.dtype == torch.bfloat16
    return Policy(model.eval(), processor, euler_steps=euler_steps, graphs=graphs)


def _opened(
    where: str, overrides: Sequence[str], policy: LerobotPolicy | None
) -> tuple[ModelConfig, AdaptationConfig, bool, TensorSource]:
    """Network, LoRA, whether it has an expert, and tensors under our names."""
    format, source = open_source(where)
    if format is Format.RUN:
        raise UserError(
            f"checkpoint {where}", got="a run's", expected="another program's, or imported weights", do="load the run"
        )
    if format is Format.WEIGHTS:
        folder = WeightsFolder.open(Path(where))
        model = build(ModelConfig, folder.model["model"], "model")
        adaptation = build(AdaptationConfig, folder.model["adaptation"], "adaptation")
        return model, adaptation, bool(folder.model["expert"]), folder.source
    chosen = [part for part in overrides if group_of(part) in NETWORK]
    model, adaptation = compose_model(["model=pi05", *chosen])
    if policy is not None and not names_group(overrides, "model"):
        model = policy.model
    config_json = config_beside(where)
    expert = infer_sizes(source, format, config_json).expert
    view = our_view(source, format, model, expert=expert, adaptation=adaptation, config_json=config_json)
    return model, adaptation, expert, view


def _filled(
    config: ModelConfig,
    adaptation: AdaptationConfig,
    read: Callable[[str], torch.Tensor],
    *,
    expert: bool,
    device: str,
    bfloat16: bool,
) -> Pi05:
    """The network on its device, never on the CPU as a whole."""
    with torch.device("meta"), NoDraws():
        model = Pi05(config, expert=expert)
        apply_lora(model, adaptation.lora)
    if bfloat16:
        to_bfloat16(model)
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(read(name))
    return model


def _statistics(where: str, asset: str | None) -> dict[str, NormStats]:
    files, _, _ = beside(where, identify(where))
    names = [path.removesuffix(f"/{STATISTICS}") for path in files]
    if asset not in names and not (asset is None and len(names) == 1):
        raise UserError(
            f"statistics of {where}",
            got=repr(asset) if asset is not None else f"{len(names)} of them",
            expected=f"one of {names}",
            do="name one" if names else "put a robot's norm_stats.json into assets/NAME/ beside the weights",
        )
    path = f"{asset or names[0]}/{STATISTICS}"
    return parse_norm_stats(files[path], f"{where}/assets/{path}")
