"""`convert`: any foreign source into shards, in parallel, resumable, the same bytes whoever did what when.

While it works the folder holds only `.converting/` with the finished units; shards, card and `conversion.json` appear
at the end. Killed at any moment and called again, it goes on after the units that were finished.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from pi05_train.convert.lowdim import NAME, has_rows, join_rows
from pi05_train.convert.shuffle import check_round_trip, shuffled_entries, write_shuffled
from pi05_train.convert.source import ForeignSource, OpenSource, Options, Unit, check_options
from pi05_train.convert.units import Job, UnitCounts, convert_unit, finished_counts, prepare_worker, written_whole
from pi05_train.errors import UserError
from pi05_train.samples.card import check_card

Report = Callable[[int, int, str], None]
"""Called with what is done, the total, and what was done last."""
RECORD = "conversion.json"
WORKING = ".converting"
_LIBRARIES = ("pi05_train", "numpy", "pillow", "av", "h5py", "pyarrow")


@dataclass(frozen=True)
class Conversion:
    """What a conversion made; `conversion.json` holds the same."""

    format: str
    """The function that opened the source."""
    path: str
    options: dict[str, Any]
    units: int
    samples_in: int
    """Samples the source would give: `samples` and `dropped` together."""
    samples: int
    """In tier master a sample is an episode."""
    heldout: int
    """Of them; tier master leaves that to the re-conversion."""
    dropped: dict[str, int]
    """Samples by reason."""
    examples: dict[str, str]
    """One key for each reason."""
    shards: int
    checked: int
    """Samples that were read back and compared with the source."""
    notes: list[str]
    versions: dict[str, str]


def convert(
    open_source: OpenSource,
    path: Path,
    folder: Path,
    options: Options,
    *,
    workers: int = 1,
    samples_per_shard: int = 1000,
    report: Report | None = None,
) -> Conversion:
    """Write the source at `path` as shards, card and `conversion.json` into `folder`; what was made.

    The bytes depend on source, options, `samples_per_shard` and the libraries' versions, not on `workers` or on
    interruptions. A folder that is finished with the same options is left as it is. Needs room for the converted
    source twice. Refuses (UserError) what the format refuses, a folder that holds something else or was begun with
    other options, a source that gives no sample, and samples that read back differently.
    """
    check_options(options)
    if workers < 1:
        raise UserError("conversion, workers", got=workers, expected="at least 1", do="correct it")
    report = report or _silent
    job = Job(open_source, path.resolve(), options, folder / WORKING)
    wanted: dict[str, Any] = {
        "format": f"{open_source.__module__}.{open_source.__qualname__}",
        "path": str(job.path),
        "options": asdict(options) | {"samples_per_shard": samples_per_shard},
    }
    if (finished := _finished(folder, wanted)) is not None:
        return finished
    source = _opened(job)
    wanted |= {"versions": _versions(), "source": _fingerprint(source)}
    with _working(folder, job.working, wanted):
        counts = list(_first_pass(job, source, workers, report))
        totals = _sum(counts)
        if not totals.kept:
            shutil.rmtree(job.working)
            reasons = ", ".join(f"{reason} ({number})" for reason, number in totals.dropped.items()) or "it is empty"
            raise UserError(f"source {path}", got=f"no usable sample: {reasons}", expected="some", do="mend the source")
        entries = shuffled_entries(job, source.units)
        shards = write_shuffled(job, entries, samples_per_shard, report)
        checked = check_round_trip(job, source, entries, shards, samples_per_shard)
        conversion = Conversion(
            format=wanted["format"],
            path=wanted["path"],
            options=wanted["options"],
            units=len(source.units),
            samples_in=totals.kept + sum(totals.dropped.values()),
            samples=totals.kept,
            heldout=totals.heldout,
            dropped=totals.dropped,
            examples=totals.examples,
            shards=len(shards),
            checked=checked,
            notes=list(source.notes),
            versions=wanted["versions"],
        )
        _publish(job, folder, shards, source, conversion)
    return conversion


def _silent(done: int, total: int, what: str) -> None:
    """Report to nobody."""


def _finished(folder: Path, wanted: dict[str, Any]) -> Conversion | None:
    """The conversion that `folder` holds, if it is the wanted one; refuses another."""
    if not (folder / RECORD).is_file():
        return None
    conversion = Conversion(**json.loads((folder / RECORD).read_bytes()))
    _require_same(folder, {name: getattr(conversion, name) for name in wanted}, wanted)
    if (shards := len(list(folder.glob("shard-*.tar")))) != conversion.shards:
        raise UserError(
            f"folder {folder}",
            got=f"{shards} shards",
            expected=f"the {conversion.shards} that were converted",
            do="restore them, or remove the folder and convert again",
        )
    shutil.rmtree(folder / WORKING, ignore_errors=True)
    return conversion


def _require_same(folder: Path, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
    flat_begun, flat_wanted = (
        {name: value for name, value in content.items() if name not in ("options", "versions")}
        | content["options"]
        | {f"version of {name}": value for name, value in content.get("versions", {}).items()}
        for content in (begun, wanted)
    )
    for name, value in flat_wanted.items():
        if flat_begun.get(name) != value:
            raise UserError(
                f"folder {folder}, begun with {name} = {flat_begun.get(name)!r}",
                got=f"{name} = {value!r}",
                expected="the same source and options",
                do="use them, remove the folder, or choose another",
            )


def _opened(job: Job) -> ForeignSource:
    if not job.path.exists():
        raise UserError("source", got=job.path, expected="an existing file or folder", do="correct the path")
    source = job.open()
    check_card(source.card)
    assert (source.card.name, source.card.kind) == (job.options.name, job.options.kind)
    numbers = {unit.number for unit in source.units}
    assert len(numbers) == len(source.units), "unit numbers come twice"
    if not numbers:
        raise UserError(f"source {job.path}", got="nothing in it", expected="some data", do="correct the path")
    return source


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}


def _fingerprint(source: ForeignSource) -> str:
    """Of what opening the source tells: on resuming, another source at the same path is found out by it."""
    return hashlib.sha256(repr((source.card, [(unit.number, unit.name) for unit in source.units])).encode()).hexdigest()


@contextmanager
def _working(folder: Path, working: Path, wanted: dict[str, Any]) -> Iterator[None]:
    """The working folder, begun or taken up again, locked against a second conversion; removed after success."""
    if not working.is_dir() and folder.is_dir() and any(folder.iterdir()):
        got = sorted(path.name for path in folder.iterdir())[0]
        raise UserError(f"folder {folder}", got=f"{got} in it", expected="an empty or new one", do="choose another")
    working.mkdir(parents=True, exist_ok=True)
    with (working / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"folder {folder}", got="a conversion at work in it", expected="none", do="wait for its end"
            ) from None
        begun = working / "begun.json"
        if begun.is_file():
            _require_same(folder, json.loads(begun.read_bytes()), wanted)
        else:
            with written_whole(begun) as file:
                file.write(json.dumps(wanted).encode())
        for left in working.glob("*.partial"):
            left.unlink()
        yield
    shutil.rmtree(working)


def _first_pass(job: Job, source: ForeignSource, workers: int, report: Report) -> Iterator[UnitCounts]:
    """Convert the units that are not finished; the counts of all of them, in the source's order."""
    remaining = [unit for unit in source.units if finished_counts(job, unit) is None]
    done = len(source.units) - len(remaining)
    report(done, len(source.units), "")
    for unit in _converted(job, remaining, workers):
        done += 1
        report(done, len(source.units), unit.name)
    for unit in source.units:
        counts = finished_counts(job, unit)
        assert counts is not None
        yield counts


