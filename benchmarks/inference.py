"""Milliseconds per action chunk, split into vision, prefix and denoising, against straightforward implementations.

All sides run the same weights (random) on the same pictures and prompts, and are compared before they are timed.

- ours: prompts packed without padding, keys and values of the prefix once, whatever Euler steps share computed once; on
  CUDA everything is replayed from CUDA graphs.
- compiled (CUDA): ours with blocks that went through torch.compile.
- cached: the usual eager sampler: one camera after the other, prompts padded to the maximum under boolean masks, all
  layers whole, a prefix cache that every step joins to its own keys.
- recomputed: the same without the cache: every Euler step runs the whole backbone.

Run: uv run python -m benchmarks.inference (CPU, float32, model=mid), or with --gpu (CUDA, bfloat16, model=pi05)
Needs nothing but torch, numpy and yaml.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional

from pi05_train.model.batch import Batch, SegmentInfo
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.model.gemma import Rotation, rotation
from pi05_train.model.half import to_bfloat16
from pi05_train.model.joint import JointBlock, KeysValues
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.graphs import record
from pi05_train.policy.inputs import Inputs, make_inputs, make_shaped_inputs
from pi05_train.policy.sampler import Sampler, euler, flow_times
from pi05_train.resources import resource

CAMERAS, STEPS, PROMPT = 3, 10, (80, 120)
PEAK_FLOPS = 989e12
"""Dense bf16 of an H100 or H200."""
BYTES_PER_S = {"H200": 4.8e12, "H100": 3.35e12}


def read_model(name: str) -> ModelConfig:
    """The sizes in conf/model."""
    values: dict[str, Any] = yaml.safe_load((resource("conf") / "model" / f"{name}.yaml").read_text())
    values["vision"] = VisionConfig(**values["vision"])
    values |= {tower: TowerConfig(**values[tower]) for tower in ("backbone", "expert")}
    return ModelConfig(**values)


def make_model(config: ModelConfig, device: torch.device) -> Pi05:
    """Random weights, drawn on the device; in bfloat16 on CUDA."""
    torch.manual_seed(0)
    with device:
        model = Pi05(config, expert=True)
    if device.type == "cuda":
        to_bfloat16(model)
    return model.eval()


def make_batch(config: ModelConfig, samples: int, device: torch.device) -> Batch:
    """Random pictures of three cameras and prompts of random lengths."""
    generator = torch.Generator().manual_seed(samples)
    images, size = CAMERAS * config.vision.tokens_per_image, config.vision.image_size
    prompts = torch.randint(*PROMPT, (samples,), generator=generator).tolist()
    lengths = [images + prompt for prompt in prompts]
    starts = [sum(lengths[:s]) for s in range(samples)]
    ids = [
        torch.cat(
            [
                torch.zeros(images, dtype=torch.int64),
                torch.randint(4, config.vocab_size, (prompt,), generator=generator),
            ]
        )
        for prompt in prompts
    ]
    none = torch.empty(0, dtype=torch.int64)
    chunk = (0, config.action_horizon, config.action_dim)
    shape = (samples * CAMERAS, 3, size, size)
    return Batch(
        images_ICHW=torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),
        image_rows_V=torch.cat([torch.arange(start, start + images) for start in starts]),
        token_ids_N=torch.cat(ids),
        positions_N=torch.cat([torch.arange(length) for length in lengths]),
        prefix_lengths=tuple(lengths),
        target_lengths=(0,) * samples,
        label_rows_L=none,
        labels_L=none,
        label_segments_L=none,
        action_segments=(),
        actions_AHD=torch.empty(chunk),
        action_mask_AHD=torch.empty(chunk, dtype=torch.bool),
        noise_AKHD=torch.empty(0, 1, *chunk[1:]),
        time_AK=torch.empty(0, 1),
        states_BD=torch.zeros(samples, config.action_dim),
        segments=tuple(SegmentInfo("random", "CE", str(s), s) for s in range(samples)),
    ).to(device)


@dataclass(frozen=True)
class Rectangle:
    """The same prompts padded to the longest that the network takes."""

    images_CBCHW: Tensor
    token_ids_BP: Tensor
    rotation: Rotation
    chunk_rotation: Rotation
    mask_B1SS: Tensor
    chunk_mask_B1HJ: Tensor


def pad(batch: Batch, config: ModelConfig) -> Rectangle:
    """`batch` as a rectangle."""
    device, samples = batch.token_ids_N.device, batch.num_segments
    images, longest = CAMERAS * config.vision.tokens_per_image, config.max_prompt_tokens
    ids = torch.zeros(samples, longest, dtype=torch.int64, device=device)
    valid = torch.ones(samples, images + longest, dtype=torch.bool, device=device)
    for s, own in enumerate(torch.split(batch.token_ids_N, list(batch.prefix_lengths))):
        prompt = own[images:]
        ids[s, : len(prompt)] = prompt
        valid[s, images + len(prompt) :] = False
    steps = torch.arange(config.action_horizon, device=device)
    chunk = valid.new_ones(samples, 1, len(steps), len(steps))
    return Rectangle(
        torch.unflatten(batch.images_ICHW, 0, (samples, CAMERAS)).transpose(0, 1),
        ids,
        rotation(valid.cumsum(1) - 1, config.head_dim),
        rotation(valid.sum(1)[:, None] + steps, config.head_dim),
        # Rows of padding see the prefix too: a row without keys would be undefined.
        valid[:, None, None].expand(-1, 1, valid.shape[1], -1),
        torch.cat([valid[:, None, None].expand(-1, 1, len(steps), -1), chunk], dim=3),
    )


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """[B, rows, heads, head_dim] queries on keys and values of one head."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    k, v = (x.expand(-1, q.shape[1], -1, -1) for x in (k, v))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def plain_vision(model: Pi05, side: Rectangle) -> Tensor:
    """One camera after the other."""
    return torch.cat([model.vision(images) for images in side.images_CBCHW], dim=1)


