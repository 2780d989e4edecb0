"""The policy: observations in, actions in physical units or text out.

Shape letters: B samples, H horizon, D padded action dims, T Euler steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.execution import Remainder
from pi05_train.policy.guidance import Guidance, soft_weights
from pi05_train.policy.rules import AnswerRules
from pi05_train.policy.sampler import Sampler
from pi05_train.policy.writing import write_best, write_most_likely
from pi05_train.processing.example import Example, pack
from pi05_train.processing.processor import Processor
from pi05_train.samples.schema import Sample

Chunk = NDArray[np.float32]
MOST_FAST_TOKENS = 256
"""openpi's limit (models/pi0_fast.py)."""


@dataclass(frozen=True)
class Denoising:
    """One chunk on its way from noise to actions, in the network's units."""

    times: tuple[float, ...]
    """Flow times, T + 1 from 1 to 0."""
    x_THD: NDArray[np.float32]
    """x_t at each, [T + 1, H, D]."""
    velocity_THD: NDArray[np.float32]
    """[T, H, D]: what the network said at each time but the last, bent by guidance if so; x_t moves by -1/T of it."""


class Policy:
    """A network and the processor it was trained with.

    Answers are computed `batch_samples` at a time; a chunk depends on its own sample and seed alone.
    """

    def __init__(
        self,
        model: Pi05,
        processor: Processor,
        *,
        euler_steps: int = 10,
        batch_samples: int = 16,
        graphs: bool = False,
    ) -> None:
        """`graphs`: chunks come from recorded CUDA graphs, for weights in half precision on CUDA."""
        self.model = model
        self.processor = processor
        self.euler_steps = euler_steps
        self.rules = AnswerRules(processor.tokens, processor.templates, model.config.vocab_size)
        self.sampler = Sampler(model, steps=euler_steps, graphs=graphs)
        self.batch_samples = batch_samples

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    @property
    def has_expert(self) -> bool:
        """Whether continuous actions can be sampled."""
        return self.model.action is not None

    def actions(
        self, samples: Sequence[Sample], seeds: Sequence[int], remainders: Sequence[Remainder | None] | None = None
    ) -> list[Chunk]:
        """A chunk [H, the source's action_dim] per sample, in physical units.

        From the flow expert, where `seeds` choose the noise; a network without one writes FAST tokens, greedily.
        Samples with a remainder get a chunk that goes on with it (real-time chunking) and begins with the steps that
        cannot be changed any more.
        """
        told = [None] * len(samples) if remainders is None else remainders
        if not self.has_expert:
            _refuse_remainders(told)
            written = self.fast_actions(samples, max_tokens=MOST_FAST_TOKENS)
            return [_decodable(chunk, sample) for chunk, sample in zip(written, samples, strict=True)]
        normalised = self.normalised_actions(samples, seeds, told)
        chunks = [self._physical(c, s) for c, s in zip(normalised, samples, strict=True)]
        for chunk, rest in zip(chunks, told, strict=True):
            if rest is not None:
                chunk[: rest.delay_steps] = rest.actions_RD[: rest.delay_steps]
        return chunks

    def fast_actions(self, samples: Sequence[Sample], *, max_tokens: int) -> list[Chunk | None]:
        """Like `actions`, from greedily written FAST tokens; None where they are no chunk."""
        chunks = self.normalised_fast_actions(samples, max_tokens=max_tokens)
        return [None if c is None else self._physical(c, s) for c, s in zip(chunks, samples, strict=True)]

    def text(self, samples: Sequence[Sample], max_tokens: int) -> list[str]:
        """What the backbone writes after each prompt, greedily: words, and boxes where they may stand."""
        return self._decoded(self.text_ids(samples, max_tokens))

    def text_ids(self, samples: Sequence[Sample], max_tokens: int) -> list[list[int]]:
        """The ids behind `text`, without the stop id."""
        return self._written(samples, max_tokens, self.rules)

    def best_text(
        self, samples: Sequence[Sample], seeds: Sequence[int], max_tokens: int, *, candidates: int, temperature: float
    ) -> list[str]:
        """The likeliest of `candidates` answers drawn at a temperature; a prompt is read once for all of them."""
        answers: list[list[int]] = []
        for start, batch in self._batches(samples, max(self.batch_samples // candidates, 1)):
            answers += write_best(
                self.model,
                batch,
                seeds[start : start + batch.num_segments],
                candidates=candidates,
                temperature=temperature,
                max_tokens=max_tokens,
                rules=self.rules,
            )
        return self._decoded(answers)

    def normalised_actions(
        self, samples: Sequence[Sample], seeds: Sequence[int], remainders: Sequence[Remainder | None] | None = None
    ) -> list[Chunk]:
        """Chunks [H, D] in the network's units, padded dimensions included."""
        told = [None] * len(samples) if remainders is None else remainders
        for rest in told:
            if rest is not None:
                _check_remainder(len(rest.actions_RD), rest.delay_steps, self.model.config.action_horizon)
        chunks: dict[int, Chunk] = {}
        for guided in (False, True):
            group = [i for i, rest in enumerate(told) if (rest is not None) == guided]
            for start, batch in self._batches([samples[i] for i in group], self.batch_samples):
                some = group[start : start + batch.num_segments]
                noise_BHD, dims_BD = self._noise([seeds[i] for i in some]), self._flow_dims([samples[i] for i in some])
                if guided:
                    guidance = self._guidance([(samples[i], told[i]) for i in some], dims_BD)
                    x_BHD = self.sampler.guided_actions(batch, noise_BHD, dims_BD, guidance)
                else:
                    x_BHD = self.sampler.actions(batch, noise_BHD, dims_BD)
                chunks |= zip(some, x_BHD.float().cpu().numpy(), strict=True)
        return [chunks[i] for i in range(len(samples))]

    def normalised_fast_actions(self, samples: Sequence[Sample], *, max_tokens: int) -> list[Chunk | None]:
        """Chunks [H, D] in the network's units from FAST tokens; None where undecodable."""
        written = self._written(samples, max_tokens, None)
        decoded = [self.processor.normalised_actions(i, s.source) for i, s in zip(written, samples, strict=True)]
        return [None if chunk is None else chunk.astype(np.float32) for chunk in decoded]

    def denoising(self, sample: Sample, seed: int, remainder: Remainder | None = None) -> Denoising:
        """How the sample's chunk comes out of its noise, Euler step by Euler step; with a remainder, guided by it."""
        ((_, batch),) = self._batches([sample], 1)
        dims_BD = self._flow_dims([sample])
        guidance = None if remainder is None else self._guidance([(sample, remainder)], dims_BD)
        steps = self.sampler.path(batch, self._noise([seed]), dims_BD, guidance)
        times, x, velocities = zip(*steps, strict=True)
        return Denoising(times, _stacked(x), _stacked([v for v in velocities if v is not None]))

    def _written(self, samples: Sequence[Sample], max_tokens: int, rules: AnswerRules | None) -> list[list[int]]:
        answers: list[list[int]] = []
        for _, batch in self._batches(samples, self.batch_samples):
            answers += write_most_likely(self.model, batch, max_tokens=max_tokens, rules=rules)
        return answers

    def _decoded(self, answers: Sequence[Sequence[int]]) -> list[str]:
        return [self.processor.tokens.text.decode(ids) for ids in answers]

    def _batches(self, samples: Sequence[Sample], size: int) -> Iterator[tuple[int, Batch]]:
        """Packed prompts, `size` at a time, with the place of the first among the samples."""
        for start in range(0, len(samples), size):
            prompts = [self.processor.prompt_only(sample) for sample in samples[start : start + size]]
            yield start, pack_without_draws(prompts, self.model).to(self.device)

    def _noise(self, seeds: Sequence[int]) -> torch.Tensor:
        shape = (self.model.config.action_horizon, self.model.config.action_dim)
        noise_BHD = np.stack([np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) for seed in seeds])
        return torch.from_numpy(noise_BHD).to(self.device)

    def _flow_dims(self, samples: Sequence[Sample]) -> torch.Tensor:
        """[B, D], True on the dims that take part in the flow."""
        dims_B = torch.tensor([self.processor.flow_dims(sample.source) for sample in samples])
        return (torch.arange(self.model.config.action_dim) < dims_B[:, None]).to(self.device)

    def _guidance(self, going_on: Sequence[tuple[Sample, Remainder | None]], dims_BD: torch.Tensor) -> Guidance:
        """Former chunks relative to the new states, in the network's units."""
        horizon = self.model.config.action_horizon
        actions_BHD = torch.zeros(len(going_on), horizon, self.model.config.action_dim)
        weights_BH = torch.zeros(len(going_on), horizon)
        for row, (sample, rest) in enumerate(going_on):
            assert rest is not None
            left = len(rest.actions_RD)
            network_RD = self.processor.network_actions(rest.actions_RD, sample.source, sample.state)
            actions_BHD[row, :left] = torch.from_numpy(network_RD)
            weights_BH[row] = soft_weights(horizon, left, rest.delay_steps)
        weights_BHD = weights_BH[..., None].to(self.device) * dims_BD[:, None]
        return Guidance(actions_BHD.to(self.device), weights_BHD, limit=self.euler_steps)

    def _physical(self, chunk_HD: Chunk, sample: Sample) -> Chunk:
        assert sample.state is not None, sample.key
        physical: Chunk = self.processor.physical_actions(chunk_HD, sample.source, sample.state).astype(np.float32)
        return physical


def _stacked(tensors_1HD: Sequence[torch.Tensor]) -> NDArray[np.float32]:
    return torch.cat(list(tensors_1HD)).float().cpu().numpy()


def _decodable(chunk: Chunk | None, sample: Sample) -> Chunk:
    if chunk is None:
        raise UserError(
            f"actions for {sample.source}, sample {sample.key}",
            got="FAST tokens that are no chunk",
            expected="a chunk",
            do="observe again, or use weights trained further",
        )
    return chunk


def _check_remainder(left: int, delay_steps: int, horizon: int) -> None:
    if not 0 <= delay_steps <= left <= horizon or left == 0:
        raise UserError(
            "remainder",
            got=f"{left} steps, {delay_steps} of them executed until the answer",
            expected=f"1 to {horizon} steps (the action horizon), of which 0 to all are executed",
            do="send what is left of the latest chunk",
        )


def _refuse_remainders(told: Sequence[Remainder | None]) -> None:
    if any(rest is not None for rest in told):
        raise UserError(
            "remainder",
            got="what is left of a chunk, for a network without an action expert",
            expected="nothing: FAST tokens cannot go on with a chunk",
            do="leave it out",
        )


def pack_without_draws(examples: Sequence[Example], model: Pi05) -> Batch:
    """A batch of examples without actions, in their own order."""
    assert all(example.actions is None for example in examples)
    return pack(examples, [None] * len(examples), range(len(examples)), model.config)
