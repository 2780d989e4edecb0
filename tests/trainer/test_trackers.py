"""Weights & Biases is told what it can be told, and never stops or asks."""

from __future__ import annotations

import builtins
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pi05_train.config.run_parts import LoggerConfig
from pi05_train.trainer.trackers import make_trackers


class FakeRun:
    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.finished = False

    def log(self, row: dict[str, Any], step: int) -> None:
        if self.fails:
            raise ConnectionError("the service died")
        self.rows.append((step, row))

    def finish(self) -> None:
        self.finished = True


class FakeWandb(types.ModuleType):
    """Stands in for the package: no files, no service process."""

    Settings = dict

    def __init__(self, *, has_key: bool = False, fails: bool = False) -> None:
        super().__init__("wandb")
        self.has_key, self.run = has_key, FakeRun(fails)
        self.started: list[dict[str, Any]] = []

    def login(self, *, prompt: bool = True) -> bool:
        assert not prompt, "a login was asked for"
        return self.has_key

    def init(self, **arguments: Any) -> FakeRun:
        assert "anonymous" not in arguments
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