def plain_prefix(model: Pi05, side: Rectangle, images: Tensor) -> list[KeysValues]:
    """All layers, whole."""
    text = model.embedding(side.token_ids_BP) * model.config.backbone.width**0.5
    x, memory = torch.cat([images, text], dim=1), []
    for layer in model.layers:
        assert isinstance(layer, JointBlock)
        normed, _ = layer.backbone.attention_norm(x)
        k, v = layer.backbone.keys_values(normed, side.rotation)
        attended = masked_attention(layer.backbone.queries(normed, side.rotation), k, v, side.mask_B1SS)
        x = layer.backbone.finish(x, attended, None, None)
        memory.append((k, v))
    return memory


def plain_velocity(model: Pi05, side: Rectangle, memory: list[KeysValues], x: Tensor, t: float) -> Tensor:
    """The expert on the prefix's keys and its own."""
    assert model.action is not None
    time_B = torch.full((len(x),), t, device=x.device)
    chunk, condition = model.action.embed(x, time_B, x[:, 0])
    assert condition is not None
    chunk, modulation = chunk.to(memory[0][0].dtype), condition[:, None]
    for layer, (k, v) in zip(model.layers, memory, strict=True):
        assert isinstance(layer, JointBlock)
        block = layer.expert
        assert block is not None
        normed, gate = block.attention_norm(chunk, modulation)
        own_k, own_v = block.keys_values(normed, side.chunk_rotation)
        q = block.queries(normed, side.chunk_rotation)
        attended = masked_attention(q, torch.cat([k, own_k], 1), torch.cat([v, own_v], 1), side.chunk_mask_B1HJ)
        chunk = block.finish(chunk, attended, gate, modulation)
    return model.action.velocity(chunk, condition)


def plain_denoising(model: Pi05, side: Rectangle, noise: Tensor, memory: Callable[[], list[KeysValues]]) -> Tensor:
    """Euler steps, each with the keys and values that `memory` gives."""
    x = noise
    for t in flow_times(STEPS)[:-1]:
        x = x - plain_velocity(model, side, memory(), x, t) / STEPS
    return x


@dataclass(frozen=True)
class Stages:
    """The three parts of an implementation, each to be run on its own, and the whole."""

    vision: Callable[[], Any]
    prefix: Callable[[], Any]
    denoising: Callable[[], Any]
    whole: Callable[[], Tensor]


@dataclass(frozen=True)
class Replay:
    """A recorded part, to be run again."""

    graph: torch.cuda.CUDAGraph
    reads: Any
    """The graph does not keep what it reads."""

    def __call__(self) -> None:
        self.graph.replay()


