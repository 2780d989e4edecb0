"""A run that was stopped, killed or continued is the run that never was."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from pi05_train.checkpoint.config import CheckpointConfig
from pi05_train.checkpoint.run_state import DataState, steps_saved
from pi05_train.config.run_parts import ScheduleConfig
from pi05_train.data.loading.loader import LostWorker
from pi05_train.engine.pytorch import PyTorchEngine
from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.trainer.examples import Prediction
from pi05_train.trainer.loop import Plan, fit
from pi05_train.trainer.metrics import Row
from pi05_train.trainer.run_folder import RunFolder
from tests.engine.forked import fork_ranks
from tests.engine.tiny import PRETRAIN, TINY, tiny_engine, tiny_loader
from tests.trainer.logged import logged

STEPS = 7


def data_state(step: int, seed: int = 1, fingerprint: str = "abc") -> DataState:
    return DataState(seed, step, global_batch_samples=8, fingerprint=fingerprint)


PLAN = Plan(
    steps=STEPS,
    data_state=data_state,
    peak_learning_rate=1e-2,
    schedule=ScheduleConfig("warmup_cosine", 2, STEPS, 1e-3),
    checkpoint=CheckpointConfig(every_steps=3, keep_last=2),
    log_every_steps=2,
    mixture_row=lambda steps: {"epochs/arm": steps / 4},
    kinds={"arm": "ME", "web": "WD"},
    model=TINY,
)


def open_run(path: Path) -> RunFolder:
    return RunFolder(path, config="run: {seed: 1}\n", fingerprints={})


def train(path: Path, plan: Plan = PLAN, loader=tiny_loader, trackers=()) -> PyTorchEngine:
    """What a process does: everything new except the run folder."""
    engine = tiny_engine()
    with open_run(path) as folder:
        fit(engine, loader, plan, folder, trackers)
    return engine


def assert_same_run(engine: PyTorchEngine, path: Path, other: PyTorchEngine, other_path: Path) -> None:
    assert logged(path) == logged(other_path)
    assert_same_tensors(engine.state(), other.state())


def assert_same_tensors(got: dict[str, object], expected: dict[str, object]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_same_tensors(got[name], value)  # type: ignore[arg-type]
        else:
            assert torch.equal(got[name], value), name  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[PyTorchEngine, Path]:
    path = tmp_path_factory.mktemp("whole")
    return train(path), path


class DiesError(Exception):
    """Stands for whatever ends a process without a word."""


def dying_loader(at: int):
    def loader(start: int) -> Iterator[list[Batch]]:
        for step, micro_batches in zip(range(start, STEPS), tiny_loader(start), strict=False):
            if step == at:
                raise DiesError
            yield micro_batches

    return loader


def signalling_loader(at: int, number: int):
    def loader(start: int) -> Iterator[list[Batch]]:
        for step, micro_batches in zip(range(start, STEPS), tiny_loader(start), strict=False):
            if step == at:
                os.kill(os.getpid(), number)
            yield micro_batches

    return loader


def test_whole_run_logs_saves_and_keeps(whole: tuple[PyTorchEngine, Path]) -> None:
    _, path = whole
    found = logged(path)
    assert [row["step"] for row in found] == [1, 3, 5, 6]
    assert [row["samples"] for row in found] == [12, 24, 36, 42]
    assert found[0]["learning_rate"] == pytest.approx(1e-2 * 2 / 3)
    assert found[-1]["share/arm"] == pytest.approx(0.5)
    assert {"loss/total", "loss/text/web", "loss/flow/arm", "gradient_norm/backbone"} <= found[0].keys()
    assert [row["epochs/arm"] for row in found] == [0.5, 1.0, 1.5, 1.75]
    assert steps_saved(path) == [6, 7]


@pytest.mark.parametrize("at", [1, 4, 6])
def test_crash_then_resume_is_the_uninterrupted_run(tmp_path: Path, whole: tuple[PyTorchEngine, Path], at: int) -> None:
    """Before the first checkpoint, between two, and right after one; logging windows straddle the checkpoints."""
    with pytest.raises(DiesError):
        train(tmp_path, loader=dying_loader(at))
    assert_same_run(train(tmp_path), tmp_path, *whole)


def test_sigterm_saves_returns_and_resumes(tmp_path: Path, whole: tuple[PyTorchEngine, Path]) -> None:
    engine = tiny_engine()
    with open_run(tmp_path) as folder:
        assert fit(engine, signalling_loader(4, signal.SIGTERM), PLAN, folder) == 5
    assert steps_saved(tmp_path) == [3, 5]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert_same_run(train(tmp_path), tmp_path, *whole)


SIGNALLED = """
import signal, sys
from dataclasses import replace
from pathlib import Path
from pi05_train.engine.pytorch import PyTorchEngine
from pi05_train.engine.world import open_world
from pi05_train.trainer.loop import fit
from pi05_train.trainer.run_folder import FollowedRunFolder
from tests.engine.tiny import CPU_FP32, OPTIMIZER, POSTTRAIN, tiny_loader, tiny_model
from tests.trainer.test_loop import PLAN, open_run, signalling_loader
path = Path(sys.argv[1])
with open_world() as world:
    engine = PyTorchEngine(tiny_model(), POSTTRAIN, OPTIMIZER, replace(CPU_FP32, name="fsdp2"), world)
    if world.rank == 0:
        done = fit(engine, tiny_loader, PLAN, open_run(path))
    else:
        done = fit(engine, signalling_loader(4, signal.SIGTERM), PLAN, FollowedRunFolder(path))
    print("done", done)
