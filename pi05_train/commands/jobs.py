"""Run folders as jobs of a cluster, through submitit; the options are those of Hydra's submitit launcher.

Hydra's own launcher would compose again when a job starts, and wait here until the last one has ended. This one submits
what the run folders say, and leaves.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pi05_train import train as stage
from pi05_train.config.compose import read_run
from pi05_train.engine.world import open_world
from pi05_train.errors import UserError

if TYPE_CHECKING:
    from submitit import Job
    from submitit.helpers import DelayedSubmission

WARNING = signal.SIGUSR2
"""What submitit lets SLURM send before the time limit, and preempts with."""


@dataclass(frozen=True)
class TrainRun:
    """What a job does in each of its processes: train what a run folder says, or go on with it."""

    folder: str

    def __call__(self) -> None:
        """After a warning the run is saved, and submitit's handler puts the job into the queue again."""
        _say_who_this_is()
        with warned_after_saving(), open_world() as world:
            stage.train(read_run(Path(self.folder)), world)

    def checkpoint(self) -> DelayedSubmission:
        """What goes on in place of this job; submitit asks before it requeues."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(folders: Sequence[Path], launcher: Mapping[str, Any], variables: Mapping[str, str]) -> list[Job[None]]:
    """One job for each run folder; `launcher` is Hydra's configuration of it, `variables` the jobs find set.

    Refuses (UserError) a machine without SLURM, and what SLURM refuses.
    """
    from submitit import AutoExecutor
    from submitit.core.utils import FailedJobError

    options = dict(launcher)
    cluster = "slurm" if options.pop("_target_").endswith(".SlurmLauncher") else "local"
    if cluster == "slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "hydra/launcher=submitit_slurm",
            got="no sbatch here",
            expected="a machine that can submit to SLURM",
            do="start it on a login node",
        )
    of_executor = {f"{cluster}_max_num_timeout": options.pop("max_num_timeout", 0)}
    executor = AutoExecutor(options.pop("submitit_folder"), cluster=cluster, **of_executor)
    shared = executor._valid_parameters()
    executor.update_parameters(**{name if name in shared else f"{cluster}_{name}": options[name] for name in options})
    with _environment(variables):
        try:
            return executor.submit_array([TrainRun(str(folder)) for folder in folders])
        except FailedJobError as error:
            raise UserError(
                "hydra/launcher=submitit_slurm",
                got=" ".join(str(error).split()),
                expected="options that SLURM takes",
                do="correct hydra.launcher...",
            ) from None


@contextmanager
def warned_after_saving() -> Iterator[None]:
    """A warning reaches a run as the signal that makes it save and leave, and whoever listened before at the end.

    Where the run does not listen, not yet or no more, there is nothing to save, and it is passed on at once.
    """
    before: Callable[[int, FrameType | None], Any] = signal.getsignal(WARNING)  # type: ignore[assignment]
    waiting: list[int] = []

    def warned(number: int, frame: FrameType | None) -> None:
        if callable(signal.getsignal(signal.SIGUSR1)):
            waiting.append(number)
            signal.raise_signal(signal.SIGUSR1)
        else:
            before(number, frame)

    signal.signal(WARNING, warned)
    try:
        yield
    finally:
        signal.signal(WARNING, before)
    if waiting:
        signal.raise_signal(WARNING)


def _say_who_this_is() -> None:
    """The variables of a rank, as torchrun would set them. MASTER_ADDR stays where the job's set-up knows better."""
    from submitit.helpers import TorchDistributedEnvironment

    where = TorchDistributedEnvironment()
    ranks = {"RANK": where.rank, "WORLD_SIZE": where.world_size, "LOCAL_RANK": where.local_rank}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    os.environ["MASTER_PORT"] = str(where.master_port)
    os.environ.setdefault("MASTER_ADDR", where.master_addr)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
