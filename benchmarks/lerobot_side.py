"""LeRobot's half of `benchmarks/inference_lerobot.py`, run by LeRobot's own interpreter: actions, and milliseconds.

LEROBOT_ENV/bin/python -P benchmarks/lerobot_side.py FOLDER inputs.npz outputs.npz REPEATS
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "interop"))

import lerobot_check
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE


def main() -> None:
    """Print the processor milliseconds of the fastest chunk as JSON, and write the chunks."""
    folder, inputs_file, outputs_file, repeats = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    torch.set_num_threads(1)
    config = PreTrainedConfig.from_pretrained(folder)
    lerobot_check.replace_presets(config.type, json.loads((folder / "pi05_train.json").read_text())["model"])
    policy = lerobot_check.load_policy(config, folder)
    with np.load(inputs_file) as arrays:
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    batch = {
        OBS_STATE: torch.zeros(len(inputs["tokens"]), config.max_state_dim),
        OBS_LANGUAGE_TOKENS: inputs["tokens"],
        OBS_LANGUAGE_ATTENTION_MASK: inputs["token_mask"],
    }
    for name, images in inputs.items():
        kind, _, camera = name.partition(".")
        if kind == "image":
            batch[f"observation.images.{camera}"] = images.permute(0, 3, 1, 2).contiguous().float() / 255
    taken = []
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.process_time()
            actions = policy.predict_action_chunk(batch, noise=inputs["noise"])
            taken.append(1e3 * (time.process_time() - start))
    np.savez(outputs_file, actions=actions.numpy())
    print(json.dumps({"milliseconds": min(taken), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
