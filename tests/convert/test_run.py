from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from pi05_train.convert import units
from pi05_train.convert.run import Conversion, convert
from pi05_train.convert.source import Dropped, EpisodeRecord, Options, Unit
from pi05_train.data.sources.index import build_index
from pi05_train.errors import UserError
from pi05_train.samples.card import TIERS, SourceCard, check_card
from pi05_train.samples.schema import Sample
from tests.convert.fake_source import ACTION_DIM, FakeSource, open_source, read_shards

OPTIONS = Options("fake", "CE", horizon=4, image_size=64, heldout=0.3)
LENGTHS = [3, 5, 1, 4]


def written(path: Path, lengths: list[int] = LENGTHS, **content: Any) -> Path:
    path.write_text(json.dumps({"lengths": lengths, **content}))
    return path


def converted(source: Path, folder: Path, **changes: Any) -> Conversion:
    options = replace(OPTIONS, **{name: changes.pop(name) for name in asdict(OPTIONS) if name in changes})
    return convert(open_source, source, folder, options, **({"samples_per_shard": 4} | changes))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_shards_card_and_record(tmp_path: Path) -> None:
    source = written(tmp_path / "a.json", notes=["Camera top is base_0_rgb."])
    made = converted(source, tmp_path / "arm")
    assert sorted(files(tmp_path / "arm")) == [
        "conversion.json", "fake.yaml", "lowdim.parquet", *(f"shard-{number:06d}.tar" for number in range(4)),
    ]  # fmt: skip
    assert json.loads((tmp_path / "arm" / "conversion.json").read_bytes()) == asdict(made)
    assert (made.samples_in, made.samples, made.dropped, made.shards, made.checked) == (13, 13, {}, 4, 3)
    assert made.notes == ["Camera top is base_0_rgb."]
    samples = read_shards(tmp_path / "arm")
    assert made.heldout == sum(sample.split == "heldout" for sample in samples)
    card = SourceCard(**yaml.safe_load((tmp_path / "arm" / "fake.yaml").read_text()))
    check_card(card)
    assert (card.name, card.kind, card.shards) == ("fake", "CE", "arm")
    build_index(tmp_path / "arm")


