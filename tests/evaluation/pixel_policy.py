"""A policy whose every action hangs on every pixel, word and seed: two runs that agree saw exactly the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from zlib import crc32

import numpy as np

from pi05_train.policy.execution import Remainder
from pi05_train.policy.policy import Chunk
from pi05_train.processing.images import decode_jpeg
from pi05_train.samples.card import SourceCard
from pi05_train.samples.schema import Sample

HORIZON = 10


class PixelPolicy:
    """Noise chosen by all that is seen, around a drift towards the far left; goes on with what is left of a chunk."""

    def __init__(self, cards: Mapping[str, SourceCard]) -> None:
        self.processor = SimpleNamespace(cards=cards)
        self.asked: list[int] = []
        self.questions = 0
        self.prompts: set[str] = set()
        self.batch_samples = 16
        self.patience: int | None = None
        """Calls until Ctrl-C; None: nobody is impatient."""

    def actions(
        self, samples: Sequence[Sample], seeds: Sequence[int], remainders: Sequence[Remainder | None]
    ) -> list[Chunk]:
        if self.patience is not None and self.patience <= 0:
            raise KeyboardInterrupt
        self.patience = None if self.patience is None else self.patience - 1
        self.asked.append(len(samples))
        self.prompts |= {sample.subtask or sample.task for sample in samples}
        chunks = [self._chunk(sample, seed) for sample, seed in zip(samples, seeds, strict=True)]
        for chunk, rest in zip(chunks, remainders, strict=True):
            if rest is not None:
                chunk[: rest.delay_steps] = rest.actions_RD[: rest.delay_steps]
                chunk[rest.delay_steps :] += rest.actions_RD[-1]
        return chunks

    def text(self, samples: Sequence[Sample], max_tokens: int) -> list[str]:
        del max_tokens
        self.questions += len(samples)
        return [f"Bounding boxes:\n\nSubtask: do {sample.task}" for sample in samples]

    def _chunk(self, sample: Sample, seed: int) -> Chunk:
        assert sample.state is not None
        pixels = [decode_jpeg(content).contiguous().numpy().tobytes() for content in sample.images.values()]
        words = (sample.subtask or sample.task).encode()
        digest = [crc32(part) for part in (*pixels, sample.state.tobytes(), words)]
        noise = np.random.default_rng([*digest, seed]).normal(0.0, 0.3, (HORIZON, 4)).astype(np.float32)
        return np.clip(noise + np.array([-0.3, 0.1, 0.0, 0.0], np.float32), -1, 1)
