"""Weights & Biases and TensorBoard are told what they can be told, and never stop a run or ask."""

from __future__ import annotations

import builtins
import subprocess
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pi05_train.checkpoint.run_state import save
from pi05_train.config.run_parts import LoggerConfig
from pi05_train.trainer import wandb_tracker
from pi05_train.trainer.examples import COLUMNS, Prediction
from pi05_train.trainer.trackers import make_trackers

ROOT = Path(__file__).resolve().parents[2]


class FakeRun:
    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.artifacts: list[tuple[FakeArtifact, list[str]]] = []
        self.finished = False

    def log(self, row: dict[str, Any], step: int) -> None:
        if self.fails:
            raise ConnectionError("the service died")
        self.rows.append((step, row))

    def log_artifact(self, artifact: FakeArtifact, aliases: list[str]) -> None:
        self.artifacts.append((artifact, aliases))

    def finish(self) -> None:
        self.finished = True


class FakeArtifact:
    def __init__(self, name: str, type: str, metadata: dict[str, Any]) -> None:
        self.name, self.type, self.metadata = name, type, metadata
        self.files: set[str] = set()

    def add_dir(self, path: str) -> None:
        self.files |= {file.name for file in Path(path).iterdir()}

    def add_file(self, path: str) -> None:
        assert Path(path).is_file()
        self.files.add(Path(path).name)


class FakeTable:
    def __init__(self, columns: list[str]) -> None:
        self.columns, self.rows = columns, []  # type: ignore[var-annotated]

    def add_data(self, *cells: Any) -> None:
        assert len(cells) == len(self.columns)
        self.rows.append(cells)


class FakeImage:
    def __init__(self, picture: np.ndarray, caption: str = "") -> None:
        self.picture, self.caption = picture, caption


class CommError(Exception):
    """As wandb.errors has it: no server, or one that does not take the key."""


class FakeWandb(types.ModuleType):
    """Stands in for the package: no files, no service process."""

    Settings, Artifact, Table, Image = dict, FakeArtifact, FakeTable, FakeImage
    errors = types.SimpleNamespace(CommError=CommError)

    def __init__(self, *, has_key: bool = False, fails: bool = False, refuses: str = "") -> None:
        super().__init__("wandb")
        self.has_key, self.run, self.refuses = has_key, FakeRun(fails), refuses
        self.taken: set[str] = set()
        self.started: list[dict[str, Any]] = []

    def login(self, *, prompt: bool = True) -> bool:
        assert not prompt, "a login was asked for"
        if self.refuses == "login":
            raise CommError("no answer\nfrom the server")
        return self.has_key

    def teardown(self) -> None:
        self.taken.clear()

    def init(self, **arguments: Any) -> FakeRun:
        assert "anonymous" not in arguments
        if self.refuses == "init" and arguments["mode"] == "online":
            self.taken.add(arguments["id"])
            raise CommError("permission denied")
        assert arguments["id"] not in self.taken, "run ID is in use"
        self.started.append(arguments)
        return self.run


def use(monkeypatch: pytest.MonkeyPatch, fake: FakeWandb) -> FakeWandb:
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("somebody was asked"))
    return fake


def logger(mode: str) -> LoggerConfig:
    return LoggerConfig(wandb=mode, project="p", every_steps=1)


def test_offline_records_rows_at_their_steps_under_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = use(monkeypatch, FakeWandb())
    for _ in range(2):
        (tracker,) = make_trackers(logger("offline"), tmp_path, {"run": {"seed": 1}})
        tracker.log({"step": 4, "loss/total": 0.5})
        tracker.close()
    assert fake.run.rows[0] == (4, {"step": 4, "loss/total": 0.5})
    assert fake.run.finished
    assert [started["mode"] for started in fake.started] == ["offline", "offline"]
    assert fake.started[0]["id"] == fake.started[1]["id"]
    assert fake.started[0]["config"] == {"run": {"seed": 1}}


def test_disabled_does_not_import_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert make_trackers(logger("disabled"), tmp_path, {}) == []


