"""LeRobot's files from our facts and back: its formulas (written out here) give our numbers, and nothing is lost.

That LeRobot itself loads and runs such a folder is `tests/interop/lerobot_check.py`'s to show.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from pi05_train.checkpoint.foreign.lerobot_files import LerobotPolicy, limits, policy_files, policy_of, write_policy
from pi05_train.checkpoint.foreign.lerobot_reading import read_policy, read_statistics
from pi05_train.errors import UserError
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.processing.normalisation import NormStats, floored, normalise, unnormalise
from pi05_train.samples.card import SourceCard

STATE_FILE = "policy_preprocessor_step_2_normalizer_processor.safetensors"
ACTION_FILE = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
LEROBOTS_FIELDS = {
    "type", "n_obs_steps", "input_features", "output_features", "device", "use_amp", "use_peft", "push_to_hub",
    "repo_id", "private", "tags", "license", "pretrained_path", "paligemma_variant", "action_expert_variant", "dtype",
    "chunk_size", "n_action_steps", "max_state_dim", "max_action_dim", "num_inference_steps",
    "time_sampling_beta_alpha", "time_sampling_beta_beta", "time_sampling_scale", "time_sampling_offset", "min_period",
    "max_period", "rtc_config", "image_resolution", "empty_cameras", "tokenizer_max_length", "normalization_mapping",
    "gradient_checkpointing", "compile_model", "compile_mode", "freeze_vision_encoder", "train_expert_only",
    "optimizer_lr", "optimizer_betas", "optimizer_eps", "optimizer_weight_decay", "optimizer_grad_clip_norm",
    "scheduler_warmup_steps", "scheduler_decay_steps", "scheduler_decay_lr",
}  # fmt: skip
"""Every field of config.json that LeRobot 0.4.4 accepts for pi0 and pi0.5; it refuses others."""

CARD = SourceCard(
    name="arm", kind="ME", shards="arm", cameras=["right_wrist_0_rgb", "base_0_rgb"], control_mode="joint",
    rate_hz=20.0, state_dim=8, action_dim=7,
)  # fmt: skip
PROMPTS: dict[str, dict[str, str]] = {
    "pi05": {"low_level": "Task: {task}, State: {state};\nAction: ", "separator": ""},
    "pi0": {"low_level": "{task}", "separator": "\n"},
}

FLOAT32 = 6e-7
"""Several roundings of float32; openpi's 1e-6 would be missed from ranges up to 1."""

Entry = dict[str, list[float]]
numbers = st.floats(-1e3, 1e3)
ranges = st.floats(1e-2, 1e3)


def model(family: str = "pi05", **changes: Any) -> ModelConfig:
    vision, backbone, expert = (
        VisionConfig(224, 14, 1152, 27, 4304, 16),
        TowerConfig(2048, 16384),
        TowerConfig(1024, 4096),
    )
    prompt = {"pi05": 200, "pi0": 48, "pi0_fast": 250}[family]
    standard = ModelConfig(
        family, vision, backbone, expert, 18, 8, 1, 256, 257152, 32, 50, family=family, max_prompt_tokens=prompt
    )
    return replace(standard, **changes)


def policy(family: str = "pi05", normalisation: str = "quantile", **changes: Any) -> LerobotPolicy:
    arguments: dict[str, Any] = {"normalisation": normalisation, "euler_steps": 10, **PROMPTS[family]}
    return policy_of(model(family), CARD, **{**arguments, **changes})


@st.composite
def entries(draw: st.DrawFn, dims: int) -> Entry:
    """Statistics after flooring, as training uses them."""
    q01, mean = (draw(st.lists(numbers, min_size=dims, max_size=dims)) for _ in range(2))
    width, std = (draw(st.lists(ranges, min_size=dims, max_size=dims)) for _ in range(2))
    return {"mean": mean, "std": std, "q01": q01, "q99": [a + b for a, b in zip(q01, width, strict=True)]}


def stats_of(entry: Entry) -> NormStats:
    return NormStats(*(np.asarray(entry[name]) for name in ("q01", "q99", "mean", "std")))


def theirs(x: Tensor, stats: dict[str, Tensor], mode: str, *, inverse: bool) -> Tensor:
    """LeRobot 0.4.4's formulas, in float32 as it computes them (processor/normalize_processor.py)."""
    if mode == "IDENTITY":
        return x
    if mode == "MEAN_STD":
        return x * stats["std"] + stats["mean"] if inverse else (x - stats["mean"]) / (stats["std"] + 1e-8)
    low, high = {"QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90"), "MIN_MAX": ("min", "max")}[mode]
    width = stats[high] - stats[low]
    width = torch.where(width == 0, torch.tensor(1e-8), width)
    return (x + 1.0) * width / 2.0 + stats[low] if inverse else 2.0 * (x - stats[low]) / width - 1.0