def _converted(job: Job, units: Sequence[Unit], workers: int) -> Iterator[Unit]:
    """The units as they are finished."""
    if workers == 1 or len(units) <= 1:
        for unit in units:
            convert_unit(job, unit)
            yield unit
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(units)), mp_context=context, initializer=prepare_worker)
    waiting = iter(units)
    pending: dict[Future[UnitCounts], Unit] = {}
    try:
        while True:
            for unit in islice(waiting, 4 * workers - len(pending)):
                pending[pool.submit(convert_unit, job, unit)] = unit
            if not pending:
                return
            for future in wait(pending, return_when="FIRST_COMPLETED").done:
                unit = pending.pop(future)
                future.result()
                yield unit
    except BrokenProcessPool as error:
        raise UserError(
            "conversion",
            got="a worker process that was killed",
            expected="workers that live",
            do="start the same command again, with fewer workers if memory is short; what is finished is kept",
        ) from error
    finally:
        # A worker in the middle of a long unit is not waited for: its unit is done again after an interruption.
        for process in (pool._processes or {}).values() if pending else ():
            process.terminate()
        pool.shutdown(cancel_futures=True)


def _sum(counts: Sequence[UnitCounts]) -> UnitCounts:
    dropped: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for unit in counts:
        dropped.update(unit.dropped)
        examples = unit.examples | examples
    kept, heldout = sum(unit.kept for unit in counts), sum(unit.heldout for unit in counts)
    return UnitCounts(kept, heldout, dict(sorted(dropped.items())), dict(sorted(examples.items())))


def _publish(job: Job, folder: Path, shards: Sequence[Path], source: ForeignSource, conversion: Conversion) -> None:
    """Move all to its place; the record comes last and vouches for the rest."""
    card = replace(source.card, shards=folder.resolve().name, tier=job.options.tier)
    content = {
        f"{card.name}.yaml": yaml.safe_dump(asdict(card), sort_keys=False, allow_unicode=True),
        RECORD: json.dumps(asdict(conversion), indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in content.items():
        with written_whole(job.working / name) as file:
            file.write(text.encode())
    lowdim = [job.working / NAME] if has_rows(card, job.options) else []
    for path in lowdim:
        with written_whole(path) as file:
            join_rows((job.file(unit, ".parquet") for unit in source.units), card, file)
    for path in (*shards, *lowdim, *(job.working / name for name in content)):
        path.replace(folder / path.name)