def test_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = use(monkeypatch, FakeWandb(has_key=True))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert make_trackers(logger("online"), tmp_path, {}) == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    make_trackers(logger("online"), tmp_path, {})
    assert fake.started[0]["mode"] == "offline"


def test_online_without_a_key_is_recorded_offline_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = use(monkeypatch, FakeWandb(has_key=False))
    with pytest.warns(UserWarning, match="no API key") as caught:
        make_trackers(logger("online"), tmp_path, {})
    assert len(caught) == 1
    assert fake.started[0]["mode"] == "offline"


@pytest.mark.parametrize(("at", "said"), [("login", "no answer from the server"), ("init", "permission denied")])
def test_online_without_a_server_that_takes_the_run_is_recorded_offline_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, said: str
) -> None:
    fake = use(monkeypatch, FakeWandb(has_key=True, refuses=at))
    with pytest.warns(UserWarning, match=f"{said}.*recorded offline") as caught:
        (tracker,) = make_trackers(logger("online"), tmp_path, {})
    assert len(caught) == 1
    assert fake.started[-1]["mode"] == "offline"
    tracker.log({"step": 1})
    assert fake.run.rows == [(1, {"step": 1})]


def test_online_with_a_key_resumes_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = use(monkeypatch, FakeWandb(has_key=True))
    make_trackers(logger("online"), tmp_path, {})
    assert (fake.started[0]["mode"], fake.started[0]["resume"]) == ("online", "allow")


def test_dead_tracker_gives_one_warning_and_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeWandb(fails=True))
    (tracker,) = make_trackers(logger("offline"), tmp_path, {})
    with pytest.warns(UserWarning, match="the service died"):
        tracker.log({"step": 0})
    tracker.log({"step": 1})  # a second warning would be an error
    tracker.close()


def test_missing_package_gives_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with pytest.warns(UserWarning, match="training goes on") as caught:
        (tracker,) = make_trackers(logger("offline"), tmp_path, {})
    tracker.log({"step": 1})
    tracker.close()
    assert len(caught) == 1


HUNG = """
import signal, sys, psutil
from pathlib import Path
from pi05_train.config.run_parts import LoggerConfig
from pi05_train.trainer import wandb_tracker
from pi05_train.trainer.trackers import make_trackers
(tracker,) = make_trackers(LoggerConfig(wandb="offline", project="p", every_steps=1), Path(sys.argv[1]), {})
tracker.log({"step": 0, "loss/total": 1.0})
wandb_tracker.PATIENCE_SECONDS = 1
for child in psutil.Process().children():
    child.send_signal(signal.SIGSTOP)
tracker.log({"step": 1, "loss/total": 1.0})
tracker.close()
print("training went on")
"""


def test_a_close_that_hangs_is_ended_after_a_time_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, ended = use(monkeypatch, FakeWandb()), threading.Event()

    def hang() -> None:
        ended.wait()
        raise ConnectionResetError("connection lost")

    monkeypatch.setattr(fake.run, "finish", hang)
    monkeypatch.setattr(wandb_tracker, "_end_service", ended.set)
    monkeypatch.setattr(wandb_tracker, "PATIENCE_SECONDS", 0.01)
    (tracker,) = make_trackers(logger("offline"), tmp_path, {})
    with pytest.warns(UserWarning, match=r"connection lost.*training goes on") as caught:
        tracker.close()
    assert len(caught) == 1


@pytest.mark.slow
def test_real_service_that_hangs_is_ended_said_once_and_the_process_ends(tmp_path: Path) -> None:
    """Stopped, nothing it is asked for ever comes back; ended, every call fails."""
    command = [sys.executable, "-W", "ignore::ResourceWarning", "-c", HUNG, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, "training went on"), done.stderr
    assert done.stderr.count("training goes on and metrics.jsonl has every row") == 1, done.stderr


def checkpoint(run: Path, step: int) -> None:
    save(run, step, {"model": {"weight": torch.zeros(2)}}, {})