def stored(path: Path, feature: str) -> dict[str, Tensor]:
    return {name.rpartition(".")[2]: value for name, value in load_file(path).items() if name.startswith(f"{feature}.")}


WRITING = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@WRITING
@given(
    state=entries(8), actions=entries(7), kind=st.sampled_from(["quantile", "z_score"]), seed=st.integers(0, 2**32 - 1)
)
def test_lerobots_formulas_give_our_numbers_to_float32(
    tmp_path: Path, state: Entry, actions: Entry, kind: str, seed: int
) -> None:
    write_policy(tmp_path, policy(normalisation=kind), {"state": state, "actions": actions})
    mode = {"quantile": "QUANTILES", "z_score": "MEAN_STD"}[kind]
    random = np.random.default_rng(seed)

    ours = stats_of(state)
    y = random.uniform(-1.5, 1.5, (5, 8))
    x = unnormalise(y, ours, kind).astype(np.float32)
    found = theirs(torch.from_numpy(x), stored(tmp_path / STATE_FILE, "observation.state"), mode, inverse=False)
    width = np.minimum(np.asarray(state["q99"]) - state["q01"], state["std"])
    magnitude = np.max([np.abs(state[name]) for name in ("q01", "q99", "mean")], axis=0) + np.abs(x)
    assert (np.abs(found.numpy() - normalise(x, ours, kind)) <= FLOAT32 * (1.0 + magnitude / width)).all()

    y = random.uniform(-1.5, 1.5, (5, 7)).astype(np.float32)
    found = theirs(torch.from_numpy(y), stored(tmp_path / ACTION_FILE, "action"), mode, inverse=True)
    scale = np.max([np.abs(actions[name]) for name in ("q01", "q99", "mean", "std")], axis=0)
    assert (np.abs(found.numpy() - unnormalise(y, stats_of(actions), kind)) <= FLOAT32 * scale).all()


def test_a_constant_dimension_never_divides_by_lerobots_1e_8(tmp_path: Path) -> None:
    """20000 is a count whose neighbours in float32 are 0.002 apart, more than the floor of our ranges."""
    flat: Entry = {"mean": [20000.0], "std": [0.0], "q01": [20000.0], "q99": [20000.0]}
    raised = floored(stats_of(flat), "test")
    assert raised.q01 is not None
    assert raised.q99 is not None
    entry = {"mean": raised.mean, "std": raised.std, "q01": raised.q01, "q99": raised.q99}
    card = replace(CARD, state_dim=1, action_dim=1)
    one = policy_of(model(), card, normalisation="quantile", euler_steps=10, **PROMPTS["pi05"])
    write_policy(tmp_path, one, {"state": entry, "actions": entry})  # type: ignore[dict-item]
    found = theirs(
        torch.tensor([20000.0]), stored(tmp_path / STATE_FILE, "observation.state"), "QUANTILES", inverse=False
    )
    assert found.item() == -1.0
    shifted = theirs(
        torch.tensor([20000.0]) + 0.002, stored(tmp_path / STATE_FILE, "observation.state"), "QUANTILES", inverse=False
    )
    assert abs(shifted.item()) < 10.0


@WRITING
@given(state=entries(8), actions=entries(7), kind=st.sampled_from(["quantile", "z_score"]))
def test_statistics_survive_from_lerobot_to_us_and_back(
    tmp_path: Path, state: Entry, actions: Entry, kind: str
) -> None:
    """What LeRobot uses at inference is the same again: the state's in the forward file, the actions' in the other."""
    exported = policy(normalisation=kind)
    write_policy(tmp_path, exported, {"state": state, "actions": actions})
    before = stored(tmp_path / STATE_FILE, "observation.state"), stored(tmp_path / ACTION_FILE, "action")
    ours = read_statistics(tmp_path)
    for name, entry in (("state", state), ("actions", actions)):
        for stat, values in entry.items():
            np.testing.assert_allclose(ours[name][stat], values, rtol=2e-7, atol=2e-7)
    write_policy(tmp_path, exported, ours)
    after = stored(tmp_path / STATE_FILE, "observation.state"), stored(tmp_path / ACTION_FILE, "action")
    for first, second in zip(before, after, strict=True):
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_allclose(second[name], first[name], rtol=0, atol=1e-15)


