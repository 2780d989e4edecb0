"""The same batches from shards far away, whatever the network does meanwhile."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from pi05_train.data.cache import Cache
from pi05_train.data.loading.loader import make_loader
from pi05_train.data.loading.micro_batches import of_equal_number
from pi05_train.data.loading.quarantine import Quarantine
from pi05_train.data.loading.reader import Reader
from pi05_train.data.loading.shard_cache import ShardCache
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.sources.index import Index
from pi05_train.data.sources.verify import verify
from pi05_train.errors import UserError
from pi05_train.model.batch import Batch
from pi05_train.processing.processor import Processor
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from tests.data.batches import assert_equal_batches
from tests.samples.object_store import ObjectStore, s3_variables, serve
from tests.synthetic_processor import synthetic_processor

World = tuple[Path, dict[str, SourceCard]]
BATCH, STEPS, PATIENCE = 12, 3, 30.0


@pytest.fixture(scope="module")
def world(synthetic_world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A copy of our own, as the bucket `data`: the processor writes statistics and a tokenizer into it."""
    root = shutil.copytree(synthetic_world[0], tmp_path_factory.mktemp("store") / "data")
    return root, synthetic_world[1]


@pytest.fixture(scope="module")
def processor(world: World) -> Processor:
    return synthetic_processor(*world)