def test_checkpoints_are_sent_once_each_with_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = use(monkeypatch, FakeWandb())
    (tmp_path / "config.yaml").write_text("run: {}\n")
    (tracker,) = make_trackers(replace(logger("offline"), artifacts=True), tmp_path, {})
    tracker.log({"step": 0})
    assert fake.run.artifacts == []
    checkpoint(tmp_path, 1)
    tracker.log({"step": 1})
    tracker.log({"step": 2})
    checkpoint(tmp_path, 4)
    tracker.close()
    assert [aliases for _, aliases in fake.run.artifacts] == [["latest", "step-1"], ["latest", "step-4"]]
    assert [artifact.metadata for artifact, _ in fake.run.artifacts] == [{"step": 1}, {"step": 4}]
    assert all({"config.yaml", "extra.json", "complete.json"} <= artifact.files for artifact, _ in fake.run.artifacts)


def test_checkpoints_stay_at_home_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = use(monkeypatch, FakeWandb())
    (tracker,) = make_trackers(logger("offline"), tmp_path, {})
    checkpoint(tmp_path, 1)
    tracker.log({"step": 1})
    tracker.close()
    assert fake.run.artifacts == []


PICTURE = np.zeros((8, 8, 3), dtype=np.uint8)
PREDICTIONS = [
    Prediction("web", "7", "Q: what | how?", "a cup", "a\n<b> cup", PICTURE, None),
    Prediction("arm", "9", "Task: lift", "", "", PICTURE, PICTURE + 1),
]


def test_predictions_are_a_table_and_pictures_of_each_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = use(monkeypatch, FakeWandb())
    (tracker,) = make_trackers(logger("offline"), tmp_path, {})
    tracker.show(3, PREDICTIONS)
    [(step, media)] = fake.run.rows
    assert step == 3
    assert media.keys() == {"examples", "examples/web/picture", "examples/arm/picture", "examples/arm/chunk"}
    assert media["examples"].columns == [*COLUMNS, "picture", "chunk"]
    assert media["examples"].rows[0][:5] == PREDICTIONS[0].cells()
    assert media["examples"].rows[0][6] is None
    assert media["examples/web/picture"][0].caption == "a cup | a\n<b> cup"


def tensorboard(path: Path) -> EventAccumulator:
    return EventAccumulator(str(path / "tensorboard")).Reload()


def test_tensorboard_has_the_numbers_under_the_same_names(tmp_path: Path) -> None:
    rows = [{"step": 4, "loss/total": 0.5, "loss/text/web": 2.0}, {"step": 9, "loss/total": 0.25}]
    (tracker,) = make_trackers(replace(logger("disabled"), tensorboard=True), tmp_path, {})
    for row in rows:
        tracker.log(row)
    tracker.show(9, PREDICTIONS)
    tracker.close()
    events = tensorboard(tmp_path)
    read = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert read == {"loss/total": [(4, 0.5), (9, 0.25)], "loss/text/web": [(4, 2.0)]}
    assert set(events.Tags()["images"]) == {"examples/web/7/picture", "examples/arm/9/picture", "examples/arm/9/chunk"}
    [text] = events.Tensors("examples/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    assert "| web | 7 | Q: what \\| how? | a cup | a &lt;b> cup |" in table


def test_tensorboard_of_a_resumed_run_has_no_doubled_rows(tmp_path: Path) -> None:
    asked = replace(logger("disabled"), tensorboard=True)
    (tracker,) = make_trackers(asked, tmp_path, {})
    for step in range(6):
        tracker.log({"step": step, "loss/total": 1.0})
    tracker.close()
    checkpoint(tmp_path, 3)
    (tracker,) = make_trackers(asked, tmp_path, {})
    for step in range(3, 5):
        tracker.log({"step": step, "loss/total": 2.0})
    tracker.close()
    read = [(event.step, event.value) for event in tensorboard(tmp_path).Scalars("loss/total")]
    assert read == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_tensorboard_without_its_package_gives_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.warns(UserWarning, match=r"TensorBoard stopped .*--extra tensorboard.*training goes on") as caught:
        (tracker,) = make_trackers(replace(logger("disabled"), tensorboard=True), tmp_path, {})
    tracker.log({"step": 1})
    tracker.show(1, PREDICTIONS)
    tracker.close()
    assert len(caught) == 1