@pytest.mark.parametrize("state_mode", ["QUANTILES", "MIN_MAX", "QUANTILE10", "MEAN_STD", "IDENTITY"])
@pytest.mark.parametrize("action_mode", ["QUANTILES", "MIN_MAX", "MEAN_STD", "IDENTITY"])
def test_every_mode_of_lerobot_becomes_our_normalisation(tmp_path: Path, state_mode: str, action_mode: str) -> None:
    write_policy(tmp_path, policy(), {"state": entry_of_ones(8), "actions": entry_of_ones(7)})
    config = json.loads((tmp_path / "config.json").read_text())
    config["normalization_mapping"] = {"VISUAL": "IDENTITY", "STATE": state_mode, "ACTION": action_mode}
    (tmp_path / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    stats = {}
    for feature, dims in (("observation.state", 8), ("action", 7)):
        ordered = torch.rand(6, dims, generator=generator).sort(0).values * 3 - 1
        stats |= {f"{feature}.{name}": ordered[i] for i, name in enumerate(("min", "q01", "q10", "q90", "q99", "max"))}
        stats |= {f"{feature}.mean": ordered[2], f"{feature}.std": ordered[5] - ordered[0]}
        stats[f"{feature}.count"] = torch.tensor([12.0])
    save_file({name: value.clone() for name, value in stats.items()}, tmp_path / STATE_FILE)
    save_file({name: value.clone() for name, value in stats.items()}, tmp_path / ACTION_FILE)

    kind, ours = read_policy(tmp_path).normalisation, read_statistics(tmp_path)
    x, y = torch.rand(4, 8, generator=generator), torch.rand(4, 7, generator=generator)
    wanted = theirs(x, stored(tmp_path / STATE_FILE, "observation.state"), state_mode, inverse=False)
    np.testing.assert_allclose(normalise(x.numpy(), stats_of(ours["state"]), kind), wanted, rtol=2e-5, atol=2e-5)
    wanted = theirs(y, stored(tmp_path / ACTION_FILE, "action"), action_mode, inverse=True)
    np.testing.assert_allclose(unnormalise(y.numpy(), stats_of(ours["actions"]), kind), wanted, rtol=2e-6, atol=2e-6)


def entry_of_ones(dims: int) -> Entry:
    return {"mean": [0.0] * dims, "std": [1.0] * dims, "q01": [-1.0] * dims, "q99": [1.0] * dims}


@pytest.mark.parametrize("family", ["pi05", "pi0"])
@pytest.mark.parametrize("kind", ["quantile", "z_score"])
@pytest.mark.parametrize("small", [False, True], ids=["published size", "other size"])
def test_a_folder_of_ours_reads_as_what_was_written(tmp_path: Path, family: str, kind: str, small: bool) -> None:
    sizes: dict[str, Any] = {"backbone": TowerConfig(64, 96), "depth": 2, "vocab_size": 300, "name": "small"}
    written = replace(policy(family, kind), model=model(family, **(sizes if small else {})))
    write_policy(tmp_path, written, {"state": entry_of_ones(8), "actions": entry_of_ones(7)})
    assert read_policy(tmp_path) == written
    (tmp_path / "pi05_train.json").unlink()
    if not small:
        assert read_policy(tmp_path) == written


def test_config_holds_only_what_lerobot_knows() -> None:
    for family in PROMPTS:
        assert policy_files(policy(family))["config.json"].keys() <= LEROBOTS_FIELDS


def test_cameras_come_in_the_order_of_their_tokens() -> None:
    names = list(policy_files(policy())["config.json"]["input_features"])
    assert names == ["observation.images.base_0_rgb", "observation.images.right_wrist_0_rgb", "observation.state"]


def test_the_prompt_holds_the_states_own_dimensions() -> None:
    """Left to itself LeRobot 0.4.4 pads the state to 32 numbers before it writes it."""
    pi05, pi0 = policy("pi05"), policy("pi0")
    steps = {step["registry_name"]: step["config"] for step in policy_files(pi05)["policy_preprocessor.json"]["steps"]}
    assert steps["pi05_prepare_state_tokenizer_processor_step"] == {"max_state_dim": 8}
    assert policy_files(pi05)["config.json"]["max_state_dim"] == 8
    assert policy_files(pi0)["config.json"]["max_state_dim"] == 32  # the width of pi0's state projection


def test_pi05_without_the_state_in_its_prompt_gets_pi0s_prompt_step(tmp_path: Path) -> None:
    bare = policy("pi05", **PROMPTS["pi0"])
    write_policy(tmp_path, bare, {"state": entry_of_ones(8), "actions": entry_of_ones(7)})
    names = [step["registry_name"] for step in policy_files(bare)["policy_preprocessor.json"]["steps"]]
    assert "pi0_new_line_processor" in names
    assert read_policy(tmp_path).prompt_state_dim == 0


def test_more_words_around_the_task_are_told() -> None:
    told = policy(
        low_level="Task: {task} {control_mode}, State: {state};\nAction: ", control_mode="<mode> {control_mode} <mode>"
    )
    assert told.task_text == "{task} <mode> joint <mode>"
    assert any("{task} <mode> joint <mode>" in sentence for sentence in limits(told))


def test_limits_name_what_differs() -> None:
    usual = limits(policy())
    small = replace(policy(), model=model(vocab_size=300))
    found = " ".join(limits(small))
    assert "published network sizes" in found
    assert "vocabulary" in found
    assert not any("published" in sentence for sentence in usual)


@pytest.mark.parametrize(
    ("changes", "card_changes", "words"),
    [
        ({"model": model("pi0_fast")}, {}, "model.family"),
        ({}, {"delta_mask": [True, False]}, "delta_mask"),
        ({}, {"kind": "HL"}, "a source with actions"),
        ({"dtype": "float16"}, {}, "float32 or bfloat16"),
        ({"low_level": "Do {task} from {state}: "}, {}, "templates.low_level"),
        ({"low_level": "Do {task}: "}, {}, "templates.low_level"),
        ({"model": model("pi0")}, {}, "templates.low_level"),
    ],
)
def test_what_lerobot_cannot_do_is_refused(changes: dict[str, Any], card_changes: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {
        "model": model(), "normalisation": "quantile", "euler_steps": 10, **PROMPTS["pi05"], **changes,
    }  # fmt: skip
    with pytest.raises(UserError, match=words):
        policy_of(arguments.pop("model"), replace(CARD, **card_changes), **arguments)


def test_an_absolute_delta_mask_is_no_obstacle() -> None:
    card = replace(CARD, delta_mask=[False] * 7)
    assert policy_of(model(), card, normalisation="quantile", euler_steps=10, **PROMPTS["pi05"]) == policy()


def lerobots_own(folder: Path, **changes: Any) -> None:
    """The files LeRobot 0.4.4 saves of a pi0.5 policy made without statistics, as far as they are read."""
    features = {
        "observation.images.front": {"type": "VISUAL", "shape": [3, 480, 640]},
        "observation.images.empty_camera_0": {"type": "VISUAL", "shape": [3, 224, 224]},
        "observation.state": {"type": "STATE", "shape": [6]},
    }
    quantiles = {"VISUAL": "IDENTITY", "STATE": "QUANTILES", "ACTION": "QUANTILES"}
    config = {
        "type": "pi05", "n_obs_steps": 1, "input_features": features,
        "output_features": {"action": {"type": "ACTION", "shape": [6]}}, "use_peft": False, "rtc_config": None,
        "paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m", "dtype": "bfloat16", "chunk_size": 50,
        "n_action_steps": 50, "max_state_dim": 32, "max_action_dim": 32, "num_inference_steps": 10,
        "min_period": 0.004, "max_period": 4.0, "image_resolution": [224, 224], "empty_cameras": 1,
        "tokenizer_max_length": 200, "normalization_mapping": quantiles, "optimizer_lr": 2.5e-05, **changes,
    }  # fmt: skip
    steps = [{"registry_name": "pi05_prepare_state_tokenizer_processor_step", "config": {}}]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "policy_preprocessor.json").write_text(json.dumps({"name": "policy_preprocessor", "steps": steps}))
    (folder / "policy_postprocessor.json").write_text(json.dumps({"name": "policy_postprocessor", "steps": []}))


def test_lerobots_own_folder_is_read(tmp_path: Path) -> None:
    lerobots_own(tmp_path)
    found = read_policy(tmp_path)
    assert found.model == model()
    assert found.cameras == ("front",)
    assert (found.state_dim, found.action_dim, found.prompt_state_dim) == (6, 6, 32)
    assert found.dtype == "bfloat16"
    assert read_statistics(tmp_path) == {}


def test_lerobots_padded_prompt_stays_padded_when_we_write_the_folder(tmp_path: Path) -> None:
    lerobots_own(tmp_path)
    found = read_policy(tmp_path)
    write_policy(tmp_path, found, {"state": entry_of_ones(6), "actions": entry_of_ones(6)})
    assert read_policy(tmp_path) == found
    assert json.loads((tmp_path / "config.json").read_text())["max_state_dim"] == 32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": "act"}, "pi05 or pi0"),
        ({"use_peft": True}, "use_peft"),
        ({"max_period": 8.0}, "max_period"),
        ({"action_expert_variant": "gemma_7b"}, "action_expert_variant"),
        ({"output_features": {}}, "action"),
        ({"image_resolution": None}, "config.json"),
    ],
)
def test_what_we_could_not_run_alike_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    lerobots_own(tmp_path, **changes)
    with pytest.raises(UserError, match=words):
        read_policy(tmp_path)


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        read_policy(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        read_policy(tmp_path)
    write_policy(tmp_path, policy(), {"state": entry_of_ones(8), "actions": entry_of_ones(7)})
    (tmp_path / ACTION_FILE).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="unnormalizer"):
        read_statistics(tmp_path)
    save_file({"action.mean": torch.zeros(7)}, tmp_path / ACTION_FILE)
    with pytest.raises(UserError, match="q01 and q99"):
        read_statistics(tmp_path)
