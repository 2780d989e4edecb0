"""Training steps per second: packed without padding, against the same network on examples padded to the maximum.

Both sides take the same samples through the same weights, losses and optimizer (their outputs are compared first). The
padded side is batched scaled_dot_product_attention under a boolean mask, one call for backbone rows and one for action
rows; absent cameras are black images behind the mask; logits are computed at supervised positions only; and the
expert runs for the examples with actions only.

Run: uv run python benchmarks/training_step.py
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional

from pi05_train.model.batch import Batch, SegmentInfo
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.model.flow import noisy_actions
from pi05_train.model.gemma import Rotation, rotation
from pi05_train.model.joint import JointBlock
from pi05_train.model.pi05 import Output, Pi05
from pi05_train.objective.config import ObjectiveConfig
from pi05_train.objective.losses import count, total_loss
from pi05_train.resources import resource

CAMERAS, PROMPT, TARGET = 4, (10, 60), (5, 40)
OBJECTIVE = ObjectiveConfig(alpha=10.0, insulation=True, expert=True)


@dataclass(frozen=True)
class Shape:
    """The lengths of one sample."""

    cameras: int
    prompt: int
    target: int
    actions: bool


def draw_shapes(samples: int, rng: random.Random) -> list[Shape]:
    """One to four cameras in equal shares, short texts, half of the samples with actions."""
    return [
        Shape(1 + index % CAMERAS, rng.randint(*PROMPT), rng.randint(*TARGET), actions=index // CAMERAS % 2 == 0)
        for index in range(samples)
    ]


def draw_batch(shapes: list[Shape], config: ModelConfig, rng: random.Random) -> Batch:
    """The packed batch of samples with these lengths and random content."""
    torch.manual_seed(rng.randrange(2**31))
    ids: list[int] = []
    positions: list[int] = []
    image_rows: list[int] = []
    label_rows: list[int] = []
    prefixes: list[int] = []
    for shape in shapes:
        images, start = shape.cameras * config.vision.tokens_per_image, len(ids)
        prefix = images + shape.prompt
        prefixes.append(prefix)
        ids += [0] * images + [rng.randrange(config.vocab_size) for _ in range(shape.prompt + shape.target)]
        positions += range(prefix + shape.target)
        image_rows += range(start, start + images)
        label_rows += range(start + prefix - 1, start + prefix + shape.target - 1)
    acting = tuple(s for s, shape in enumerate(shapes) if shape.actions)
    chunk, size = (len(acting), config.action_horizon, config.action_dim), config.vision.image_size
    return Batch(
        images_ICHW=torch.randint(0, 256, (sum(s.cameras for s in shapes), 3, size, size), dtype=torch.uint8),
        image_rows_V=torch.tensor(image_rows),
        token_ids_N=torch.tensor(ids),
        positions_N=torch.tensor(positions),
        prefix_lengths=tuple(prefixes),
        target_lengths=tuple(shape.target for shape in shapes),
        label_rows_L=torch.tensor(label_rows),
        labels_L=torch.tensor(ids)[torch.tensor(label_rows) + 1],
        label_segments_L=torch.tensor([s for s, shape in enumerate(shapes) for _ in range(shape.target)]),
        action_segments=acting,
        actions_AHD=torch.randn(chunk),
        action_mask_AHD=torch.ones(chunk, dtype=torch.bool),
        noise_AKHD=torch.randn(chunk)[:, None],
        time_AK=torch.rand(len(acting), 1),
        states_BD=torch.zeros(len(shapes), config.action_dim),
        segments=tuple(SegmentInfo("random", "CE", str(s), s) for s in range(len(shapes))),
    )


@dataclass(frozen=True)
class PaddedBatch:
    """The same samples as rectangles: B examples of S columns (4 cameras, longest prompt, longest target)."""

    packed: Batch
    images: Tensor
    token_ids_BS: Tensor
    rotation: Rotation
    chunk_rotation: Rotation
    mask_BSS: Tensor
    chunk_mask_AHJ: Tensor
    label_rows: tuple[Tensor, Tensor]
    acting: Tensor


def pad(batch: Batch, shapes: list[Shape], config: ModelConfig) -> PaddedBatch:
    """`batch` padded to the maximum. Valid columns are found from the lengths, positions count valid columns."""
    per_image, size = config.vision.tokens_per_image, config.vision.image_size
    image_columns = CAMERAS * per_image
    columns = image_columns + PROMPT[1] + TARGET[1]
    images = torch.zeros(len(shapes), CAMERAS, 3, size, size, dtype=torch.uint8)
    ids = torch.zeros(len(shapes), columns, dtype=torch.int64)
    positions, is_prefix, is_target = torch.zeros_like(ids), ids.bool(), ids.bool()
    row = image = 0
    labels: list[tuple[int, int]] = []
    for s, shape in enumerate(shapes):
        images[s, : shape.cameras] = batch.images_ICHW[image : image + shape.cameras]
        image += shape.cameras
        prefix, length = batch.prefix_lengths[s], batch.prefix_lengths[s] + shape.target
        text = image_columns + torch.arange(shape.prompt)
        target = image_columns + PROMPT[1] + torch.arange(shape.target)
        where = torch.cat([torch.arange(shape.cameras * per_image), text, target])
        ids[s, where], positions[s, where] = batch.token_ids_N[row : row + length], torch.arange(length)
        is_prefix[s, where[:prefix]], is_target[s, target] = True, True
        labels += [(s, column) for column in where[prefix - 1 : -1].tolist()]
        row += length
    causal = torch.ones(columns, columns, dtype=torch.bool).tril()
    # Rows of padding see the prefix too: a row without keys would be undefined.
    mask = is_prefix[:, None] | (is_target[:, :, None] & is_target[:, None] & causal)
    acting = torch.tensor(batch.action_segments)
    steps = torch.arange(config.action_horizon)
    own_chunk = torch.ones(len(acting), len(steps), len(steps), dtype=torch.bool)
    sees_prefix = is_prefix[acting, None].expand(-1, len(steps), -1)
    starts = torch.tensor(batch.prefix_lengths)[acting]
    return PaddedBatch(
        batch,
        images.flatten(0, 1),
        ids,
        rotation(positions, config.head_dim),
        rotation(starts[:, None] + steps, config.head_dim),
        mask,
        torch.cat([sees_prefix, own_chunk], dim=2),
        (torch.tensor([s for s, _ in labels]), torch.tensor([column for _, column in labels])),
        acting,
    )


def masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """[B, rows, heads, head_dim] queries on keys and values of one head."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    heads = q.shape[1]
    k, v = k.expand(-1, heads, -1, -1), v.expand(-1, heads, -1, -1)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None]).transpose(1, 2)


