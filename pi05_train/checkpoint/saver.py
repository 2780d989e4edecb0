"""The checkpoints of a running training: copied between two steps, written while the next ones are computed.

A thread writes, over a process group of its own. A process would not share Python's interpreter lock, but needs shared
memory for the whole state (containers have 64 MB), dies of the signals that ask the run to save, outlives a killed rank
and goes on writing. The lock is little used: tensors are few and large, and reading, writing and checksums of large
pieces do not hold it or hold it briefly (benchmarks/checkpoint_save.py).
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_quietly
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint._state_dict_stager import StateDictStager

from pi05_train.checkpoint.config import CheckpointConfig
from pi05_train.checkpoint.integrity import check_space, remove_leftovers
from pi05_train.checkpoint.ranks import Ranks
from pi05_train.checkpoint.run_state import Snapshot, prune, snapshot, step_folder, write
from pi05_train.checkpoint.tensors import total_bytes


class Saver:
    """Writes one checkpoint at a time; a context manager that is left when the last one is complete. Every rank has
    one.
    """

    def __init__(
        self, run: Path, config: CheckpointConfig, ranks: Ranks, state: dict[str, Any], *, pinned: bool
    ) -> None:
        """`state` is what will be saved; `pinned`: copies are made into memory that a CUDA device writes to quickly."""
        self._run, self._checkpoints = run, step_folder(run, 0).parent
        self._config = config
        self._ranks = ranks
        self._needed_bytes = total_bytes(state)
        self._room_seen = False
        self._writing: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        # Not the public `DefaultStager`: torch 2.11's can be used once.
        self._stager = StateDictStager(pin_memory=pinned, share_memory=False)
        self._pinned = pinned
        if self._ranks.rank == 0:
            remove_leftovers(self._checkpoints)

    @property
    def writing(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writing is not None and not self._writing.done()

    def before_step(self) -> None:
        """Refuse to go on after a save that failed, or without room for the next one, which would lose the steps."""
        if not self.writing:
            self.wait()
        if self._writing is None and not self._room_seen and self._ranks.rank == 0:
            check_space(self._checkpoints, self._needed_bytes)
            self._room_seen = True

    def save(self, step: int, state: dict[str, Any], extra: dict[str, Any]) -> None:
        """Save the state after `step` optimizer steps; once this returns, it may change.

        Waits for the save before, and raises what that one failed of.
        """
        self.wait()
        taken = snapshot(step, state, extra, self._ranks)
        self._room_seen = False
        if not self._config.asynchronous:
            self._write(taken)
            return
        copied = self._stager.stage(taken.share, non_blocking=self._pinned)
        if self._pinned:
            torch.cuda.synchronize()
        self._writing = self._thread.submit(self._write, replace(taken, share=copied))

    def wait(self) -> None:
        """Until the save that is being written, if there is one, is complete; raises what it failed of."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """After an error the save is completed too: it is of a step before."""
        try:
            if error is None:
                self.wait()
            elif self._writing is not None:
                wait_quietly([self._writing])
        finally:
            self._thread.shutdown()
            self._stager.close()  # type: ignore[no-untyped-call]

    def _write(self, taken: Snapshot) -> None:
        write(self._run, taken, self._ranks)
        if self._ranks.rank == 0:
            prune(self._run, self._config.keep_last, self._config.keep_every_steps)