def ours(model: Pi05, batch: Batch, noise: Tensor, *, graphs: bool) -> Stages:
    """The policy's sampler."""
    sampler = Sampler(model, steps=STEPS, graphs=graphs)
    times = torch.tensor(flow_times(STEPS)[:-1], device=noise.device)
    dims = torch.ones(noise.shape[0], noise.shape[2], dtype=torch.bool, device=noise.device)
    inputs: Inputs = (make_shaped_inputs if graphs else make_inputs)(model, batch, noise, dims, times)

    def vision() -> Tensor:
        return model.join(model.vision(inputs.images_ICHW), inputs.image_rows_V, inputs.token_ids_N)

    def denoising(memory: list[KeysValues]) -> Tensor:
        denoiser = model.planned_denoiser(memory, inputs.states_BD, inputs.times_T, inputs.denoising)
        return list(euler(denoiser, noise, dims, STEPS))[-1][0]

    def whole() -> Tensor:
        return sampler.actions(batch, noise)

    if not graphs:
        x = vision()
        memory = model.read_prefix(x, inputs.prefix)[1]
        return Stages(vision, lambda: model.read_prefix(x, inputs.prefix), lambda: denoising(memory), whole)
    first, x = record(vision)
    second, (_, memory) = record(lambda: model.read_prefix(x, inputs.prefix))
    third, _ = record(lambda: denoising(memory))
    recorded = inputs, x, memory
    return Stages(Replay(first, recorded), Replay(second, recorded), Replay(third, recorded), whole)


def plain(model: Pi05, batch: Batch, noise: Tensor, *, cached: bool) -> Stages:
    """The straightforward ones. Without a cache the backbone runs in every step, and `prefix` is part of denoising."""
    side = pad(batch, model.config)
    images = plain_vision(model, side)
    memory = plain_prefix(model, side, images)

    def steps(images: Tensor) -> Tensor:
        kept = plain_prefix(model, side, images) if cached else None
        return plain_denoising(model, side, noise, lambda: kept or plain_prefix(model, side, images))

    return Stages(
        lambda: plain_vision(model, side),
        (lambda: plain_prefix(model, side, images)) if cached else (lambda: None),
        (lambda: plain_denoising(model, side, noise, lambda: memory)) if cached else (lambda: steps(images)),
        lambda: steps(plain_vision(model, side)),
    )


