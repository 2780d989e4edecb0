"""`pi05 serve` from a trained run to a robot's client, and what it refuses."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from pi05_train.commands.main import main
from pi05_train.policy.load import load_policy
from tests.commands.conftest import Workspace
from tests.policy.robots import observation_of, robot_of
from tests.policy.server.serving import Client
from tests.synthetic import CARDS, synthetic_samples


@pytest.fixture(scope="module")
def run(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a post-trained stage."""
    root = tmp_path_factory.mktemp("served")
    workspace = Workspace(root, prepared.data, prepared.tokenizers, prepared.config_dir)
    assert main(["train", *workspace.overrides("posttrain")]) == 0
    return root / "posttrain"


def card_file(folder: Path, source: str) -> str:
    path = folder / "robot.yaml"
    path.write_text(yaml.safe_dump(asdict(robot_of(CARDS[source]))))
    return str(path)


def test_a_trained_run_answers_a_robot_as_offline_and_ends_on_ctrl_c(run: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    words = [str(run), "--robot", card_file(tmp_path, "toy_arm"), "--source", "toy_arm", "--port", "0"]
    words += ["--api-key-file", str(tmp_path / "key"), "--device", "cpu"]
    command = [sys.executable, "-m", "pi05_train.commands.main", "serve", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        serving = json.loads(process.stdout.readline())
        sample = synthetic_samples(CARDS["toy_arm"])[0]
        with Client(serving["port"], "secret") as client:
            metadata, reply = client.metadata, client.ask(observation_of(sample) | {"seed": 3})
        process.send_signal(signal.SIGINT)
        events = [json.loads(line)["event"] for line in process.stdout]
        assert process.wait(60) == 0
    assert (serving["robot"], serving["source"], serving["host"]) == ("toy_arm_robot", "toy_arm", "127.0.0.1")
    assert (metadata["step"], metadata["weights"], metadata["run"]) == (3, "ema", "posttrain")
    np.testing.assert_array_equal(reply["actions"], load_policy(run, ema=True).actions([sample], [3])[0])
    assert len(reply["actions"]) == metadata["action_horizon"]
    assert events == ["connected", "answered", "disconnected", "stopping", "stopped"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--robot", "nobody"], "robot card: got 'nobody', expected a file, or one of"),
        (["--robot", "droid"], "--source: got nothing, and 0 sources whose card names the robot droid, expected one"),
        (["--robot", "droid", "--source", "toy_web"], "--source: got 'toy_web', expected one of"),
        (["--robot", "droid", "--source", "toy_arm"], "source card toy_arm, cameras: got"),
        (["--robot", "droid", "--clients", "0"], "--clients: got 0, expected at least 1"),
        (["--robot", "droid", "--api-key-file", "nowhere"], "--api-key-file nowhere: got"),
    ],
)
def test_what_cannot_be_served_is_refused(
    run: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(run), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_that_is_no_run_and_a_taken_port_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robot = card_file(tmp_path, "toy_arm")
    assert main(["serve", str(tmp_path), "--robot", robot]) == 2
    assert "no config.yaml" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(run), "--robot", robot, "--source", "toy_arm", "--port", port]) == 2
    assert f"127.0.0.1, port {port}: got" in capsys.readouterr().err
