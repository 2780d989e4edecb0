"""A LeRobot policy folder, its own or ours: what it says beside its weights, and its statistics in openpi's form."""

from __future__ import annotations

import json
from pathlib import Path

from pi05_train.checkpoint.foreign.lerobot_files import (
    CONFIG,
    IMAGES,
    POSTPROCESSOR,
    PREPROCESSOR,
    SIZES,
    STATE_STEP,
    STATE_STEP_DIM,
    TOWERS,
    Json,
    LerobotPolicy,
    published_model,
    state_file,
)
from pi05_train.checkpoint.foreign.lerobot_statistics import entry_of, kind_of
from pi05_train.errors import UserError
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig

_FIXED: Json = {"n_obs_steps": 1, "use_peft": False, "min_period": 4e-3, "max_period": 4.0, "rtc_config": None}
"""What the network or its sampler here would otherwise compute differently."""


def read_policy(folder: Path) -> LerobotPolicy:
    """What a LeRobot policy folder says, its own or ours; what this code could not run the same way is refused."""
    config = _read_json(folder / CONFIG)
    ours = _read_json(folder / SIZES) if (folder / SIZES).is_file() else {}
    try:
        _check_config(folder, config)
        inputs: dict[str, Json] = config["input_features"]
        pictures = [name.removeprefix(IMAGES) for name, feature in inputs.items() if feature["type"] == "VISUAL"]
        return LerobotPolicy(
            model=_model(ours["model"]) if ours else published_model(config),
            cameras=tuple(name for name in pictures if not name.startswith("empty_camera_")),
            state_dim=int(inputs["observation.state"]["shape"][0]),
            action_dim=int(config["output_features"]["action"]["shape"][0]),
            normalisation=kind_of(config["normalization_mapping"]),
            prompt_state_dim=_prompt_state_dim(folder, config),
            task_text=ours.get("task_text", "{task}"),
            euler_steps=int(config["num_inference_steps"]),
            dtype=config["dtype"],
        )
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise _broken(folder / CONFIG, f"{type(error).__name__}: {error}") from error


def read_statistics(folder: Path) -> dict[str, dict[str, list[float]]]:
    """The folder's statistics as in openpi's `norm_stats.json`; {} where it has none (LeRobot's base policies).

    With them openpi's formulas give LeRobot's numbers. Its other modes (minimum and maximum, 10 % quantiles, none)
    become quantiles too, and so does one of two vectors whose modes differ.
    """
    modes: dict[str, str] = _read_json(folder / CONFIG).get("normalization_mapping", {})
    forward, backward = _state_path(folder, PREPROCESSOR), _state_path(folder, POSTPROCESSOR)
    if forward is None or backward is None:
        return {}
    return {"state": entry_of(forward, "state", modes), "actions": entry_of(backward, "actions", modes)}


def _model(saved: Json) -> ModelConfig:
    towers = {name: TowerConfig(**saved[name]) for name in ("backbone", "expert")}
    return ModelConfig(**{**saved, **towers, "vision": VisionConfig(**saved["vision"])})


def _state_path(folder: Path, pipeline: str) -> Path | None:
    name = state_file(_read_json(folder / pipeline)) if (folder / pipeline).is_file() else ""
    return folder / name if name else None


def _prompt_state_dim(folder: Path, config: Json) -> int:
    """How many numbers of state LeRobot 0.4.4 writes into the prompt."""
    state_dim = int(config["input_features"]["observation.state"]["shape"][0])
    if config["type"] != "pi05":
        return 0
    if not (folder / PREPROCESSOR).is_file():
        return max(state_dim, int(config["max_state_dim"]))
    for step in _read_json(folder / PREPROCESSOR)["steps"]:
        if step.get("registry_name") == STATE_STEP:
            return max(state_dim, int(step.get("config", {}).get("max_state_dim", STATE_STEP_DIM)))
    return 0


def _check_config(folder: Path, config: Json) -> None:
    """Refuse what the network or its sampler here would compute differently."""
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            raise UserError(
                f"{folder / CONFIG}, {key}", got=config[key], expected=value, do="convert a policy that was saved so"
            )
    if config["type"] not in ("pi05", "pi0"):
        raise UserError(
            f"{folder / CONFIG}, type", got=config["type"], expected="pi05 or pi0", do="name such a policy's folder"
        )
    for key in ("paligemma_variant", "action_expert_variant"):
        if config[key] not in TOWERS:
            raise UserError(f"{folder / CONFIG}, {key}", got=config[key], expected=" or ".join(TOWERS), do="correct it")


def _read_json(path: Path) -> Json:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _broken(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(content, dict):
        raise _broken(path, f"a {type(content).__name__}")
    return content


def _broken(path: Path, got: str) -> UserError:
    return UserError(str(path), got=got, expected="a file that LeRobot saved", do="fetch or save the folder again")