def milliseconds(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """The fastest of `repeats` runs; on the CPU processor time, which other work on the machine hardly lengthens."""
    taken = []
    for _ in range(repeats):
        if device.type == "cpu":
            start = time.process_time()
            run()
            taken.append(time.process_time() - start)
            continue
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return 1e3 * min(taken)


def measured(stages: Stages, device: torch.device, repeats: int) -> list[float]:
    """Milliseconds of the parts and of the whole, after a run that nobody times."""
    parts = [stages.vision, stages.prefix, stages.denoising, stages.whole]
    if device.type == "cuda":
        for part in parts:
            part()
    return [milliseconds(part, device, repeats) for part in parts]


def roofline(model: Pi05, batch: Batch, bytes_per_s: float) -> list[float]:
    """Milliseconds that no implementation on this card can beat, in bfloat16: operations or bytes of weights."""
    config, samples, rows = model.config, batch.num_segments, sum(batch.prefix_lengths)
    vision_rows, width = len(batch.image_rows_V), config.heads * config.head_dim
    expert = [layer.expert for layer in model.layers if layer.expert is not None]

    def linear(modules: Any) -> int:
        matrices = [(name, p) for m in modules for name, p in m.named_parameters() if p.dim() == 2]
        return sum(p.numel() for name, p in matrices if "modulation" not in name)

    vision, backbone = linear([model.vision]), linear([layer.backbone for layer in model.layers])
    chunk_rows, weights = samples * config.action_horizon, linear(expert)
    seen = rows / samples + config.action_horizon
    squares = sum(length**2 for length in batch.prefix_lengths)
    tower = config.vision
    vision_flops = vision_rows * (2 * vision + 4 * tower.tokens_per_image * tower.width * tower.depth)
    prefix_flops = 2 * rows * backbone + 4 * squares * width * config.depth
    step_flops = chunk_rows * (2 * weights + 4 * seen * width * config.depth)
    step_bytes = 2 * weights + 4 * samples * seen * config.kv_heads * config.head_dim * config.depth
    parts = [
        max(vision_flops / PEAK_FLOPS, 2 * vision / bytes_per_s),
        max(prefix_flops / PEAK_FLOPS, 2 * backbone / bytes_per_s),
        STEPS * max(step_flops / PEAK_FLOPS, step_bytes / bytes_per_s),
    ]
    return [1e3 * part for part in (*parts, sum(parts))]


def print_row(name: str, values: list[float], samples: int) -> None:
    """Parts and whole of a call, and the whole per chunk."""
    cells = " | ".join(f"{value:8.2f}" for value in (*values, values[-1] / samples))
    print(f"| {name:24} | {samples:5} | {cells} |", flush=True)


@dataclass(frozen=True)
class Case:
    """A batch of one size, and where its times go."""

    batch: Batch
    noise: Tensor
    repeats: int

    @classmethod
    def of(cls, config: ModelConfig, device: torch.device, samples: int, repeats: int) -> Case:
        shape = (samples, config.action_horizon, config.action_dim)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        return cls(make_batch(config, samples, device), noise, repeats)

    @property
    def samples(self) -> int:
        return self.batch.num_segments

    def measure(self, name: str, stages: Stages, repeats: int | None = None) -> float:
        """Print a side's row; returns the milliseconds of the whole."""
        values = measured(stages, self.noise.device, repeats or self.repeats)
        print_row(name, values, self.samples)
        return values[-1]


def check(got: Tensor, expected: Tensor, name: str) -> None:
    """Print how far two sides' chunks lie apart; they must be the same but for rounding."""
    difference = (got - expected).abs().max().item() / expected.abs().max().item()
    assert difference < (0.1 if expected.is_cuda else 1e-4), difference
    print(f"largest difference of {name} from cached, of the largest action: {difference:.1e}")


@torch.inference_mode()
def compare(model: Pi05, case: Case, *, recomputed: bool) -> tuple[Tensor, float]:
    """Measure and print all sides; returns the cached side's chunks and milliseconds."""
    cuda = case.noise.is_cuda
    fast, cached = ours(model, case.batch, case.noise, graphs=cuda), plain(model, case.batch, case.noise, cached=True)
    expected = cached.whole()
    check(fast.whole(), expected, "ours")
    fast_ms, cached_ms = case.measure("ours", fast), case.measure("cached", cached)
    if recomputed:
        case.measure("recomputed", plain(model, case.batch, case.noise, cached=False), repeats=1)
    if cuda:
        rate = BYTES_PER_S["H200" if "H200" in torch.cuda.get_device_name() else "H100"]
        print_row("roofline", roofline(model, case.batch, rate), case.samples)
    print(f"batch {case.samples}: ours is {cached_ms / fast_ms:.2f} times as fast as cached")
    return expected, cached_ms


@torch.inference_mode()
def compare_compiled(model: Pi05, case: Case, expected: Tensor, cached_ms: float) -> None:
    """Measure and print ours once more, for a model whose blocks are compiled."""
    compiled = ours(model, case.batch, case.noise, graphs=True)
    check(compiled.whole(), expected, "compiled")
    compiled_ms = case.measure("compiled", compiled)
    print(f"batch {case.samples}: compiled is {cached_ms / compiled_ms:.2f} times as fast as cached")


def main() -> None:
    """Print settings and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="CUDA and bfloat16")
    parser.add_argument("--model", help="a name under conf/model; default mid, with --gpu pi05")
    parser.add_argument("--repeats", type=int, help="default 2, with --gpu 20")
    arguments = parser.parse_args()
    device = torch.device("cuda" if arguments.gpu else "cpu")
    torch.set_num_threads(1)  # matters on the CPU
    config = read_model(arguments.model or ("pi05" if arguments.gpu else "mid"))
    repeats = arguments.repeats or (20 if arguments.gpu else 2)
    model = make_model(config, device)
    parameters = sum(p.numel() for p in model.parameters())
    where = f"{torch.cuda.get_device_name()}, bfloat16" if arguments.gpu else f"{platform.machine()}, float32, 1 thread"
    print(f"torch {torch.__version__}, {where}")
    print(f"model {config.name}: {parameters / 1e6:.0f} M parameters, {CAMERAS} cameras, {STEPS} Euler steps,")
    print(f"{config.vision.tokens_per_image} tokens per camera, prompts of {PROMPT[0]} to {PROMPT[1]} tokens,")
    print(f"chunks of {config.action_horizon}; milliseconds, fastest of {repeats} runs")
    print("| side                     | batch |   vision |   prefix | denoise  |    whole | per chunk |")
    print("|---|---|---|---|---|---|---|")
    cases = [Case.of(config, device, samples, repeats) for samples in (1, 8)]
    found = [compare(model, case, recomputed=arguments.gpu or case.samples == 1) for case in cases]
    if arguments.gpu:
        model.compile_inference()  # behind the others, which use the same blocks
        for case, (expected, cached_ms) in zip(cases, found, strict=True):
            compare_compiled(model, case, expected, cached_ms)


if __name__ == "__main__":
    main()
