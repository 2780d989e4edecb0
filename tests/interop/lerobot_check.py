"""LeRobot itself loads a policy folder, runs it and saves it again: the other side of the conversion's tests.

    python tests/interop/lerobot_check.py FOLDER --inputs inputs.npz --outputs outputs.npz [--save OUT]

runs in an environment of LeRobot's own, where nothing of this repository is installed (pytest does not collect it):

    uv venv --python 3.11 LEROBOT_ENV
    uv pip install --python LEROBOT_ENV/bin/python lerobot==0.4.4 transformers==4.53.2
    cp -r OPENPI/src/openpi/models_pytorch/transformers_replace/* LEROBOT_ENV/lib/python3.11/site-packages/transformers/
    LEROBOT_ENV/bin/python tests/interop/lerobot_check.py ...

OPENPI is a checkout of openpi: LeRobot's pi0 and pi0.5 refuse any transformers but 4.53.2 with openpi's files over it.

inputs.npz, B samples: `image.<camera>` [B, h, w, 3] uint8 in any size, `image_mask.<camera>` [B] bool (a masked
picture is not given to LeRobot), `tokens` [B, T], `token_mask` [B, T], `noise` [B, H, D], `state` [B, S], and
optionally `task` [B] str and `steps` (Euler steps instead of the folder's). With `task` the folder's processors run
too: `state` is then in physical units, and a stand-in for the tokenizer notes the prompt and answers with `tokens`.

outputs.npz: `actions` [B, H, A] as the network gives them; with `task` also `physical_actions` [B, H, A], `prompt` [B]
and `normalised_state` [B, S].

LeRobot builds published sizes only. A folder's `pi05_train.json` ("model", as this repository exports it; or another
file named by --sizes) says other ones: the presets of `get_gemma_config` and the configurations that LeRobot hands to
transformers are then changed before it builds the network. Nothing else of LeRobot is touched.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.utils.constants import OBS_IMAGES, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE

Arrays = dict[str, np.ndarray]
CLEAN_LOAD = "All keys loaded successfully!"
"""What LeRobot prints when a checkpoint held exactly its parameters; otherwise it prints a warning and goes on."""


class GivenTokens:
    """A tokenizer that answers with given ids and remembers what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.ids = self.mask = torch.zeros(0)

    def __call__(self, text: list[str], **_: Any) -> dict[str, torch.Tensor]:
        self.prompts += text
        return {"input_ids": self.ids, "attention_mask": self.mask}


def main() -> None:
    parser = argparse.ArgumentParser(description="Load, run and save a policy folder with LeRobot.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inputs", type=Path)
    parser.add_argument("--outputs", type=Path)
    parser.add_argument("--save", type=Path, help="where LeRobot saves the policy and its processors again")
    parser.add_argument("--sizes", type=Path, help="instead of FOLDER/pi05_train.json")
    arguments = parser.parse_args()

    config = PreTrainedConfig.from_pretrained(arguments.folder)
    sizes = arguments.sizes or arguments.folder / "pi05_train.json"
    if sizes.is_file():
        replace_presets(config.type, json.loads(sizes.read_text())["model"])
    policy = load_policy(config, arguments.folder)
    tokenizer = GivenTokens()
    processors = load_processors(config, arguments.folder, tokenizer)
    if arguments.inputs:
        with np.load(arguments.inputs) as inputs:
            outputs = run(policy, processors, tokenizer, dict(inputs))
        np.savez(arguments.outputs, **outputs)
    if arguments.save:
        save(policy, processors, arguments.save)


def replace_presets(kind: str, sizes: dict[str, Any]) -> None:
    """Make LeRobot build `sizes` (a ModelConfig as a dictionary) for both of its variants' names."""
    module = importlib.import_module(f"lerobot.policies.{kind}.modeling_{kind}")
    shared = (sizes["heads"], sizes["kv_heads"], sizes["head_dim"])
    towers = {
        name: module.GemmaConfig(sizes[tower]["width"], sizes["depth"], sizes[tower]["mlp_dim"], *shared)
        for name, tower in (("gemma_2b", "backbone"), ("gemma_300m", "expert"))
    }
    module.get_gemma_config = towers.__getitem__
    _resize_towers(module, sizes)