@pytest.fixture
def server(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    monkeypatch.setattr("pi05_train.samples.remote._FIRST_PAUSE_SECONDS", 0.01)
    with serve(world[0].parent) as store:
        for name, value in s3_variables(store).items():
            monkeypatch.setenv(name, value)
        yield store


def open_mixture(
    cards: dict[str, SourceCard], root: Path | str, cache: Cache | None = None, patience: float = PATIENCE
) -> Mixture:
    entries = {name: SourceEntry(card, weight=i + 1.0) for i, (name, card) in enumerate(cards.items())}
    return Mixture.open(MixtureConfig("toy", entries), root, cache=cache, patience_seconds=patience)


def load(
    mixture: Mixture, processor: Processor, run: Path, *, cache: ShardCache | None = None, workers: int = 0,
    read_group: int = 1, steps: int = STEPS,
) -> list[tuple[int, list[Batch]]]:  # fmt: skip
    run.mkdir(exist_ok=True)
    quarantine = Quarantine(run, mixture)
    loaded = list(
        make_loader(
            mixture,
            mixture.schedule(11, BATCH, steps, read_group=read_group),
            Reader(mixture, cache),
            processor,
            division=of_equal_number(6),
            flow_draws=1,
            start_step=0,
            stop_step=steps,
            num_workers=workers,
            quarantine=quarantine,
        )
    )
    quarantine.record(quarantine.waiting, draws=BATCH * steps)
    return loaded


def cache_of(mixture: Mixture, folder: Path, limit: int = 10**9) -> ShardCache:
    made = ShardCache(folder, [shard for index in mixture.indexes.values() for shard in index.shards], limit)
    made.prepare()
    return made


@pytest.mark.parametrize("root", ["s3://data", "http"])
def test_remote_batches_are_the_local_ones(
    world: World, processor: Processor, server: ObjectStore, tmp_path: Path, root: str
) -> None:
    local = open_mixture(world[1], world[0])
    remote = open_mixture(world[1], f"{server.http}/data" if root == "http" else root)
    assert remote.fingerprint == local.fingerprint
    assert remote.remote
    assert not local.remote
    assert_equal_batches(load(remote, processor, tmp_path), load(local, processor, tmp_path))


def test_one_source_may_be_remote_and_another_local(
    world: World, processor: Processor, server: ObjectStore, tmp_path: Path
) -> None:
    root, cards = world
    mixed = cards | {"toy_arm": replace(cards["toy_arm"], shards="s3://data/toy_arm")}
    assert_equal_batches(
        load(open_mixture(mixed, root), processor, tmp_path), load(open_mixture(cards, root), processor, tmp_path)
    )
    assert {path.split("/")[1] for _, path, span in server.asked if span} == {"toy_arm"}


def test_worker_processes_read_remote_shards_and_change_nothing(
    world: World, processor: Processor, server: ObjectStore, tmp_path: Path
) -> None:
    local = load(open_mixture(world[1], world[0]), processor, tmp_path)
    # Such workers have the environment of the first of them in a process, so not the variables of this test's server.
    remote = open_mixture(world[1], f"{server.http}/data")
    assert_equal_batches(load(remote, processor, tmp_path, workers=2), local)


def test_neither_storm_nor_resets_change_a_batch(
    world: World, processor: Processor, server: ObjectStore, tmp_path: Path
) -> None:
    """Failure test 8: of all requests two in five go wrong, each in another way."""
    local = load(open_mixture(world[1], world[0]), processor, tmp_path)
    weather = random.Random(0)
    server.fault = lambda *_: weather.choice(["503", "500", "reset", "short", *([""] * 6)])
    assert_equal_batches(load(open_mixture(world[1], "s3://data"), processor, tmp_path), local)
    assert not (tmp_path / "quarantine.jsonl").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_that_stays_away_stops_the_run_in_a_sentence(
    world: World, processor: Processor, server: ObjectStore, tmp_path: Path, workers: int
) -> None:
    mixture = open_mixture(world[1], f"{server.http}/data", patience=0.3)
    server.fault = lambda *_: "503"
    with pytest.raises(UserError, match=r"shard-\d+\.tar in http.*/data/toy_\w+: got no answer in .*503.*SlowDown"):
        load(mixture, processor, tmp_path, workers=workers)
    assert not (tmp_path / "quarantine.jsonl").exists()


def test_a_server_that_is_killed_and_comes_back_changes_no_batch(
    world: World, processor: Processor, tmp_path: Path
) -> None:
    local = load(open_mixture(world[1], world[0]), processor, tmp_path)
    with serve(world[0].parent) as first:
        mixture = open_mixture(world[1], f"{first.http}/data")
        reader = make_loader(
            mixture, mixture.schedule(11, BATCH, STEPS), Reader(mixture), processor, division=of_equal_number(6),
            flow_draws=1, start_step=0, stop_step=STEPS, num_workers=0, quarantine=Quarantine(tmp_path, mixture),
        )  # fmt: skip
        got = [next(reader)]
    rest = Thread(target=lambda: got.extend(reader))
    rest.start()  # meets a closed port
    with serve(world[0].parent, first.port):
        rest.join()
    assert_equal_batches(got, local)


def test_a_shard_that_disappears_is_named(
    world: World, processor: Processor, server: ObjectStore, tmp_path: Path
) -> None:
    """Failure test 5."""
    mixture = open_mixture(world[1], "s3://data")
    server.fault = lambda _, path: "404" if path.endswith("toy_web/shard-000001.tar") else ""
    with pytest.raises(UserError, match=r"shard shard-000001\.tar in s3://data/toy_web: got no such file"):
        load(mixture, processor, tmp_path, steps=20)
    with pytest.raises(UserError, match=r"shard-000001\.tar, bytes: got no such file, expected \d+ as indexed"):
        open_mixture(world[1], f"{server.http}/data")


def test_a_shorter_object_is_refused_at_the_start(world: World, server: ObjectStore, tmp_path: Path) -> None:
    """Failure test 4, far away."""
    shutil.copytree(world[0].parent, tmp_path / "store")
    server.folder = tmp_path / "store"
    shard = server.folder / "data" / "toy_arm" / "shard-000002.tar"
    os.truncate(shard, shard.stat().st_size - 512)
    with pytest.raises(
        UserError, match=r"s3://data/toy_arm/shard-000002\.tar, bytes: got \d+, expected \d+ as indexed"
    ):
        open_mixture(world[1], "s3://data")


def test_bytes_spoiled_on_the_way_are_asked_for_again_and_a_damaged_object_is_replaced(
    world: World, processor: Processor, server: ObjectStore, tmp_path: Path
) -> None:
    local = load(open_mixture(world[1], world[0]), processor, tmp_path)
    mixture = open_mixture(world[1], "s3://data")
    start = len(server.asked)
    server.fault = lambda number, _: "garbled" if number == start else ""
    assert_equal_batches(load(mixture, processor, tmp_path), local)

    server.fault = lambda _, path: "garbled" if path.endswith("toy_arm/shard-000000.tar") else ""
    runs = [load(mixture, processor, tmp_path / str(run), steps=8) for run in range(2)]
    assert_equal_batches(*runs)
    written = [(tmp_path / str(run) / "quarantine.jsonl").read_text() for run in range(2)]
    assert written[0] == written[1]
    assert {json.loads(line)["source"] for line in written[0].splitlines()} == {"toy_arm"}


def test_what_is_cached_is_not_asked_for_again_and_damage_to_it_is(
    world: World, processor: Processor, server: ObjectStore, tmp_path: Path
) -> None:
    """Failure tests 10 and 14: sources share the names of their shards, and a cache may be spoiled or cut."""
    local = load(open_mixture(world[1], world[0]), processor, tmp_path)
    mixture, folder = open_mixture(world[1], f"{server.http}/data"), tmp_path / "shards"
    assert_equal_batches(load(mixture, processor, tmp_path, cache=cache_of(mixture, folder)), local)
    asked = len(server.ranges())
    assert asked
    assert_equal_batches(load(mixture, processor, tmp_path, cache=cache_of(mixture, folder), workers=2), local)
    assert len(server.ranges()) == asked

    for number, path in enumerate(sorted(folder.iterdir())):
        content = bytearray(path.read_bytes())
        content[number * 37 % len(content) :: 4096] = bytes(len(content[number * 37 % len(content) :: 4096]))
        path.write_bytes(content[: len(content) - number * 100])
    assert_equal_batches(load(mixture, processor, tmp_path, cache=cache_of(mixture, folder)), local)
    assert len(server.ranges()) > asked


def test_a_read_group_is_one_request(world: World, processor: Processor, server: ObjectStore, tmp_path: Path) -> None:
    mixture = open_mixture(world[1], "s3://data")
    singly = load(mixture, processor, tmp_path, steps=6)
    requests = len(server.ranges())
    server.asked.clear()
    together = load(mixture, processor, tmp_path, steps=6, read_group=3)
    assert len(server.ranges()) < 0.6 * requests
    assert sum(len(batch.segments) for _, batches in together for batch in batches) == BATCH * 6
    assert sum(len(batch.segments) for _, batches in singly for batch in batches) == BATCH * 6


def test_index_files_are_copied_once_and_never_believed_when_damaged(
    world: World, server: ObjectStore, tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    first = Index.open("s3://data/toy_arm", cache)
    copies = [path for _, path, _ in server.asked if path.endswith((".npy", ".parquet"))]
    assert len(copies) == 2
    (first.folder / "index.npy").write_bytes(b"x" * 3000)
    again = Index.open("s3://data/toy_arm", cache)
    assert again.fingerprint == first.fingerprint == Index.open(world[0] / "toy_arm").fingerprint
    assert len(again.records) == len(Index.open(world[0] / "toy_arm").records)
    server.fault = lambda _, path: "garbled" if path.endswith("index.npy") else ""
    with pytest.raises(UserError, match=r"s3://data/toy_arm/index\.npy, sha256"):
        Index.open("s3://data/toy_arm", Cache(tmp_path / "other"))
    assert not list((tmp_path / "other").rglob("*.partial"))


def test_verify_finds_the_same_far_away(world: World, server: ObjectStore, tmp_path: Path) -> None:
    shutil.copytree(world[0].parent, tmp_path / "store")
    server.folder = tmp_path / "store"
    folder = server.folder / "data" / "toy_arm"
    card = world[1]["toy_arm"]
    assert verify("s3://data/toy_arm", card) == []
    content = bytearray((folder / "shard-000001.tar").read_bytes())
    content[3000] ^= 1
    (folder / "shard-000001.tar").write_bytes(content)
    (folder / "shard-000002.tar").unlink()
    found = verify("s3://data/toy_arm", card)
    assert found == verify(folder, card)
    assert {problem.file for problem in found} == {"shard-000001.tar", "shard-000002.tar"}
