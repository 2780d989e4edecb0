"""Requests of all clients through one policy: what waits is computed together, each answer goes to its own request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pi05_train.policy.hierarchy import RobotState, Turn

Chunk = NDArray[np.float32]
Act = Callable[[Sequence[Turn]], Sequence[tuple[Chunk, RobotState]]]
"""Turns to action chunks in physical units and the robots' new states, in the same order: `Hierarchy.act`."""


@dataclass(frozen=True)
class Answer:
    """One request's chunk, its robot's new state and what it cost."""

    chunk: Chunk
    state: RobotState
    queue_ms: float
    """From the request until its batch began."""
    infer_ms: float
    """The whole batch."""
    batch_samples: int


@dataclass(frozen=True)
class _Job:
    turn: Turn
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """One worker thread computes; while it does, requests gather for the next batch. Nobody waits for company."""

    def __init__(self, act: Act, batch_samples: int) -> None:
        self._act, self._batch_samples = act, batch_samples
        self._waiting: asyncio.Queue[_Job] = asyncio.Queue()

    def submit(self, turn: Turn) -> asyncio.Future[Answer]:
        """The answer to come, or the exception that this request met. Cancelled while it waits, it is not computed."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(_Job(turn, answer))
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
        found = await asyncio.get_running_loop().run_in_executor(worker, self._acted, jobs)
        infer_ms = (time.perf_counter() - start) * 1e3
        for job, one in zip(jobs, found, strict=True):
            if job.answer.cancelled():
                continue
            if isinstance(one, Exception):
                job.answer.set_exception(one)
            else:
                job.answer.set_result(Answer(*one, (start - job.since) * 1e3, infer_ms, len(jobs)))

    def _acted(self, jobs: Sequence[_Job]) -> Sequence[tuple[Chunk, RobotState] | Exception]:
        """A batch that fails is computed request by request, so that only the culprits fail."""
        try:
            acted = self._act([job.turn for job in jobs])
            assert len(acted) == len(jobs)
        except Exception as error:
            return [error] if len(jobs) == 1 else [one for job in jobs for one in self._acted([job])]
        return acted
