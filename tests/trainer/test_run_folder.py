"""A run folder belongs to one run and one process, and says what was decided."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from pi05_train.errors import UserError
from pi05_train.trainer import run_folder
from pi05_train.trainer.code_version import Code, code_version
from pi05_train.trainer.run_folder import RunFolder

CONFIG = {
    "run": {"folder": "runs/a", "steps": 10, "seed": 1, "start_from": None},
    "optimizer": {"learning_rate": 1e-3, "betas": [0.9, 0.95]},
    "data": {"cache": None, "read_group": 1},
    "logger": {"wandb": "offline"},
    "checkpoint": {"every_steps": 5},
    "evaluation": {"episodes_per_task": 0},
}
DATA = {"mixture": "abc"}


def text(**changes: object) -> str:
    """CONFIG as YAML with dotted keys (dots written __) replaced."""
    config = json.loads(json.dumps(CONFIG))
    for dotted, value in changes.items():
        room, key = dotted.split("__")
        config[room][key] = value
    return yaml.safe_dump(config)


def test_new_folder_says_what_was_decided(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "new"
    with RunFolder(path, config=text(), fingerprints=DATA):
        assert yaml.safe_load((path / "config.yaml").read_text()) == CONFIG
        assert json.loads((path / "fingerprints.json").read_text()) == DATA
        version = json.loads((path / "code_version.json").read_text())[0]
        assert {"pi05_train", "torch", "python", "git_commit", "git_diff"} == version.keys()
        assert (path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"run__steps": 20}, True),
        ({"run__folder": "elsewhere"}, True),
        ({"logger__wandb": "online"}, True),
        ({"checkpoint__every_steps": 1}, True),
        ({"evaluation__episodes_per_task": 5}, True),
        ({"data__cache": "elsewhere"}, True),
        ({"data__read_group": 8}, False),
        ({"run__seed": 2}, False),
        ({"optimizer__learning_rate": 2e-3}, False),
        ({"optimizer__betas": [0.9, 0.99]}, False),
        ({"optimizer__new": None}, False),
    ],
)
def test_reopening_with_another_configuration(tmp_path: Path, change: dict[str, object], allowed: bool) -> None:
    RunFolder(tmp_path, config=text(), fingerprints=DATA).close()
    if allowed:
        RunFolder(tmp_path, config=text(**change), fingerprints=DATA).close()
        assert (tmp_path / "config.yaml").read_text() == text(**change)
        return
    key = next(iter(change)).replace("__", ".")
    with pytest.raises(UserError, match=key):
        RunFolder(tmp_path, config=text(**change), fingerprints=DATA)
    assert (tmp_path / "config.yaml").read_text() == text()
    RunFolder(tmp_path, config=text(), fingerprints=DATA).close()


def test_first_differing_key_is_named(tmp_path: Path) -> None:
    RunFolder(tmp_path, config=text(), fingerprints=DATA).close()
    with pytest.raises(UserError, match=r"optimizer\.learning_rate.*got 0\.5.*expected 0\.001"):
        RunFolder(tmp_path, config=text(run__seed=2, optimizer__learning_rate=0.5), fingerprints=DATA)


def test_other_data_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path, config=text(), fingerprints=DATA).close()
    with pytest.raises(UserError, match=r"mixture.*got xyz.*expected abc"):
        RunFolder(tmp_path, config=text(), fingerprints={"mixture": "xyz"})


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        RunFolder(tmp_path, config=text(), fingerprints=DATA)
    assert not (tmp_path / "config.yaml").exists()


def test_a_held_folder_is_refused_until_it_is_let_go(tmp_path: Path) -> None:
    """The lock belongs to the opening, so one process stands for two; the kernel lets go when a process dies."""
    with (
        RunFolder(tmp_path, config=text(), fingerprints=DATA),
        pytest.raises(UserError, match="another process"),
    ):
        RunFolder(tmp_path, config=text(), fingerprints=DATA)
    RunFolder(tmp_path, config=text(), fingerprints=DATA).close()


def test_resuming_cuts_rows_from_the_resumed_step_and_half_a_line(tmp_path: Path) -> None:
    with RunFolder(tmp_path, config=text(), fingerprints=DATA) as folder:
        for step in (4, 9, 14):
            folder.append_metrics({"step": step, "loss/total": 0.1 * step})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 1')
    with RunFolder(tmp_path, config=text(), fingerprints=DATA) as folder:
        folder.cut_metrics(10)
        folder.append_metrics({"step": 10})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"step": 4, "loss/total": 0.4}, {"step": 9, "loss/total": 0.1 * 9}, {"step": 10}]


def test_code_outside_git_is_unknown(tmp_path: Path) -> None:
    assert code_version(tmp_path).version["git_commit"] == code_version(tmp_path).version["git_diff"] == "unknown"


def test_commit_and_diff_give_back_the_code_that_ran(tmp_path: Path) -> None:
    """Changes, new files of the code, but not the data that a checkout may hold."""

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    changed, new = tmp_path / "conf" / "a.yaml", tmp_path / "conf" / "b c.yaml"
    changed.parent.mkdir()
    git("init", "-q")
    changed.write_text("steps: 1\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    clean = code_version(tmp_path)
    assert (clean.version["git_commit"], clean.version["git_diff"], clean.diff) == (
        git("rev-parse", "HEAD"),
        "none",
        "",
    )

    (tmp_path / "shard.tar").write_text("gigabytes")
    assert code_version(tmp_path) == clean
    changed.write_text("steps: 2\n")
    new.write_text("seed: 0\n")
    dirty = code_version(tmp_path)
    assert dirty.version["git_diff"] not in ("none", "unknown")
    nested = tmp_path / "site-packages"
    nested.mkdir()
    assert code_version(nested).version["git_commit"] == "unknown", "somebody else's checkout"

    (tmp_path / "kept.diff").write_text(dirty.diff)
    new.unlink()
    git("checkout", "-q", "conf")
    git("apply", "kept.diff")
    assert (changed.read_text(), new.read_text()) == ("steps: 2\n", "seed: 0\n")


def test_every_code_that_worked_on_a_run_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in ("first", "first", "second"):
        found = Code({"git_commit": "c", "git_diff": f"code-{code}.diff"}, f"+{code}\n")
        monkeypatch.setattr(run_folder, "code_version", lambda found=found: found)
        RunFolder(tmp_path, config=text(), fingerprints=DATA).close()
    names = [entry["git_diff"] for entry in json.loads((tmp_path / "code_version.json").read_text())]
    assert {name: (tmp_path / name).read_text() for name in names} == {
        "code-first.diff": "+first\n",
        "code-second.diff": "+second\n",
    }
    assert len(names) == 2


def test_a_start_that_was_cut_off_is_begun_again(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with RunFolder(whole, config=text(), fingerprints=DATA):
        names = [path.name for path in whole.iterdir() if path.name not in ("config.yaml", "metrics.jsonl")]
    cut = tmp_path / "cut"
    cut.mkdir()
    for name in (*names, ".config.yaml.new"):
        (cut / name).write_text((whole / name).read_text() if name in names else "ru")
    with RunFolder(cut, config=text(), fingerprints=DATA):
        assert yaml.safe_load((cut / "config.yaml").read_text()) == CONFIG


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Not a directory.*choose another disk"):
        RunFolder(tmp_path / "file" / "run", config=text(), fingerprints=DATA)
    with pytest.raises(UserError, match=r"File exists"):
        RunFolder(tmp_path / "file", config=text(), fingerprints=DATA)
