"""`simulate`: the six simulated sources as shards, in parallel, the same bytes for the same settings."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from pi05_train.errors import UserError
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import write_shards
from pi05_train.simulation.packages import folder_of
from pi05_train.simulation.plans import plan_episodes
from pi05_train.simulation.recording import EpisodePlan, record, robot_for
from pi05_train.simulation.rendering import check_rendering
from pi05_train.simulation.settings import SOURCES, SimulationSettings, check_settings
from pi05_train.simulation.web import PictureJob, picture_jobs, picture_samples

EPISODES_PER_JOB = {"sim_fetch": 30, "sim_metaworld": 12, "sim_aloha": 4}
ALOHA_STRIDE = 3
"""ALOHA's control steps are 3 to 4 times shorter than the other robots'."""

Progress = Callable[[int, int, str], None]
"""Called with the episodes and pictures done, their total, and what was done last."""


@dataclass(frozen=True)
class SourceCounts:
    """What was written of one source."""

    episodes: int
    successes: int
    """Episodes whose task was fulfilled; pictures count as fulfilled."""
    samples: int
    heldout_samples: int


@dataclass(frozen=True)
class EpisodeJob:
    """Episodes of one task, played by one robot in one process."""

    plans: tuple[EpisodePlan, ...]
    settings: SimulationSettings


Job = EpisodeJob | PictureJob


def simulate(root: Path, *, settings: SimulationSettings, progress: Progress | None = None) -> dict[str, SourceCounts]:
    """Write `root/<source>/shard-*.tar` for each of `SOURCES` and return what each holds.

    Depends on `settings` only, whatever `settings.workers` is. Interrupted and called again with the same settings, it
    goes on after the jobs that had ended. Refuses (UserError) folders that already hold shards, missing simulators and
    a machine that cannot render, before any work.
    """
    check_settings(settings)
    ended = root / f".ended-{_fingerprint(settings)}"
    for source in SOURCES:
        if not ended.is_dir() and any((root / source).glob("*.tar")):
            raise UserError("simulation", got=f"shards in {root / source}", expected="an empty folder", do="remove it")
    ended.mkdir(parents=True, exist_ok=True)
    for package in ("mujoco", "gymnasium_robotics", "metaworld", "gym_aloha", "skimage", "sklearn"):
        folder_of(package)
    check_rendering()
    jobs = _jobs(settings)
    total = sum(_size(job) for job in jobs)
    results: dict[int, dict[str, list[Sample]]] = {}
    done = 0
    for index, found in _run(jobs, settings.workers, ended):
        results[index] = found
        done += _size(jobs[index])
        if progress is not None:
            progress(done, total, _name(jobs[index]))
    counts = {source: _write(root / source, source, results, settings) for source in SOURCES}
    shutil.rmtree(ended)
    return counts


def _fingerprint(settings: SimulationSettings) -> str:
    """Of everything the data depends on."""
    return hashlib.sha256(repr(replace(settings, workers=1)).encode()).hexdigest()[:12]


def _jobs(settings: SimulationSettings) -> list[Job]:
    by_task: dict[tuple[str, str], list[EpisodePlan]] = {}
    for plan in plan_episodes(settings):
        by_task.setdefault((plan.source, plan.task), []).append(plan)
    jobs: list[Job] = []
    for (source, _), plans in by_task.items():
        remaining = iter(plans)
        while some := tuple(islice(remaining, EPISODES_PER_JOB[source])):
            jobs.append(EpisodeJob(some, settings))
    # The longest jobs first, so that no process is left alone with one at the end.
    jobs.sort(key=lambda job: -_size(job))
    return [*jobs, *picture_jobs(settings)]


def _size(job: Job) -> int:
    return len(job.plans) if isinstance(job, EpisodeJob) else 1


def _name(job: Job) -> str:
    return f"{job.plans[0].source} {job.plans[0].task}" if isinstance(job, EpisodeJob) else f"sim_web {job.picture}"


def _work(job: Job) -> dict[str, list[Sample]]:
    """Play a job's episodes; samples by source."""
    if isinstance(job, PictureJob):
        return {"sim_web": picture_samples(job)}
    source, task, settings = job.plans[0].source, job.plans[0].task, job.settings
    stride = settings.anchor_stride * (ALOHA_STRIDE if source == "sim_aloha" else 1)
    found: dict[str, list[Sample]] = {}
    with closing(robot_for(source, task, settings.image_size)) as robot:
        for plan in job.plans:
            for name, samples in record(robot, plan, seed=settings.seed, anchor_stride=stride).samples.items():
                found.setdefault(name, []).extend(samples)
    return found


def _run(jobs: list[Job], workers: int, ended: Path) -> Iterator[tuple[int, dict[str, list[Sample]]]]:
    """(index of the job, its samples) as jobs end, those kept in the folder `ended` first."""
    files = {index: ended / f"{index:04d}.pickle" for index in range(len(jobs))}
    kept = [index for index, file in files.items() if file.is_file()]
    for index in kept:
        yield index, pickle.loads(files[index].read_bytes())
    for index, found in _play({index: jobs[index] for index in files.keys() - set(kept)}, workers):
        partial = files[index].with_suffix(".partial")
        partial.write_bytes(pickle.dumps(found))
        partial.rename(files[index])
        yield index, found


def _play(jobs: dict[int, Job], workers: int) -> Iterator[tuple[int, dict[str, list[Sample]]]]:
    if workers == 1:
        for index, job in sorted(jobs.items()):
            yield index, _work(job)
        return
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_quit_on_interrupt)
    try:
        pending: dict[Future[dict[str, list[Sample]]], int] = {
            pool.submit(_work, job): index for index, job in sorted(jobs.items())
        }
        for future in as_completed(pending):
            yield pending[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _quit_on_interrupt() -> None:
    """Ctrl-C reaches the workers too: they end without a traceback each."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _write(
    folder: Path, source: str, results: dict[int, dict[str, list[Sample]]], settings: SimulationSettings
) -> SourceCounts:
    samples = sorted((sample for found in results.values() for sample in found.get(source, ())), key=lambda s: s.key)
    order = np.random.default_rng([settings.seed, *source.encode()]).permutation(len(samples))
    if not any(folder.glob("*.tar")):  # an interrupted call may have come this far; shards appear all at once
        write_shards(folder, (samples[index] for index in order), samples_per_shard=settings.samples_per_shard)
    success = {sample.episode: sample.success for sample in samples}
    splits = Counter(sample.split for sample in samples)
    return SourceCounts(
        episodes=len(success),
        successes=sum(success.values()),
        samples=len(samples),
        heldout_samples=splits["heldout"],
    )