def padded_layer(
    layer: JointBlock, x: Tensor, chunk: Tensor, condition: Tensor, batch: PaddedBatch
) -> tuple[Tensor, Tensor]:
    """One joint layer on rectangles."""
    backbone, expert = layer.backbone, layer.expert
    assert expert is not None
    normed, _ = backbone.attention_norm(x)
    k, v = backbone.keys_values(normed, batch.rotation)
    attended = masked_attention(backbone.queries(normed, batch.rotation), k, v, batch.mask_BSS)
    x = backbone.finish(x, attended, None, None)
    normed, gate = expert.attention_norm(chunk, condition[:, None])
    own_k, own_v = expert.keys_values(normed, batch.chunk_rotation)
    k = torch.cat([k.detach()[batch.acting], own_k], dim=1)
    v = torch.cat([v.detach()[batch.acting], own_v], dim=1)
    attended = masked_attention(expert.queries(normed, batch.chunk_rotation), k, v, batch.chunk_mask_AHJ)
    return x, expert.finish(chunk, attended, gate, condition[:, None])


def padded_forward(model: Pi05, batch: PaddedBatch) -> Output:
    """`Pi05.forward` on rectangles, with the same modules."""
    action, packed = model.action, batch.packed
    assert action is not None
    text = model.embedding(batch.token_ids_BS) * model.config.backbone.width**0.5
    images = model.vision(batch.images).unflatten(0, (-1, CAMERAS)).flatten(1, 2)
    x = torch.cat([images, text[:, images.shape[1] :]], dim=1)
    noisy = noisy_actions(packed.actions_AHD, packed.noise_AKHD, packed.time_AK)[:, 0]
    chunk, condition = action.embed(noisy, packed.time_AK[:, 0], packed.states_BD[list(packed.action_segments)])
    assert condition is not None
    for layer in model.layers:
        assert isinstance(layer, JointBlock)
        x, chunk = padded_layer(layer, x, chunk, condition, batch)
    hidden, _ = model.final_norm(x[batch.label_rows])
    logits = functional.linear(hidden, model.embedding.weight)
    return Output(logits, action.velocity(chunk, condition)[:, None])


@dataclass(frozen=True)
class Seconds:
    """What one step took."""

    elapsed: float
    processor: float
    """Summed over threads; a busy machine lengthens it less than the elapsed time."""


def step_seconds(optimizer: torch.optim.Optimizer, forward: Callable[[], Output], batch: Batch) -> Seconds:
    """Time of one forward, backward and AdamW step."""
    elapsed, processor = time.perf_counter(), time.process_time()
    loss = total_loss(forward(), batch, OBJECTIVE, count(batch)).total
    torch.autograd.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    return Seconds(time.perf_counter() - elapsed, time.process_time() - processor)


