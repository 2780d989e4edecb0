from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pi05_train.errors import UserError
from pi05_train.samples.address import open_store, source_address
from pi05_train.samples.store import Store, local_copy
from tests.samples.object_store import ObjectStore, s3_variables, serve

FILES = {f"shard-{number:06d}.tar": bytes([number]) * (number + 1) * 100 for number in range(8)}
SCHEMES = ("s3", "gs", "http")
PATIENCE = 0.5


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pi05_train.samples.remote._FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A server with one source and, beside it, one whose name begins alike."""
    for source in ("arm", "arm_two"):
        (tmp_path / "bucket" / source).mkdir(parents=True)
        for name, content in FILES.items():
            (tmp_path / "bucket" / source / name).write_bytes(content + source.encode())
    with serve(tmp_path) as store:
        for name, value in s3_variables(store).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.http)
        yield store


def remote(server: ObjectStore, scheme: str = "s3", patience: float = PATIENCE) -> Store:
    root = f"{server.http}/bucket" if scheme == "http" else f"{scheme}://bucket"
    return open_store(source_address(root, "arm"), patience_seconds=patience)


@pytest.fixture(params=SCHEMES)
def store(request: pytest.FixtureRequest, server: ObjectStore) -> Store:
    return remote(server, request.param)


def test_bytes_sizes_and_whole_files_are_those_of_the_folder(store: Store, tmp_path: Path) -> None:
    folder = open_store(str(tmp_path / "bucket" / "arm"), patience_seconds=1)
    wanted = [*FILES, "absent.tar"]
    assert store.sizes(wanted) == folder.sizes(wanted) == {name: len(FILES[name]) + 3 for name in FILES}
    for each in (store, folder):
        assert each.read("shard-000003.tar", 398, 4) == b"\3\3ar"
        assert each.read("shard-000003.tar", 400, 100) == b"arm"  # as a file: what is there before its end
        assert each.read_whole("shard-000002.tar") == FILES["shard-000002.tar"] + b"arm"
        assert each.read_whole("absent.json") is None
        each.copy("shard-000001.tar", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == FILES["shard-000001.tar"] + b"arm"


def test_a_store_in_another_process_reads_alike(store: Store) -> None:
    again = pickle.loads(pickle.dumps(store))
    assert (again.where, again.read("shard-000000.tar", 0, 3)) == (store.where, b"\0\0\0")


def first(count: int, what: str) -> Callable[[int, str], str]:
    """The first `count` requests go wrong."""
    return lambda number, _: what if number < count else ""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("what", ["503", "500", "429", "reset", "short"])
def test_what_passes_is_waited_for(server: ObjectStore, scheme: str, what: str) -> None:
    server.fault = first(2, what)
    assert remote(server, scheme, patience=20).read("shard-000004.tar", 0, 500) == FILES["shard-000004.tar"]
    assert len(server.asked) == 3


@pytest.mark.parametrize("what", ["503", "reset", "short"])
def test_what_does_not_pass_is_an_error_when_patience_ends(server: ObjectStore, what: str) -> None:
    server.fault = lambda *_: what
    began = time.monotonic()
    with pytest.raises(UserError, match=r"shard-000004.tar in s3://bucket/arm: got no answer in 0 s"):
        remote(server).read("shard-000004.tar", 0, 500)
    assert time.monotonic() - began < 20
    assert len(server.asked) > 1


@pytest.mark.parametrize("status", ["401", "403"])
def test_a_refusal_is_an_error_at_once(server: ObjectStore, status: str) -> None:
    server.fault = lambda *_: status
    with pytest.raises(UserError, match=f"{status} .*SlowDown, expected its bytes; check .* credentials"):
        remote(server, patience=600).read("shard-000004.tar", 0, 500)
    assert len(server.asked) == 1


def test_a_shard_that_is_gone_is_an_error_at_once(store: Store) -> None:
    with pytest.raises(UserError, match=r"shard absent.tar in .*arm: got no such file"):
        store.read("absent.tar", 0, 1)


def test_a_copy_of_nothing_leaves_nothing(store: Store, tmp_path: Path) -> None:
    assert not store.copy("absent.tar", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_remote_file_is_on_this_machine_as_long_as_it_is_looked_at(store: Store, tmp_path: Path) -> None:
    with local_copy(store, "shard-000002.tar", tmp_path / "scratch") as path:
        assert path.read_bytes() == FILES["shard-000002.tar"] + b"arm"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_address_that_has_never_answered_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pi05_train.samples.remote._STRANGER_SECONDS", PATIENCE)
    with serve(tmp_path) as gone:
        address = gone.http
    with pytest.raises(UserError, match=r"127\.0\.0\.1.*got no answer.*check the address"):
        open_store(address, patience_seconds=3600).read_whole("index.json")


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in this process", "in another process"])
def test_an_address_that_has_answered_is_waited_for(
    server: ObjectStore, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    store = remote(server, patience=3600)
    store.read_whole("shard-000001.tar")
    monkeypatch.setattr("pi05_train.samples.remote._STRANGER_SECONDS", 0.0)
    store = pickle.loads(pickle.dumps(store)) if elsewhere else store
    server.asked.clear()
    server.fault = first(3, "503")
    assert store.read("shard-000004.tar", 0, 500) == FILES["shard-000004.tar"]


@pytest.mark.parametrize(
    ("root", "shards", "address"),
    [
        ("data", "arm", "data/arm"),
        ("data", "/disk/arm", "/disk/arm"),
        ("data", "gs://b/arm", "gs://b/arm"),
        ("s3://bucket/all/", "arm", "s3://bucket/all/arm"),
        ("s3://bucket", "/disk/arm", "/disk/arm"),
    ],
)
def test_a_card_may_name_a_place_of_its_own(root: str, shards: str, address: str) -> None:
    assert source_address(root, shards) == address


def test_an_unknown_kind_of_address_is_refused() -> None:
    with pytest.raises(UserError, match="got ftp://host/arm, expected a path, or one of s3"):
        open_store("ftp://host/arm", patience_seconds=1)
