"""What lies beside the weights in a LeRobot policy folder: its configuration and processors.

Names and traps are those of LeRobot 0.4.4 (`lerobot/policies/{pi0,pi05}/`, `lerobot/processor/`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save

from pi05_train.checkpoint.foreign.lerobot_statistics import MODES, THEIR_EPSILON, Entry, tensors_of
from pi05_train.errors import UserError
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import CAMERAS

CONFIG, SIZES = "config.json", "pi05_train.json"
"""LeRobot's file, which refuses unknown keys, and ours with what has no place in it."""
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
TOKENIZER = "google/paligemma-3b-pt-224"
"""Fetched by LeRobot from the Hugging Face Hub, unless a tokenizer is passed to it."""
TOWERS = {"gemma_2b": TowerConfig(2048, 16384), "gemma_300m": TowerConfig(1024, 4096)}
"""The only sizes LeRobot builds, all with 18 layers, 8 heads of 256, and So400m/14 as vision tower."""
VOCABULARY = 257_152
STATE_PROMPT = ("Task: ", ", State: {state};\nAction: ")
"""What LeRobot's pi05 step writes around the task."""

IMAGES = "observation.images."
STATE_STEP, _BARE_STEP = "pi05_prepare_state_tokenizer_processor_step", "pi0_new_line_processor"
STATE_STEP_DIM = 32
"""What LeRobot's prompt step pads the state to where its saved configuration does not say."""

Json = dict[str, Any]


@dataclass(frozen=True)
class LerobotPolicy:
    """A pi0 or pi0.5 policy as LeRobot describes it: what its files say, beside weights and statistics."""

    model: ModelConfig
    cameras: tuple[str, ...]
    """In the order of their tokens; LeRobot's features are `observation.images.<camera>`."""
    state_dim: int
    action_dim: int
    normalisation: str
    """"quantile" or "z_score"."""
    prompt_state_dim: int
    """How many numbers of the state pi0.5's prompt holds; 0: none. LeRobot's own policies hold 32, zeros behind the
    normalised state; in ours it is `state_dim`."""
    task_text: str = "{task}"
    """What must be given to LeRobot as the task, where the prompt was trained with more than the task in that place."""
    euler_steps: int = 10
    dtype: str = "float32"
    """Of the weights, once LeRobot has loaded them: "float32" or "bfloat16"."""


def policy_of(
    model: ModelConfig,
    card: SourceCard,
    *,
    normalisation: str,
    low_level: str,
    separator: str,
    euler_steps: int,
    dtype: str = "float32",
    control_mode: str | None = None,
) -> LerobotPolicy:
    """The policy that serves one of our sources.

    `low_level`, `separator` and `control_mode` are the templates of its prompt. Refuses what LeRobot has no way to do:
    another family, relative actions, another prompt, another dtype.
    """
    where = f"LeRobot export of source {card.name}"
    if model.family not in ("pi0", "pi05"):
        raise UserError(f"{where}, model.family", got=model.family, expected="pi05 or pi0", do="choose another format")
    if not card.has_actions:
        raise UserError(f"{where}, kind", got=card.kind, expected="a source with actions", do="name another source")
    if any(card.delta_mask):
        raise UserError(
            f"{where}, delta_mask",
            got=f"actions relative to the state in {sum(card.delta_mask)} dimensions",
            expected="absolute actions: LeRobot 0.4.4 cannot add the state after unnormalising",
            do="export for openpi, or train on absolute actions",
        )
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"{where}, dtype", got=dtype, expected="float32 or bfloat16", do="choose one of them")
    if control_mode is not None:
        low_level = low_level.replace("{control_mode}", control_mode.replace("{control_mode}", card.control_mode))
    task_text, state = _task_text(where, low_level, separator, model.family)
    cameras = tuple(camera for camera in CAMERAS if camera in card.cameras)
    dims = (card.state_dim, card.action_dim)
    prompt_state = card.state_dim if state else 0
    return LerobotPolicy(model, cameras, *dims, normalisation, prompt_state, task_text, euler_steps, dtype)


def limits(policy: LerobotPolicy) -> list[str]:
    """Sentences for a person: what LeRobot does not do by itself with this policy."""
    size = policy.model.vision.image_size
    found = [
        "LeRobot 0.4.4 pads pictures that are not square with -3 instead of black (-1), and shrinks them without "
        f"smoothing: hand it pictures of {size}x{size}, resized with black borders.",
    ]
    if replace(published_model(_config(policy)), name=policy.model.name) != policy.model:
        found.append(
            "LeRobot builds only the published network sizes: this network loads once its size presets are replaced "
            f"by those in {SIZES}."
        )
    if policy.model.vocab_size != VOCABULARY:
        found.append(
            "The vocabulary is not PaliGemma's: hand LeRobot's `tokenizer_processor` this network's tokenizer."
        )
    if policy.task_text != "{task}":
        found.append(f"The prompt was trained with more than the task: give `{policy.task_text}` as the task.")
    if 0 < policy.prompt_state_dim < STATE_STEP_DIM:
        found.append(
            "LeRobot 0.4.4 forgets `max_state_dim` of its prompt step when it saves the processors: set it anew, or "
            f"the prompt will hold {STATE_STEP_DIM} numbers of state instead of {policy.prompt_state_dim}."
        )
    if policy.model.state_token or not policy.prompt_state_dim:
        found.append("LeRobot does not clean the task: hand it over without underscores, newlines and outer spaces.")
    return found


def policy_files(policy: LerobotPolicy) -> dict[str, Json]:
    """The JSON files of the folder by name: LeRobot's three, and ours."""
    return {
        CONFIG: _config(policy),
        PREPROCESSOR: {"name": Path(PREPROCESSOR).stem, "steps": _steps_in(policy)},
        POSTPROCESSOR: {"name": Path(POSTPROCESSOR).stem, "steps": _steps_out(policy)},
        SIZES: {"model": asdict(policy.model), "task_text": policy.task_text},
    }


