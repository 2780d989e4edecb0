"""The real processor for the synthetic world; apart from `synthetic.py`, which tests without torch import too."""

from __future__ import annotations

from pathlib import Path

from pi05_train.data.sources.statistics import write_statistics
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.processing.augmentation_config import AugmentationConfig
from pi05_train.processing.normalisation import NormStats, read_norm_stats
from pi05_train.processing.processor import Processor
from pi05_train.processing.templates import Templates
from pi05_train.samples.card import SourceCard
from pi05_train.tokenization.fast import fit_fast_tokenizer
from pi05_train.tokenization.text import fit_text_tokenizer
from pi05_train.tokenization.tokens import Tokens
from tests.synthetic import CHUNK_STEPS, synthetic_samples


def synthetic_processor(
    root: Path, cards: dict[str, SourceCard], *, stage_has_expert: bool = True, image_size: int = 28
) -> Processor:
    """A processor for the world under `root`, with tokenizers fitted and statistics computed on its training rows."""
    vision = VisionConfig(image_size=image_size, patch_size=14, width=16, depth=1, mlp_dim=16, heads=1)
    tower = TowerConfig(width=16, mlp_dim=16)
    samples = [sample for card in cards.values() for sample in synthetic_samples(card) if sample.split == "train"]
    words = [" ".join((s.task, s.subtask, s.question, s.answer, s.verbal_instruction, "0123456789")) for s in samples]
    text = fit_text_tokenizer(words, root / "tokenizer", pieces=320, fast_size=300)
    chunks = [sample.actions for sample in samples if sample.actions is not None]
    tokens = Tokens(text, fit_fast_tokenizer(chunks, vocab_size=300))
    statistics: dict[str, dict[str, NormStats]] = {}
    for card in cards.values():
        path = write_statistics(root / card.shards, card, CHUNK_STEPS - 2)
        statistics[card.name] = read_norm_stats(path) if path else {}
    model = ModelConfig(
        name="toy", vision=vision, backbone=tower, expert=tower, depth=1, heads=1, kv_heads=1, head_dim=16,
        vocab_size=tokens.layout.vocab_size, action_dim=14, action_horizon=CHUNK_STEPS - 2,
    )  # fmt: skip
    return Processor(model, cards, statistics, tokens, Templates(), AugmentationConfig(), stage_has_expert)
