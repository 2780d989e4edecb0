"""A small network with a real processor over made-up samples, one source of every kind."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pi05_train.data.sources.statistics import norm_stats
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.policy import Policy
from pi05_train.processing.normalisation import NormStats, normalise, to_delta
from pi05_train.processing.processor import Processor
from pi05_train.processing.templates import Templates
from pi05_train.samples.schema import Sample
from pi05_train.tokenization.fast import fit_fast_tokenizer
from pi05_train.tokenization.text import fit_text_tokenizer
from pi05_train.tokenization.tokens import Tokens
from tests.synthetic import CARDS, synthetic_samples

HORIZON, ACTION_DIM, FAST_SIZE = 8, 14, 300


@cache
def toy_samples(source: str) -> tuple[Sample, ...]:
    return tuple(synthetic_samples(CARDS[source]))


@cache
def toy_processor() -> Processor:
    statistics = {name: _statistics(name) for name, card in CARDS.items() if card.state_dim}
    with TemporaryDirectory() as folder:
        corpus = [
            f"Task: {s.task}, State: 12 200;\nAction: {s.subtask} {s.question} {s.answer} {s.verbal_instruction}"
            for name in CARDS
            for s in toy_samples(name)
        ]
        text = fit_text_tokenizer(corpus, Path(folder), pieces=400, fast_size=FAST_SIZE)
    chunks = []
    for name, card in CARDS.items():
        for sample in toy_samples(name) if card.has_actions else ():
            chunk = np.zeros((HORIZON, ACTION_DIM))
            actions = to_delta(sample.actions[:HORIZON], sample.state, card.delta_mask)
            chunk[:, : card.action_dim] = normalise(actions, statistics[name]["actions"])
            chunks.append(chunk)
    tokens = Tokens(text, fit_fast_tokenizer(chunks, vocab_size=FAST_SIZE))
    model = ModelConfig(
        name="toy",
        vision=VisionConfig(image_size=32, patch_size=16, width=16, depth=1, mlp_dim=24, heads=2),
        backbone=TowerConfig(width=24, mlp_dim=32),
        expert=TowerConfig(width=16, mlp_dim=24),
        depth=2,
        heads=2,
        kv_heads=1,
        head_dim=8,
        vocab_size=tokens.layout.vocab_size,
        action_dim=ACTION_DIM,
        action_horizon=HORIZON,
    )
    return Processor(model, CARDS, statistics, tokens, Templates(), None, stage_has_expert=False)


def toy_policy(seed: int = 0, *, expert: bool = True, batch_samples: int = 16) -> Policy:
    """Freshly initialised weights."""
    processor = toy_processor()
    model = Pi05(processor.model, expert=expert)
    model.init_weights(seed)
    return Policy(model.eval(), processor, euler_steps=4, batch_samples=batch_samples)


def _statistics(name: str) -> dict[str, NormStats]:
    card, samples = CARDS[name], toy_samples(name)
    states = np.stack([sample.state for sample in samples])
    if not card.has_actions:
        return {"state": norm_stats(states)}
    chunks = [to_delta(sample.actions[:HORIZON], sample.state, card.delta_mask) for sample in samples]
    return {"state": norm_stats(states), "actions": norm_stats(np.concatenate(chunks))}
