"""`pi05 serve` from a trained run to a robot's client, and what it refuses."""

from __future__ import annotations

import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import yaml

from pi05_train.checkpoint.foreign.identify import Format
from pi05_train.commands.main import main
from pi05_train.commands.serve import levels_of
from pi05_train.errors import UserError
from pi05_train.policy.hierarchy import RobotState, Turn
from pi05_train.policy.load import load_foreign_policy, load_policy
from pi05_train.policy.policy import Policy
from tests.commands.conftest import Workspace
from tests.policy.robots import observation_of, robot_of
from tests.policy.server.serving import Client, Recorded
from tests.policy.test_load import made_policy, write
from tests.synthetic import CARDS, synthetic_samples


def card_file(folder: Path, source: str) -> str:
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(asdict(robot_of(CARDS[source]))))
    return str(path)


def source_file(folder: Path, source: str) -> str:
    path = folder / "source.yaml"
    path.write_text(yaml.safe_dump(asdict(CARDS[source])))
    return str(path)


def ask_and_interrupt(events: Recorded, question: dict[str, Any]) -> tuple[dict[str, Any], Any, Any]:
    """What the server says it serves, its metadata and its answer; then Ctrl-C for this process, come what may."""
    try:
        serving = events.wait("serving")
        with Client(serving["port"], "secret") as client:
            found = serving, client.metadata, client.ask(question)
        events.wait("disconnected")
        return found
    finally:
        os.kill(os.getpid(), signal.SIGINT)


def served(
    monkeypatch: pytest.MonkeyPatch, folder: Path, question: dict[str, Any], *words: str
) -> tuple[dict[str, Any], Any, Any]:
    """What `ask_and_interrupt` finds where `pi05 serve` is started with these words."""
    (folder / "key").write_text("secret\n")
    events = Recorded()
    monkeypatch.setattr(sys, "stdout", events)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask_and_interrupt, events, question)
        words = (*words, "--port", "0", "--device", "cpu", "--api-key-file", str(folder / "key"))
        assert main(["serve", *words]) == 0
        return asked.result()


def test_a_trained_run_answers_a_robot_as_offline_and_ends_on_ctrl_c(
    posttrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("secret\n")
    words = ["--robot", card_file(tmp_path, "toy_arm"), "--source", "toy_arm", "--port", "0", "--device", "cpu"]
    sample, events = synthetic_samples(CARDS["toy_arm"])[0], Recorded()
    monkeypatch.setattr(sys, "stdout", events)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask_and_interrupt, events, observation_of(sample) | {"seed": 3})
        words += ["--keep-requests", str(tmp_path / "kept")]
        assert main(["serve", str(posttrained), *words, "--api-key-file", str(tmp_path / "key")]) == 0
        serving, metadata, reply = asked.result()
    events.wait("stopped")
    assert (serving["robot"], serving["source"], serving["host"]) == ("toy_arm_robot", "toy_arm", "127.0.0.1")
    assert (metadata["step"], metadata["weights"], metadata["run"]) == (3, "ema", "posttrain")
    assert metadata["precision"] == "fp32"
    np.testing.assert_array_equal(reply["actions"], load_policy(posttrained, ema=True).actions([sample], [3])[0])
    assert len(reply["actions"]) == metadata["action_horizon"]
    assert [path.stem.partition("-")[2] for path in (tmp_path / "kept").iterdir()] == ["client-1-request-1"]
    told = [event["event"] for event in events.all]
    assert told == ["serving", "connected", "answered", "disconnected", "stopping", "stopped"]