def write_policy(folder: Path, policy: LerobotPolicy, statistics: Mapping[str, Entry]) -> None:
    """Write all of the folder but `model.safetensors` and the model card.

    `statistics` ("state", "actions") are those of training, so with their tiny ranges floored.
    """
    files = policy_files(policy)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    for name, inverse in ((PREPROCESSOR, False), (POSTPROCESSOR, True)):
        # Not `save_file`: its files are for their owner's eyes only.
        (folder / state_file(files[name])).write_bytes(save(tensors_of(statistics, inverse=inverse)))


def _task_text(where: str, low_level: str, separator: str, family: str) -> tuple[str, bool]:
    """What stands where LeRobot puts the task, and whether the state follows it."""
    before, after = STATE_PROMPT
    if family == "pi05" and not separator and low_level.startswith(before) and low_level.endswith(after):
        text, state = low_level.removeprefix(before).removesuffix(after), True
    else:
        text, state = low_level, False
    if "{state}" in text or (not state and separator != "\n"):
        raise UserError(
            f"{where}, templates.low_level",
            got=repr(low_level + separator),
            expected=f"{before + '...' + after!r} (pi05 only) or '...\\n', the prompts that LeRobot writes",
            do="choose another format",
        )
    return text, state


def published_model(config: Json) -> ModelConfig:
    """The network LeRobot builds from a configuration."""
    return ModelConfig(
        name=str(config["type"]),
        vision=VisionConfig(int(config["image_resolution"][0]), 14, 1152, 27, 4304, 16),
        backbone=TOWERS[config["paligemma_variant"]],
        expert=TOWERS[config["action_expert_variant"]],
        depth=18,
        heads=8,
        kv_heads=1,
        head_dim=256,
        vocab_size=VOCABULARY,
        action_dim=int(config["max_action_dim"]),
        action_horizon=int(config["chunk_size"]),
        family=str(config["type"]),
        max_prompt_tokens=int(config["tokenizer_max_length"]),
    )


def _variant(tower: TowerConfig, otherwise: str) -> str:
    return next((name for name, size in TOWERS.items() if size == tower), otherwise)


def _config(policy: LerobotPolicy) -> Json:
    model, size = policy.model, policy.model.vision.image_size
    features = _features(policy)
    return {
        "type": model.family,
        "n_obs_steps": 1,
        "input_features": {name: feature for name, feature in features.items() if name != "action"},
        "output_features": {"action": features["action"]},
        "device": "cpu",
        "paligemma_variant": _variant(model.backbone, "gemma_2b"),
        "action_expert_variant": _variant(model.expert, "gemma_300m"),
        "dtype": policy.dtype,
        "chunk_size": model.action_horizon,
        "n_action_steps": model.action_horizon,
        # pi0 projects a state of this width; pi05 fills the state in its prompt up to it, which openpi does not.
        "max_state_dim": model.action_dim if model.state_token else policy.prompt_state_dim or policy.state_dim,
        "max_action_dim": model.action_dim,
        "num_inference_steps": policy.euler_steps,
        "image_resolution": [size, size],
        "tokenizer_max_length": model.max_prompt_tokens,
        "normalization_mapping": _norm_map(policy),
    }


def _features(policy: LerobotPolicy) -> dict[str, Json]:
    size = policy.model.vision.image_size
    cameras = {f"{IMAGES}{camera}": {"type": "VISUAL", "shape": [3, size, size]} for camera in policy.cameras}
    state = {"type": "STATE", "shape": [policy.state_dim]}
    return {**cameras, "observation.state": state, "action": {"type": "ACTION", "shape": [policy.action_dim]}}


def _norm_map(policy: LerobotPolicy) -> dict[str, str]:
    mode = MODES[policy.normalisation]
    return {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}


def _steps_in(policy: LerobotPolicy) -> list[Json]:
    """LeRobot's own steps, in an order that serves both families: normalised before it is written into the prompt."""
    tokenizer = {"tokenizer_name": TOKENIZER, "max_length": policy.model.max_prompt_tokens, "task_key": "task"}
    padding = {"padding_side": "right", "padding": "max_length", "truncation": True}
    prompt = _step(_BARE_STEP)
    if policy.prompt_state_dim:
        prompt = _step(STATE_STEP, max_state_dim=policy.prompt_state_dim)
    return [
        _step("rename_observations_processor", rename_map={}),
        _step("to_batch_processor"),
        _normaliser("normalizer_processor", PREPROCESSOR, 2, _features(policy), _norm_map(policy)),
        prompt,
        _step("tokenizer_processor", **tokenizer, **padding),
        _step("device_processor", device="cpu", float_dtype=None),
    ]


def _steps_out(policy: LerobotPolicy) -> list[Json]:
    action = {"action": _features(policy)["action"]}
    return [
        _normaliser("unnormalizer_processor", POSTPROCESSOR, 0, action, _norm_map(policy)),
        _step("device_processor", device="cpu", float_dtype=None),
    ]


def _step(name: str, **config: Any) -> Json:
    return {"registry_name": name, "config": config}


def _normaliser(name: str, file: str, place: int, features: Json, norm_map: dict[str, str]) -> Json:
    state_file = f"{Path(file).stem}_step_{place}_{name}.safetensors"
    return _step(name, eps=THEIR_EPSILON, features=features, norm_map=norm_map) | {"state_file": state_file}


def state_file(pipeline: Json) -> str:
    """The name of a pipeline's file of statistics; "" without one."""
    return next((str(step["state_file"]) for step in pipeline["steps"] if "state_file" in step), "")
