from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pi05_train.errors import UserError
from pi05_train.policy.server.kept import KeptRequests
from pi05_train.policy.server.wire import unpack
from tests.policy.server.serving import observation, running


def test_the_latest_requests_are_kept_across_servers(tmp_path: Path) -> None:
    for client in (1, 2):
        kept = KeptRequests(tmp_path / "kept", most=3)
        for request in (1, 2):
            kept.keep(observation(seed=1), 10 * client + request, client=client, request=request)
    files = sorted((tmp_path / "kept").iterdir(), key=lambda path: path.stem.partition("-")[2])
    assert [path.stem.partition("-")[2] for path in files] == [
        "client-1-request-2",
        "client-2-request-1",
        "client-2-request-2",
    ]
    found = unpack(files[0].read_bytes())
    assert isinstance(found, dict)
    assert found["seed"] == 12
    np.testing.assert_equal({**found, "seed": 1}, observation(seed=1))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--keep-requests"):
        KeptRequests(tmp_path / "file" / "folder")


def test_a_server_keeps_what_it_answers_with_the_seed_that_it_drew(tmp_path: Path) -> None:
    asked = observation([1, 2, 3, 4])
    del asked["seed"]
    with running(kept=KeptRequests(tmp_path)) as server, server.client() as client:
        reply = client.ask(asked)
        assert "observation" in client.ask({**asked, "stray": 1})
    (path,) = tmp_path.iterdir()
    found = unpack(path.read_bytes())
    np.testing.assert_equal(found, {**asked, "seed": reply["seed"]})


def test_a_robot_is_served_where_nothing_can_be_kept(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with running(kept=KeptRequests(folder)) as server, server.client() as client:
        shutil.rmtree(folder)
        assert client.ask(observation(seed=5))["seed"] == 5
        assert "could not be kept" in server.events.wait("warning")["why"]
