"""A made-up robot with three cameras, for benchmarks that need pictures as large and as dense as real ones.

At 224 pixels and quality 90 a picture takes 13 KB (real ones of a kitchen robot 12 KB, of COCO 17 KB), and pictures of
an episode follow each other as a video's do.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pi05_train.data.sources.index import build_index
from pi05_train.data.sources.statistics import write_statistics
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.processing.augmentation_config import AugmentationConfig
from pi05_train.processing.normalisation import read_norm_stats
from pi05_train.processing.processor import Processor
from pi05_train.processing.templates import Templates
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import write_shards
from pi05_train.tokenization.fast import fit_fast_tokenizer
from pi05_train.tokenization.text import fit_text_tokenizer
from pi05_train.tokenization.tokens import Tokens

EPISODES, FRAMES, PIXELS, HORIZON, DIMS, MODEL_DIMS = 12, 50, 224, 50, 14, 32
CAMERAS = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]
CARD = SourceCard(
    name="robot", kind="ME", shards="robot", cameras=CAMERAS, embodiment="made-up two arms", control_mode="joint",
    rate_hz=50.0, state_dim=DIMS, action_dim=DIMS, licence="CC0-1.0", origin="benchmarks/robot_world.py",
)  # fmt: skip


def write_robot_world(root: Path) -> Processor:
    """Write shards, index and statistics to `root / "robot"`; the processor with tokenizers fitted on them."""
    rng = np.random.default_rng(0)
    samples = [sample for episode in range(EPISODES) for sample in _episode(rng, episode)]
    write_shards(root / CARD.shards, [samples[i] for i in rng.permutation(len(samples))], samples_per_shard=200)
    build_index(root / CARD.shards)
    written = write_statistics(root / CARD.shards, CARD, HORIZON)
    assert written, "every sample has actions"
    statistics = read_norm_stats(written)
    texts = [sample.task + " 0123456789" for sample in samples]
    text = fit_text_tokenizer(texts, root / "tokenizer", pieces=400, fast_size=1024)
    chunks = [sample.actions for sample in samples[::5] if sample.actions is not None]
    tokens = Tokens(text, fit_fast_tokenizer(chunks, vocab_size=1024))
    vision = VisionConfig(image_size=PIXELS, patch_size=14, width=16, depth=1, mlp_dim=16, heads=1)
    tower = TowerConfig(width=16, mlp_dim=16)
    model = ModelConfig(
        name="robot", vision=vision, backbone=tower, expert=tower, depth=1, heads=1, kv_heads=1, head_dim=16,
        vocab_size=tokens.layout.vocab_size, action_dim=MODEL_DIMS, action_horizon=HORIZON,
    )  # fmt: skip
    return Processor(model, {CARD.name: CARD}, {CARD.name: statistics}, tokens, Templates(), AugmentationConfig(), True)


def _episode(rng: np.random.Generator, episode: int) -> Iterator[Sample]:
    videos = [_video(rng) for _ in CAMERAS]
    steps = np.arange(FRAMES + HORIZON)[:, None] / 50
    angles = rng.uniform(-1, 1, DIMS) + rng.uniform(0.1, 0.6, DIMS) * np.sin(3 * steps + rng.uniform(0, 6, DIMS))
    path = angles.astype(np.float32)
    for frame in range(FRAMES):
        yield Sample(
            key=f"{episode:08d}_{frame:06d}",
            source=CARD.name,
            kind="ME",
            images={camera: _jpeg(video[frame]) for camera, video in zip(CAMERAS, videos, strict=True)},
            task=f"put the cup of table {episode} into the sink",
            state=path[frame],
            actions=path[frame + 1 : frame + 1 + HORIZON],
            action_valid=np.arange(HORIZON) < FRAMES + HORIZON - frame - 1,
            embodiment=CARD.embodiment,
            control_mode=CARD.control_mode,
            rate_hz=CARD.rate_hz,
            episode=episode,
            frame=frame,
        )


def _video(rng: np.random.Generator) -> NDArray[np.uint8]:
    """[FRAMES, PIXELS, PIXELS, 3]: a thing moves over a still background, with a little grain."""
    background, thing = 0.75 * _soft(rng, 6) + 0.25 * _soft(rng, 56), _soft(rng, 12)[:60, :60]
    place, step = rng.uniform(20, 140, 2), rng.uniform(-2, 2, 2)
    frames = np.empty((FRAMES, PIXELS, PIXELS, 3), np.uint8)
    for i, frame in enumerate(frames):
        y, x = np.clip(place + i * step, 0, PIXELS - 60).astype(int)
        picture = background.copy()
        picture[y : y + 60, x : x + 60] = thing
        frame[:] = (picture + rng.normal(0, 2, (PIXELS, PIXELS, 1))).clip(0, 255)
    return frames


def _soft(rng: np.random.Generator, blobs: int) -> NDArray[np.float32]:
    coarse = Image.fromarray(rng.integers(30, 226, (blobs, blobs, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC), dtype=np.float32)


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