def median(steps: list[Seconds]) -> Seconds:
    return Seconds(statistics.median(s.elapsed for s in steps), statistics.median(s.processor for s in steps))


def measure(model: Pi05, batches: list[Batch], rectangles: list[PaddedBatch]) -> tuple[Seconds, Seconds]:
    """Medians of a packed and of a padded step, taken in turn, after one unmeasured pair."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    packed, padded = [], []
    for batch, rectangle in [(batches[0], rectangles[0]), *zip(batches, rectangles, strict=True)]:
        packed.append(step_seconds(optimizer, partial(model, batch), batch))
        padded.append(step_seconds(optimizer, partial(padded_forward, model, rectangle), batch))
    return median(packed[1:]), median(padded[1:])


def read_model(name: str) -> ModelConfig:
    """The sizes in conf/model."""
    values: dict[str, Any] = yaml.safe_load((resource("conf") / "model" / f"{name}.yaml").read_text())
    values["vision"] = VisionConfig(**values["vision"])
    values |= {tower: TowerConfig(**values[tower]) for tower in ("backbone", "expert")}
    return ModelConfig(**values)


def open_gates(model: Pi05) -> None:
    """Gives the adaptive norms weights, or the expert would be the identity and its attention would not be compared."""
    for name, parameter in model.expert_parameters():
        if name.endswith("modulation.weight"):
            torch.nn.init.normal_(parameter, std=0.02)


@torch.no_grad()
def compare(model: Pi05, batch: Batch, padded: PaddedBatch) -> tuple[float, float]:
    """Largest differences of logits and velocities: both sides must compute the same thing."""
    ours, theirs = model(batch), padded_forward(model, padded)
    assert ours.velocity_AKHD is not None
    assert theirs.velocity_AKHD is not None
    torch.testing.assert_close(ours.logits_LV, theirs.logits_LV, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.velocity_AKHD, theirs.velocity_AKHD, rtol=1e-3, atol=1e-4)
    logits = (ours.logits_LV - theirs.logits_LV).abs().max().item()
    return logits, (ours.velocity_AKHD - theirs.velocity_AKHD).abs().max().item()


def main() -> None:
    """Print settings, speeds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mid", help="a name under conf/model")
    parser.add_argument("--samples", type=int, default=8, help="per step")
    parser.add_argument("--steps", type=int, default=3, help="measured, each with fresh samples")
    arguments = parser.parse_args()

    config, rng = read_model(arguments.model), random.Random(0)
    model = Pi05(config, expert=True)
    model.init_weights(seed=0)
    shapes = [draw_shapes(arguments.samples, rng) for _ in range(arguments.steps)]
    batches = [draw_batch(s, config, rng) for s in shapes]
    rectangles = [pad(b, s, config) for b, s in zip(batches, shapes, strict=True)]
    open_gates(model)
    logits, velocity = compare(model, batches[0], rectangles[0])
    packed, padded = measure(model, batches, rectangles)

    tokens = statistics.mean(sum(b.prefix_lengths) + sum(b.target_lengths) for b in batches)
    chunk_rows = statistics.mean(len(b.action_segments) * config.action_horizon for b in batches)
    padded_tokens = rectangles[0].token_ids_BS.numel()
    parameters = sum(p.numel() for p in model.parameters())
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} thread(s), float32")
    print(
        f"model {config.name}: {parameters / 1e6:.1f} M parameters, {config.vision.tokens_per_image} tokens per image"
    )
    print(f"{arguments.samples} samples per step; packed and padded in turn, median of {arguments.steps} steps each")
    print(f"samples: 1-{CAMERAS} cameras equally often, prompts {PROMPT}, targets {TARGET} tokens, half with actions")
    print(f"tokens per step: {tokens:.0f} packed, {padded_tokens} padded, and {chunk_rows:.0f} action rows")
    print(f"largest difference of the two sides: logits {logits:.1e}, velocities {velocity:.1e}")
    for name, seconds in (("packed", packed), ("padded", padded)):
        samples_per_s, tokens_per_s = arguments.samples / seconds.elapsed, (tokens + chunk_rows) / seconds.elapsed
        print(
            f"{name}: {seconds.elapsed:.2f} s per step ({seconds.processor:.2f} s of processor time), "
            f"{samples_per_s:.2f} samples/s, {tokens_per_s:.0f} tokens/s without padding"
        )
    print(
        f"packed is {padded.elapsed / packed.elapsed:.2f} times as fast "
        f"({padded.processor / packed.processor:.2f} by processor time); the bar is 1.5"
    )


if __name__ == "__main__":
    main()
