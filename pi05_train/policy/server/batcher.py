"""Requests of all clients through one policy: what waits is computed together, each answer goes to its own request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pi05_train.policy.execution import Remainder
from pi05_train.samples.schema import Sample

Chunk = NDArray[np.float32]
Infer = Callable[[Sequence[Sample], Sequence[int], Sequence[Remainder | None]], Sequence[Chunk]]
"""Samples, the seeds of their noise and what is left of their former chunks to action chunks in physical units, in the
same order: `Policy.actions`."""


@dataclass(frozen=True)
class Answer:
    """One request's chunk and what it cost."""

    chunk: Chunk
    queue_ms: float
    """From the request until its batch began."""
    infer_ms: float
    """The whole batch."""
    batch_samples: int


@dataclass(frozen=True)
class _Job:
    sample: Sample
    seed: int
    remainder: Remainder | None
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """One worker thread computes; while it does, requests gather for the next batch. Nobody waits for company."""

    def __init__(self, infer: Infer, batch_samples: int) -> None:
        self._infer, self._batch_samples = infer, batch_samples
        self._waiting: asyncio.Queue[_Job] = asyncio.Queue()

    def submit(self, sample: Sample, seed: int, remainder: Remainder | None) -> asyncio.Future[Answer]:
        """The answer to come, or the exception that this request met. Cancelled while it waits, it is not computed."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(_Job(sample, seed, remainder, answer))
        return answer

    async def run(self) -> None:
        """Compute until cancelled."""
        with ThreadPoolExecutor(1, "inference") as worker:
            while True:
                jobs = [await self._waiting.get()]
                while len(jobs) < self._batch_samples and not self._waiting.empty():
                    jobs.append(self._waiting.get_nowait())
                jobs = [job for job in jobs if not job.answer.cancelled()]
                if jobs:
                    await self._compute(jobs, worker)

    async def _compute(self, jobs: Sequence[_Job], worker: ThreadPoolExecutor) -> None:
        start = time.perf_counter()
        found = await asyncio.get_running_loop().run_in_executor(worker, self._chunks, jobs)
        infer_ms = (time.perf_counter() - start) * 1e3
        for job, chunk in zip(jobs, found, strict=True):
            if job.answer.cancelled():
                continue
            if isinstance(chunk, Exception):
                job.answer.set_exception(chunk)
            else:
                job.answer.set_result(Answer(chunk, (start - job.since) * 1e3, infer_ms, len(jobs)))

    def _chunks(self, jobs: Sequence[_Job]) -> Sequence[Chunk | Exception]:
        """A batch that fails is computed request by request, so that only the culprits fail."""
        try:
            chunks = self._infer(
                [job.sample for job in jobs], [job.seed for job in jobs], [job.remainder for job in jobs]
            )
            assert len(chunks) == len(jobs)
        except Exception as error:
            return [error] if len(jobs) == 1 else [chunk for job in jobs for chunk in self._chunks([job])]
        return chunks
