"""The processes that train one run together: who this one is, and how they end together.

A launcher (torchrun, srun) says who is who in five environment variables; nobody else asks for them. The process group
carries CPU tensors over gloo and CUDA tensors over NCCL.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.distributed.rendezvous import rendezvous

from pi05_train.errors import UserError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT = timedelta(minutes=20)
"""After which a rank that waits for another gives up; longer than `data.patience_seconds` lets a rank wait for data."""
_FAILED = "pi05_train/failed"
_POLL_SECONDS = 1.0
_GLOO_THREADS = 2
"""Of each process group."""


@dataclass(frozen=True)
class World:
    """This process among all; without a process group there is one process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of this machine: which of its devices is ours."""
    group: bool = False
    """Whether a launcher started us, so that there is a process group, perhaps of one."""

    def sum(self, values: list[int]) -> list[int]:
        """Each number summed over all ranks, on the host."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(total)
        return [int(value) for value in total]

    def max(self, values: list[int]) -> list[int]:
        """The largest of all ranks at each place, on the host."""
        if self.size == 1:
            return values
        largest = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return [int(value) for value in largest]

    def sum_on_device(self, values: Tensor) -> Tensor:
        """The tensor summed over all ranks, in place; the host does not wait."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The picklable value of every rank, by rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum([0])


ALONE = World()
"""One process that no launcher started."""


@contextmanager
def open_world() -> Iterator[World]:
    """Join the processes that a launcher started, if one did, and leave them at the end.

    An error on one rank ends all of them within seconds: the first to fail raises its own error, every other rank ends
    without a word. Raises UserError where the launcher's variables are incomplete.
    """
    world = _from_environment()
    if not world.group:
        yield world
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    # torchrun keeps the store when it starts a failed run again: with addresses of ranks that are gone, and our key.
    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    store.set_timeout(TIMEOUT)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    left = threading.Event()
    watch = store.clone()  # type: ignore[attr-defined]  # a connection of its own; the stubs lack it
    watcher = threading.Thread(target=_end_when_another_failed, args=(watch, world.rank, left), daemon=True)
    watcher.start()
    try:
        yield world
    except KeyboardInterrupt:  # every rank was asked
        raise
    except BaseException as error:
        if store.compare_set(_FAILED, "", str(world.rank)) != str(world.rank).encode():
            time.sleep(_POLL_SECONDS)  # the first speaks before a launcher, seeing us end, ends it
            raise SystemExit(1) from None
        get_error_handler().record_exception(error)  # where torchrun looks for the first error
        raise
    finally:
        left.set()
        watcher.join()  # a thread inside the store at exit would abort the process
    for _ in range(_GLOO_THREADS + 1):  # one of them may be late with a tensor of before
        _wait_and_let_go()
    dist.destroy_process_group()


def _wait_and_let_go() -> None:
    """Wait until every rank is here, and until gloo has let go of the tensor that this took.

    A thread of gloo drops a tensor after the collective has returned, and needs the interpreter for it. If that has
    begun to end, Python ends the thread inside a destructor and C++ aborts: "terminate called without an active
    exception". Destroying the group joins its threads only if nothing else refers to it; FSDP2 and DeepSpeed do.
    """
    flag = torch.zeros(())
    held = weakref.ref(flag)
    dist.all_reduce(flag)
    del flag
    while held() is not None:
        time.sleep(0.001)


def _from_environment() -> World:
    """Who the launcher says this is. Refuses what no launcher would set."""
    present = [name for name in VARIABLES if name in os.environ]
    if "WORLD_SIZE" not in present and "RANK" not in present:
        return ALONE
    missing = [name for name in VARIABLES if name not in present]
    if missing:
        if os.environ.get("RANK", "0") != "0":  # the first rank says it for all
            raise SystemExit(1)
        raise UserError(
            "environment of a rank",
            got=f"{', '.join(present)} without {', '.join(missing)}",
            expected="all of " + ", ".join(VARIABLES),
            do="start with launch/torchrun.sh, or unset them to train in one process",
        )
    return World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]), group=True)


def _end_when_another_failed(store: Store, rank: int, left: threading.Event) -> None:
    """End this process, which may be waiting in a collective forever, soon after another rank's error."""
    while not left.wait(_POLL_SECONDS):
        try:
            failed = store.check([_FAILED]) and store.get(_FAILED) != str(rank).encode()
        except dist.DistError:  # the process that holds the store is gone
            failed = True
        if failed:
            left.wait(_POLL_SECONDS)
            os._exit(1)
