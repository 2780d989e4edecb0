"""Milliseconds per action chunk against LeRobot 0.4.4's pi0.5: same sizes, weights, pictures, prompts and noise.

Random weights are exported to a LeRobot policy folder. LeRobot's own interpreter loads and runs it in the same run,
and the chunks are compared. Both sides get prepared tensors and use one thread in float32; processor time, which other
work on the machine hardly lengthens.

How to make LeRobot's environment: `tests/interop/lerobot_check.py`.
Run: uv run python -m benchmarks.inference_lerobot LEROBOT_ENV/bin/python
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.inference import CAMERAS, PROMPT, STEPS, make_batch, make_model, milliseconds, read_model
from pi05_train.checkpoint.foreign.exporting import Weights, export_checkpoint
from pi05_train.checkpoint.foreign.identify import Format
from pi05_train.checkpoint.foreign.lerobot_files import LerobotPolicy
from pi05_train.checkpoint.storage.source import Source, spec_of
from pi05_train.model.batch import Batch
from pi05_train.model.config import ModelConfig
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.sampler import Sampler

NAMES = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


class InMemory(Source):
    """A network's parameters."""

    def __init__(self, model: Pi05) -> None:
        super().__init__("memory")
        self._tensors = model.state_dict()
        self.specs = {name: spec_of(tensor) for name, tensor in self._tensors.items()}

    def _read(self, name: str) -> Tensor:
        tensor: Tensor = self._tensors[name]
        return tensor


def export(model: Pi05, folder: Path) -> None:
    """The network as a LeRobot policy folder."""
    dims = model.config.action_dim
    policy = LerobotPolicy(model.config, NAMES, dims, dims, "quantile", 0, euler_steps=STEPS)
    export_checkpoint(Weights(InMemory(model), model.config, {}, policy), folder, Format.LEROBOT, card="")


def write_inputs(batch: Batch, noise: Tensor, config: ModelConfig, path: Path) -> None:
    """The batch as LeRobot takes it: prompts padded to the maximum, pictures by camera."""
    images = CAMERAS * config.vision.tokens_per_image
    tokens = np.zeros((batch.num_segments, config.max_prompt_tokens), dtype=np.int64)
    mask = np.zeros(tokens.shape, dtype=bool)
    prompts = batch.token_ids_N.split(batch.prefix_lengths)  # type: ignore[no-untyped-call]
    for s, own in enumerate(prompts):
        tokens[s, : len(own) - images], mask[s, : len(own) - images] = own[images:], True
    pictures = batch.images_ICHW.permute(0, 2, 3, 1).unflatten(0, (-1, CAMERAS)).numpy()  # type: ignore[no-untyped-call]
    views = {f"image.{name}": pictures[:, camera] for camera, name in enumerate(NAMES)}
    np.savez(path, tokens=tokens, token_mask=mask, noise=noise.numpy(), **views)


def theirs(python: str, folder: Path, repeats: int) -> tuple[float, str, Tensor]:
    """LeRobot's milliseconds, its torch, and its chunks."""
    script = Path(__file__).with_name("lerobot_side.py")
    command = [python, "-P", str(script), str(folder), str(folder / "in.npz"), str(folder / "out.npz"), str(repeats)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    assert any("loaded clean" in line for line in said), said
    told = json.loads(said[-1])
    with np.load(folder / "out.npz") as outputs:
        return told["milliseconds"], told["torch"], torch.from_numpy(outputs["actions"])


@torch.inference_mode()
def main() -> None:
    """Print both sides at batch 1 and 8."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="LeRobot's interpreter")
    parser.add_argument("--model", default="mid", help="a name under conf/model")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device, config = torch.device("cpu"), read_model(arguments.model)
    model = make_model(config, device)
    sampler = Sampler(model, steps=STEPS)
    print(f"model {config.name}, {platform.machine()}, float32, 1 thread; ours with torch {torch.__version__}")
    print(f"{CAMERAS} cameras, prompts of {PROMPT[0]} to {PROMPT[1]} tokens, {STEPS} Euler steps")
    with tempfile.TemporaryDirectory() as folder:
        export(model, Path(folder) / "policy")
        for samples in (1, 8):
            batch = make_batch(config, samples, device)
            shape = (samples, config.action_horizon, config.action_dim)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            write_inputs(batch, noise, config, Path(folder) / "policy" / "in.npz")
            slow, version, expected = theirs(arguments.python, Path(folder) / "policy", arguments.repeats)
            actions = sampler.actions(batch, noise)
            torch.testing.assert_close(actions, expected, rtol=0, atol=1e-4)
            fast = milliseconds(lambda: sampler.actions(batch, noise), device, arguments.repeats)  # noqa: B023
            print(
                f"batch {samples}: ours {fast:.0f} ms, LeRobot 0.4.4 (torch {version}) {slow:.0f} ms: "
                f"{slow / fast:.2f} times as fast; largest difference {(actions - expected).abs().max().item():.1e}"
            )


if __name__ == "__main__":
    main()