def _resize_towers(module: ModuleType, sizes: dict[str, Any]) -> None:
    """The vision tower's sizes and the vocabulary stand in the code as numbers, so they change on the way."""
    paligemma, gemma = module.PaliGemmaForConditionalGeneration, module.GemmaForCausalLM

    def small_paligemma(config: Any) -> Any:
        vision, theirs = sizes["vision"], config.vision_config
        theirs.hidden_size, theirs.num_hidden_layers = vision["width"], vision["depth"]
        theirs.intermediate_size, theirs.num_attention_heads = vision["mlp_dim"], vision["heads"]
        theirs.patch_size, theirs.projection_dim = vision["patch_size"], sizes["backbone"]["width"]
        config.projection_dim = sizes["backbone"]["width"]
        config._vocab_size = config.text_config.vocab_size = sizes["vocab_size"]
        return paligemma(config=config)

    def small_gemma(config: Any) -> Any:
        config.vocab_size = sizes["vocab_size"]
        return gemma(config=config)

    module.PaliGemmaForConditionalGeneration, module.GemmaForCausalLM = small_paligemma, small_gemma


def load_policy(config: Any, folder: Path) -> Any:
    """The policy by LeRobot's `from_pretrained`, whose messages are repeated and judged: it swallows errors."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    print(said.getvalue(), end="")
    print(f"loaded {'clean' if CLEAN_LOAD in said.getvalue() else 'with a warning'}")
    return policy


def load_processors(config: Any, folder: Path, tokenizer: GivenTokens) -> tuple[Any, Any] | None:
    """The folder's pipelines with a stand-in for the tokenizer; None where it has none."""
    if not (folder / "policy_preprocessor.json").is_file():
        return None
    changes = {
        "tokenizer_processor": {"tokenizer": tokenizer},
        "device_processor": {"device": str(config.device)},
    }
    return make_pre_post_processors(config, pretrained_path=str(folder), preprocessor_overrides=changes)


def run(policy: Any, processors: tuple[Any, Any] | None, tokenizer: GivenTokens, inputs: Arrays) -> Arrays:
    """The outputs of every sample, one at a time: LeRobot has no mask for the picture of one sample of a batch."""
    rows = [run_one(policy, processors, tokenizer, inputs, row) for row in range(len(inputs["tokens"]))]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def run_one(
    policy: Any, processors: tuple[Any, Any] | None, tokenizer: GivenTokens, inputs: Arrays, row: int
) -> Arrays:
    ids, mask, noise, state = (
        torch.from_numpy(inputs[name][row : row + 1]).to(dtype)
        for name, dtype in (
            ("tokens", torch.int64), ("token_mask", torch.bool), ("noise", torch.float32), ("state", torch.float32),
        )
    )  # fmt: skip
    observation: dict[str, Any] = {OBS_STATE: state, **pictures(inputs, row)}
    sampling: dict[str, Any] = {"noise": noise.to(policy.config.device)}
    if "steps" in inputs:
        sampling["num_steps"] = int(inputs["steps"])
    if "task" not in inputs:
        observation |= {OBS_LANGUAGE_TOKENS: ids, OBS_LANGUAGE_ATTENTION_MASK: mask}
        return {"actions": policy.predict_action_chunk(observation, **sampling)[0].cpu().numpy()}
    assert processors is not None, "the folder has no processors to run on `task`"
    before, after = processors
    tokenizer.ids, tokenizer.mask = ids, mask
    batch = before({**observation, "task": [str(inputs["task"][row])]})
    actions = policy.predict_action_chunk(batch, **sampling)
    return {
        "actions": actions[0].cpu().numpy(),
        "physical_actions": after(actions)[0].numpy(),
        "prompt": np.array(tokenizer.prompts[-1]),
        "normalised_state": batch[OBS_STATE][0].cpu().numpy(),
    }


def pictures(inputs: Arrays, row: int) -> dict[str, torch.Tensor]:
    """[1, 3, h, w] in [0, 1], as LeRobot's data sets and robots give them."""
    found = {}
    for name in inputs:
        kind, _, camera = name.partition(".")
        shown = kind == "image" and inputs.get(f"image_mask.{camera}", np.ones(row + 1, dtype=bool))[row]
        if shown:
            picture = torch.from_numpy(inputs[name][row : row + 1]).permute(0, 3, 1, 2)
            found[f"{OBS_IMAGES}.{camera}"] = picture.contiguous().float() / 255.0
    return found


def save(policy: Any, processors: tuple[Any, Any] | None, out: Path) -> None:
    """What LeRobot saves of the policy and of its processors, made with a tokenizer by name."""
    policy.save_pretrained(out)
    for pipeline in processors or ():
        for step in pipeline.steps:
            if hasattr(step, "tokenizer"):
                step.tokenizer = None  # otherwise LeRobot leaves the name out
        pipeline.save_pretrained(out)


if __name__ == "__main__":
    main()