"""


def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path: Path) -> None:
    ended = fork_ranks(2, "-c", SIGNALLED, str(tmp_path))
    assert [process.stdout.splitlines()[-1:] for process in ended] == [["done 5"]] * 2, ended[1].stderr
    assert steps_saved(tmp_path) == [3, 5]
    assert [row["step"] for row in logged(tmp_path)] == [1, 3]


FULL_DISK = (
    SIGNALLED[: SIGNALLED.index("path =")]
    + """
import resource
def filling(start):
    for step, batches in enumerate(tiny_loader(start), start):
        if step == 4:
            # Less than its part of a checkpoint, more than what it says: that goes to a file as well.
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        yield batches
path = Path(sys.argv[1])
with open_world() as world:
    engine = PyTorchEngine(tiny_model(), POSTTRAIN, OPTIMIZER, replace(CPU_FP32, name="fsdp2"), world)
    if world.rank == 0:
        fit(engine, tiny_loader, PLAN, open_run(path))
    else:
        fit(engine, filling, PLAN, FollowedRunFolder(path))
"""
)


def test_a_write_that_fails_on_one_rank_ends_all_with_one_sentence(tmp_path: Path) -> None:
    ended = fork_ranks(2, "-c", FULL_DISK, str(tmp_path))
    assert all(process.returncode for process in ended)
    sentence = "File too large'), expected a disk that takes it; make room or mend the disk"
    assert sum(process.stderr.count(sentence) for process in ended) == 1
    assert steps_saved(tmp_path) == [3]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_interrupt_saves_then_raises_and_resumes(tmp_path: Path, whole: tuple[PyTorchEngine, Path]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, loader=signalling_loader(0, signal.SIGINT))
    assert steps_saved(tmp_path) == [1]
    assert_same_run(train(tmp_path), tmp_path, *whole)


def test_workers_ended_by_the_same_signal_lose_nothing(tmp_path: Path, whole: tuple[PyTorchEngine, Path]) -> None:
    def loader(start: int) -> Iterator[list[Batch]]:
        for step, micro_batches in enumerate(tiny_loader(start)):
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
                raise LostWorker("a loader process", got="a signal", expected="none", do="resume")
            yield micro_batches

    train(tmp_path, loader=loader)
    assert steps_saved(tmp_path) == [3, 4]
    assert_same_run(train(tmp_path), tmp_path, *whole)


def test_finished_run_draws_nothing_and_more_steps_continue_it(tmp_path: Path) -> None:
    constant = replace(PLAN, schedule=ScheduleConfig("warmup_constant", 2, 0, 0.0), log_every_steps=1)
    train(tmp_path / "whole", replace(constant, steps=5))

    def no_loader(_: int) -> Iterator[list[Batch]]:
        raise AssertionError("drew data")

    train(tmp_path / "parts", replace(constant, steps=2))
    train(tmp_path / "parts", replace(constant, steps=2), loader=no_loader)
    train(tmp_path / "parts", replace(constant, steps=5))
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")


def test_resume_refuses_fewer_steps_other_data_and_another_model(tmp_path: Path) -> None:
    train(tmp_path, replace(PLAN, steps=2))
    kept = (tmp_path / "metrics.jsonl").read_text()
    for plan, key in (
        (replace(PLAN, steps=1), r"run\.steps"),
        (replace(PLAN, data_state=partial(data_state, fingerprint="xyz")), "fingerprint"),
        (replace(PLAN, data_state=partial(data_state, seed=2)), "seed"),
    ):
        with pytest.raises(UserError, match=key):
            train(tmp_path, plan)
    with open_run(tmp_path) as folder, pytest.raises(UserError, match="tensor"):
        fit(tiny_engine(objective=PRETRAIN), tiny_loader, PLAN, folder)
    assert (tmp_path / "metrics.jsonl").read_text() == kept


def test_non_finite_step_stops_without_saving_it(tmp_path: Path) -> None:
    def loader(start: int) -> Iterator[list[Batch]]:
        for step, micro_batches in enumerate(tiny_loader(start)):
            bad = replace(micro_batches[0], actions_AHD=micro_batches[0].actions_AHD * float("nan"))
            yield [bad] if step == 4 else micro_batches

    with pytest.raises(UserError, match=r"step 4.*arm/"):
        train(tmp_path, loader=loader)
    assert steps_saved(tmp_path) == [3]


def test_trackers_see_the_rows_of_the_file(tmp_path: Path) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.rows: list[Row] = []

        def log(self, row: Row) -> None:
            self.rows.append(row)

        def show(self, step: int, predictions: Sequence[Prediction]) -> None:  # noqa: ARG002
            raise AssertionError("nobody asked for examples")

        def close(self) -> None:
            raise AssertionError("whoever opened it closes it")

    recorder = Recorder()
    train(tmp_path, trackers=[recorder])
    assert recorder.rows == [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_kill_dash_nine_then_resume_is_the_uninterrupted_run(tmp_path: Path, whole: tuple[PyTorchEngine, Path]) -> None:
    """A real process, killed by itself in the middle of a save: files written, name not yet given.

    It has as many threads as this one: they decide the last bits.
    """
    script = f"""
import os, signal, torch
from pathlib import Path
from pi05_train.checkpoint import integrity
from tests.engine.tiny import tiny_engine, tiny_loader
from tests.trainer.test_loop import PLAN, open_run
from pi05_train.trainer.examples import Prediction
from pi05_train.trainer.loop import fit
torch.set_num_threads({torch.get_num_threads()})
rename = Path.rename
def rename_or_die(self, target):
    if self.name == ".saving-step-00000006":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = rename_or_die
with open_run(Path({str(tmp_path)!r})) as folder:
    fit(tiny_engine(), tiny_loader, PLAN, folder)
"""
    (done,) = fork_ranks(1, "-c", script)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert steps_saved(tmp_path) == [3]
    assert_same_run(train(tmp_path), tmp_path, *whole)
    assert not list((tmp_path / "checkpoints").glob(".saving-*"))
