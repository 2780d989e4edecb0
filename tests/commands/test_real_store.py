"""A training run on shards in a real S3 server, which is killed and started again while it trains."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pi05_train.commands.main import main
from pi05_train.trainer.run_folder import RunFolder
from tests.commands.conftest import Workspace
from tests.services.rados_gateway import RadosGateway, missing_programs, rados_gateway

pytestmark = pytest.mark.skipif(
    bool(missing_programs()), reason=f"Ceph's packages are not installed: {', '.join(missing_programs())} missing"
)
STEPS, KILLED_AFTER = 8, 2


@pytest.fixture(scope="module")
def gateway() -> Iterator[RadosGateway]:
    """Its sockets stand in its folder, and their paths must be short."""
    with tempfile.TemporaryDirectory(prefix="rgw") as folder, rados_gateway(Path(folder) / "ceph") as running:
        running.make_bucket("data")
        yield running


def losses(run: Path) -> list[dict[str, float]]:
    """What a run has logged, without how fast it was."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name.startswith(("loss", "step", "grad"))} for row in rows]


def test_a_run_outlives_its_store(
    prepared: Workspace, gateway: RadosGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in sorted(prepared.data.iterdir()):
        gateway.upload(source, "data", f"all/{source.name}")
    for variable, value in gateway.variables.items():
        monkeypatch.setenv(variable, value)
    steps = [f"run.steps={STEPS}"]
    assert main(["train", *prepared.overrides("pretrain", *steps, f"run.folder={tmp_path / 'local'}")]) == 0
    restarts: list[Thread] = []
    append = RunFolder.append_metrics

    def append_and_kill(folder: RunFolder, row: dict[str, Any]) -> None:
        append(folder, row)
        if row["step"] == KILLED_AFTER:
            gateway.kill_gateway()
            restarts.append(Thread(target=gateway.start_gateway))
            restarts[-1].start()

    monkeypatch.setattr(RunFolder, "append_metrics", append_and_kill)
    far = [f"run.folder={tmp_path / 'far'}", "data.root=s3://data/all", f"data.cache={tmp_path / 'cache'}"]
    assert main(["train", *prepared.overrides("pretrain", *steps, *far)]) == 0
    restarts[0].join()
    assert losses(tmp_path / "far") == losses(tmp_path / "local")
    assert len(losses(tmp_path / "far")) == STEPS
    assert not (tmp_path / "far" / "quarantine.jsonl").exists()


def test_wrong_keys_and_a_wrong_bucket_are_refused_in_a_sentence(
    prepared: Workspace, gateway: RadosGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for variable, value in gateway.variables.items():
        monkeypatch.setenv(variable, value)

    def refused(*more: str) -> str:
        paths = [f"run.folder={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}", *more]
        assert main(["train", *prepared.overrides("pretrain", *paths)]) == 2
        return capsys.readouterr().err

    assert "index of s3://nowhere/toy_mobile: got no index.json" in refused("data.root=s3://nowhere")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "403 Forbidden" in refused("data.root=s3://data/all")
    assert not (tmp_path / "run").exists()