def test_a_trained_run_names_subtasks_to_a_robot_as_offline(
    posttrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--robot", card_file(tmp_path, "toy_arm"), "--source", "toy_arm", "--mode", "hierarchical"]
    words += ["--precision", "bf16"]
    sample = synthetic_samples(CARDS["toy_arm"])[0]
    levels = levels_of(load_policy(posttrained, ema=True, bfloat16=True), str(posttrained), "hierarchical", None)
    ((chunk, state),) = levels.act([Turn(sample, RobotState(), 0.0, 3)])
    question = observation_of(sample) | {"seed": 3}
    serving, metadata, reply = served(monkeypatch, tmp_path, question, str(posttrained), *words)
    assert levels.high_level_source == "toy_subtasks"
    assert serving["mode"] == metadata["mode"] == "hierarchical"
    assert reply["subtask"] == state.subtask
    np.testing.assert_array_equal(reply["actions"], chunk)


def test_a_lerobot_folder_is_served_with_the_actions_of_the_run_that_it_is_from(
    posttrained: Path, prepared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = "toy_bimanual", str(tmp_path / "lerobot")
    assert main(["checkpoint", "export", str(posttrained), folder, "--to", "lerobot", "--source", source]) == 0
    sample, tokenizer = synthetic_samples(CARDS[source])[0], f"tokenizer.text={prepared.tokenizers / 'text'}"
    words = [folder, tokenizer, f"tokenizer.fast={prepared.tokenizers / 'fast'}"]
    offline = load_foreign_policy(folder, CARDS[source], words[1:]).actions([sample], [3])[0]
    cards = ["--robot", card_file(tmp_path, source), "--source", source_file(tmp_path, source)]
    serving, metadata, reply = served(monkeypatch, tmp_path, observation_of(sample) | {"seed": 3}, *words, *cards)
    assert serving["source"] == metadata["source"] == source
    assert (metadata["checkpoint"], metadata["format"]) == (folder, "LeRobot")
    np.testing.assert_array_equal(reply["actions"], offline)
    np.testing.assert_allclose(offline, load_policy(posttrained, ema=True).actions([sample], [3])[0], atol=1e-4)


def test_pi0_fast_is_served_and_an_answer_that_is_no_chunk_refused(
    prepared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizers = [f"tokenizer.{name}={prepared.tokenizers / name}" for name in ("text", "fast")]
    write(made_policy("pi0_fast", tokenizers), tmp_path / "weights", Format.WEIGHTS)
    cards = ["--robot", card_file(tmp_path, "toy_arm"), "--source", source_file(tmp_path, "toy_arm")]
    question = observation_of(synthetic_samples(CARDS["toy_arm"])[0])
    _, metadata, reply = served(monkeypatch, tmp_path, question, str(tmp_path / "weights"), *cards, *tokenizers)
    assert metadata["format"] == "pi05 weights"
    assert reply.endswith(
        "got FAST tokens that are no chunk, expected a chunk; observe again, or use weights trained further."
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "--source: got nothing, expected the card of a source in data_mixtures/source, or a card file"),
        (["--source", "nobody"], "source card: got 'nobody', expected a file, or one of"),
        (["--source", "open_droid"], "source card open_droid, cameras: got"),
        (["--source", "FILE", "--weights", "raw"], "--weights: got raw, expected a run"),
        (
            ["--source", "FILE", "model=pi0"],
            "overrides: got model=pi0, expected overrides of ['templates', 'tokenizer']",
        ),
        (["--source", "FILE", "--asset", "other"], "got 'other', expected one of ['toy_arm']"),
        (["--source", "FILE", "--mode", "hierarchical"], "got weights without a high-level source"),
    ],
)
def test_weights_of_no_run_are_refused_without_what_tells_of_their_robot(
    words: list[str], sentence: str, prepared: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizers = [f"tokenizer.{name}={prepared.tokenizers / name}" for name in ("text", "fast")]
    write(made_policy("pi05", tokenizers), tmp_path / "weights", Format.WEIGHTS)
    given = [source_file(tmp_path, "toy_arm") if word == "FILE" else word for word in words]
    start = ["serve", str(tmp_path / "weights"), *tokenizers, "--robot", card_file(tmp_path, "toy_arm")]
    assert main([*start, *given]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cards", "mode", "source", "sentence"),
    [
        (["toy_arm"], "hierarchical", None, "--mode hierarchical: got weights without a high-level source"),
        (["toy_arm"], "flat", "toy_subtasks", "--high-level-source: got toy_subtasks with --mode flat"),
        (["toy_arm", "toy_subtasks"], "hierarchical", "toy_arm", "--high-level-source: got 'toy_arm', expected one of"),
        (["toy_subtasks", "again"], "hierarchical", None, "--high-level-source: got nothing, and 2 high-level sources"),
    ],
)
def test_a_mode_that_the_run_has_not_learnt_is_refused(
    cards: list[str], mode: str, source: str | None, sentence: str
) -> None:
    known = {name: CARDS.get(name, CARDS["toy_subtasks"]) for name in cards}
    policy = cast(Policy, SimpleNamespace(processor=SimpleNamespace(cards=known)))
    with pytest.raises(UserError, match=sentence):
        levels_of(policy, "run", mode, source)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--robot", "nobody"], "robot card: got 'nobody', expected a file, or one of"),
        (["--robot", "droid"], "--source: got nothing, and 0 sources whose card names the robot droid, expected one"),
        (["--robot", "droid", "--source", "toy_web"], "--source: got 'toy_web', expected one of"),
        (["--robot", "droid", "--source", "toy_arm"], "source card toy_arm, cameras: got"),
        (["--robot", "droid", "model=pi0", "--asset", "a"], "got model=pi0 --asset a, expected a run alone"),
        (["--robot", "droid", "--clients", "0"], "--clients: got 0, expected at least 1"),
        (["--robot", "droid", "--api-key-file", "nowhere"], "--api-key-file nowhere: got"),
    ],
)
def test_what_cannot_be_served_is_refused(
    posttrained: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(posttrained), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_that_is_no_run_and_a_taken_port_are_refused(
    posttrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robot = card_file(tmp_path, "toy_arm")
    assert main(["serve", str(tmp_path), "--robot", robot]) == 2
    assert "got a folder with robot.yaml, expected one of openpi orbax" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(posttrained), "--robot", robot, "--source", "toy_arm", "--port", port]) == 2
    assert f"127.0.0.1, port {port}: got" in capsys.readouterr().err