@pytest.mark.parametrize("tier", TIERS)
def test_the_same_bytes_from_any_number_of_workers(tier: str, tmp_path: Path) -> None:
    source = written(tmp_path / "a.json")
    one = converted(source, tmp_path / "one" / "fake", tier=tier)
    assert one == converted(source, tmp_path / "two" / "fake", tier=tier, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.parametrize("stride", [1, 3])
def test_states_and_actions_stand_beside_the_shards(stride: int, tmp_path: Path) -> None:
    converted(written(tmp_path / "a.json", commands={"1": ["silent"]}), tmp_path / "fake", stride=stride)
    table = pq.read_table(tmp_path / "fake" / "lowdim.parquet").to_pydict()
    samples = {sample.key: sample for sample in read_shards(tmp_path / "fake")}
    assert sorted(table["key"]) == sorted(samples)
    actions: dict[int, list[float]] = {}
    for key, episode, state, heldout, steps in zip(
        table["key"], table["episode"], table["state"], table["heldout"], table["actions"], strict=True
    ):
        assert state == list(samples[key].state)  # type: ignore[arg-type]
        assert heldout == (samples[key].split == "heldout")
        actions.setdefault(episode, []).extend(steps)
    for episode, steps in actions.items():
        wanted = 256 * episode + np.arange(LENGTHS[episode])
        assert steps == np.repeat(wanted, ACTION_DIM).tolist()


def test_samples_are_shuffled_by_their_keys_alone(tmp_path: Path) -> None:
    converted(written(tmp_path / "a.json", [40, 40]), tmp_path / "few")
    converted(written(tmp_path / "b.json", [40, 40, 40]), tmp_path / "more")
    few, more = ([sample.key for sample in read_shards(tmp_path / name)] for name in ("few", "more"))
    assert few == [key for key in more if not key.startswith("00000002")]
    assert few != sorted(few)
    firsts = sum(key.startswith("00000000") for key in few[:40])
    assert 10 < firsts < 30


# Interruptions


def killed_at(calls: int, source: Path, folder: Path, tier: str) -> None:
    """In a forked process: convert until the given number of files was written or moved, then kill -9."""
    left = [calls]

    def counted(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return call

    for name in ("fsync", "replace", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    converted(source, folder, tier=tier)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("tier", TIERS)
def test_killed_between_any_two_writes_it_goes_on_to_the_same_bytes(tier: str, tmp_path: Path) -> None:
    source = written(tmp_path / "a.json", [5, 1], commands={"1": ["silent"]})
    whole = converted(source, tmp_path / "whole" / "fake", tier=tier)
    moments = 0
    for calls in range(0, 200, 4):
        folder = tmp_path / str(calls) / "fake"
        process = multiprocessing.get_context("fork").Process(target=killed_at, args=(calls, source, folder, tier))
        process.start()
        process.join()
        moments += process.exitcode == -signal.SIGKILL
        if (folder / "conversion.json").is_file():  # then it is all there
            made = {name for name in files(folder) if not name.startswith(".converting")}
            assert made == set(files(tmp_path / "whole" / "fake"))
        assert converted(source, folder, tier=tier) == whole
        assert files(folder.parent) == files(tmp_path / "whole")
        if process.exitcode == 0:
            break
        shutil.rmtree(folder.parent)
    assert moments > 6


def slow_source(path: Path, options: Options) -> SlowSource:
    return SlowSource(**vars(open_source(path, options)))


class SlowSource(FakeSource):
    def samples(self, unit: Unit) -> Iterator[Sample | EpisodeRecord | Dropped]:
        for sample in super().samples(unit):
            time.sleep(0.01)
            yield sample


def kill_and_resume(source: Path, folder: Path, moments: int, seed: int) -> None:
    """Run the conversion with two workers as an own program, kill its main process at random moments, then finish."""
    program = (
        "from pathlib import Path\n"
        "from tests.convert.test_run import OPTIONS, convert, slow_source\n"
        f"if __name__ == '__main__':\n"
        f"    source, folder = Path({str(source)!r}), Path({str(folder)!r})\n"
        f"    convert(slow_source, source, folder, OPTIONS, samples_per_shard=4, workers=2)\n"
    )
    script = source.with_suffix(".py")
    script.write_text(program)
    command = [sys.executable, str(script)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    rng = random.Random(seed)
    for _ in range(moments):
        process = subprocess.Popen(command, env=environment)
        time.sleep(rng.uniform(1.0, 3.0))
        process.kill()
        process.wait()
    subprocess.run(command, env=environment, check=True)


@pytest.mark.slow
def test_killed_at_fifty_random_moments_with_workers_at_work(tmp_path: Path) -> None:
    source = written(tmp_path / "a.json", [20] * 60)
    options = {"samples_per_shard": 4}
    convert(slow_source, source, tmp_path / "whole" / "fake", OPTIONS, workers=2, **options)  # type: ignore[arg-type]
    for round_ in range(5):
        kill_and_resume(source, tmp_path / str(round_) / "fake", 10, round_)
        assert files(tmp_path / str(round_)) == files(tmp_path / "whole")


def test_ctrl_c_keeps_finished_units(tmp_path: Path) -> None:
    source = written(tmp_path / "a.json")

    def interrupt(*said: Any) -> None:
        if said[0] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converted(source, tmp_path / "b" / "fake", report=interrupt)
    assert len(list((tmp_path / "b" / "fake" / ".converting").glob("unit-*.json"))) == 2
    assert not list((tmp_path / "b" / "fake").glob("*.tar"))
    seen = []
    converted(source, tmp_path / "b" / "fake", report=lambda *said: seen.append(said))
    assert seen[0] == (2, 4, "")
    converted(source, tmp_path / "a" / "fake")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_full_disk_is_said_and_costs_nothing_that_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(tmp_path / "a.json")
    fsync, left = os.fsync, [5]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="a full disk, expected room for twice"):
        converted(source, tmp_path / "b" / "fake")
    monkeypatch.undo()
    working = tmp_path / "b" / "fake" / ".converting"
    assert list(working.glob("unit-*.json"))
    assert not list(working.glob("*.partial"))
    converted(source, tmp_path / "a" / "fake")
    converted(source, tmp_path / "b" / "fake")
    assert files(tmp_path / "a") == files(tmp_path / "b")


# Refusals


def test_a_finished_folder_is_left_alone_and_refused_to_other_options(tmp_path: Path) -> None:
    source = written(tmp_path / "a.json")
    made = converted(source, tmp_path / "fake")
    before = files(tmp_path / "fake")
    assert converted(source, tmp_path / "fake") == made
    with pytest.raises(UserError, match=r"begun with horizon = 4: got horizon = 5, expected the same source and opt"):
        converted(source, tmp_path / "fake", horizon=5)
    with pytest.raises(UserError, match="begun with path"):
        converted(written(tmp_path / "b.json"), tmp_path / "fake")
    assert files(tmp_path / "fake") == before


def test_options_and_source_stay_the_same_over_an_interruption(tmp_path: Path) -> None:
    source = written(tmp_path / "a.json", commands={"2": ["refuse"]})
    with pytest.raises(UserError, match="a cut file"):
        converted(source, tmp_path / "fake")
    with pytest.raises(UserError, match=r"begun with stride = 1: got stride = 2"):
        converted(source, tmp_path / "fake", stride=2)
    with pytest.raises(UserError, match="begun with source"):
        converted(written(source, [*LENGTHS, 6]), tmp_path / "fake")


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_refusing_unit_keeps_the_finished_ones(workers: int, tier: str, tmp_path: Path) -> None:
    source = written(tmp_path / "a.json", commands={"3": ["refuse"]})
    with pytest.raises(UserError, match=r"^episode 3: got a cut file, expected a whole one; fetch it again\.$"):
        converted(source, tmp_path / "b" / "fake", workers=workers, tier=tier)
    assert list((tmp_path / "b" / "fake" / ".converting").glob("unit-*.json")) or workers == 2
    assert list((tmp_path / "b" / "fake").iterdir()) == [tmp_path / "b" / "fake" / ".converting"]
    written(source)
    converted(source, tmp_path / "b" / "fake", tier=tier)
    converted(source, tmp_path / "a" / "fake", tier=tier)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    source = written(tmp_path / "a.json", commands={"3": ["die"]})
    with pytest.raises(UserError, match="got a worker process that was killed"):
        converted(source, tmp_path / "fake", workers=2)
    assert not list(tmp_path.glob("fake/*.tar"))
    converted(written(source), tmp_path / "fake")


def test_shards_lost_after_the_conversion(tmp_path: Path) -> None:
    source = written(tmp_path / "a.json")
    converted(source, tmp_path / "fake")
    (tmp_path / "fake" / "shard-000001.tar").unlink()
    with pytest.raises(UserError, match="got 3 shards, expected the 4 that were converted"):
        converted(source, tmp_path / "fake")


def test_a_folder_with_something_else_in_it(tmp_path: Path) -> None:
    source = written(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"got a.json in it, expected an empty or new one"):
        converted(source, tmp_path)


def test_two_conversions_into_one_folder(tmp_path: Path) -> None:
    (tmp_path / "fake" / ".converting").mkdir(parents=True)
    with (tmp_path / "fake" / ".converting" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="a conversion at work in it"):
            converted(written(tmp_path / "a.json"), tmp_path / "fake")


@pytest.mark.parametrize(
    ("lengths", "commands", "sentence"),
    [
        ([], {}, "got nothing in it"),
        ([2, 3], {"0": ["nan"], "1": ["dims"]}, "no usable sample: NaN in actions .2., dimensions differ from the"),
        ([2, 3], {"1": ["same number"]}, "sample 00000000_00000[01] of source fake: got its key twice"),
    ],
)
def test_sources_that_give_nothing_to_train_on(
    lengths: list[int], commands: dict[str, list[str]], sentence: str, tmp_path: Path
) -> None:
    source = written(tmp_path / "a.json", lengths, commands=commands)
    with pytest.raises(UserError, match=sentence):
        converted(source, tmp_path / "fake")
    assert not list(tmp_path.glob("fake/*.tar"))


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected an existing file or folder"):
        converted(tmp_path / "none", tmp_path / "fake")
    assert not (tmp_path / "fake").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("name", "a/b"), ("name", ""), ("kind", "XX"), ("horizon", 0), ("image_size", 8), ("jpeg_quality", 101),
     ("stride", 0), ("heldout", 1.0), ("tier", "raw"), ("workers", 0)],
)  # fmt: skip
def test_options_that_make_no_sense(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"conversion, {name}: got"):
        converted(written(tmp_path / "a.json"), tmp_path / "fake", **{name: value})


def test_what_is_dropped_is_counted_by_reason(tmp_path: Path) -> None:
    commands = {"0": ["nan"], "1": ["cut"], "2": ["silent"], "3": ["short video"]}
    made = converted(written(tmp_path / "a.json", commands=commands), tmp_path / "fake", workers=2)
    assert made.dropped == {
        "NaN in actions": 3, "frame count of a camera differs": 4, "no instruction": 1, "picture unreadable": 1,
    }  # fmt: skip
    assert (made.samples_in, made.samples) == (13, 4)
    assert made.examples["picture unreadable"] == "00000001_000000"
    assert made.examples["NaN in actions"] == "00000000"


def test_the_round_trip_check_of_whole_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = units.member_blocks

    def wrong(key: str, members: dict[str, bytes]) -> bytes:
        return honest(key, members | {"base_0_rgb.zip": members["base_0_rgb.zip"][:-1] + b"?"})

    monkeypatch.setattr(units, "member_blocks", wrong)
    with pytest.raises(UserError, match=r"round-trip check, sample \d{8}, members: got "):
        converted(written(tmp_path / "a.json"), tmp_path / "fake", tier="master")
    assert not list(tmp_path.glob("fake/*.tar"))


def test_the_round_trip_check_finds_a_wrong_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = units.sample_blocks

    def wrong(sample: Sample) -> bytes:
        assert sample.state is not None
        return honest(replace(sample, state=sample.state + np.float32(1)))

    monkeypatch.setattr(units, "sample_blocks", wrong)
    with pytest.raises(UserError, match=r"round-trip check, sample \d{8}_\d{6}, state: got array"):
        converted(written(tmp_path / "a.json"), tmp_path / "fake")
    assert not list(tmp_path.glob("fake/*.tar"))
