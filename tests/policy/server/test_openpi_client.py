"""openpi-client as it is published, in an environment of its own, against our server."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pi05_train.config.robots import read_robot
from pi05_train.samples.card import load_card
from tests.policy.server.serving import expected_actions, running
from tests.services.openpi_client import openpi_client

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "tests" / "interop" / "openpi_clients.py"
CLIENTS, QUESTIONS = 8, 800


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of openpi-client's own environment."""
    found = openpi_client(tmp_path_factory.mktemp("openpi") / "environment")
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.mark.slow
def test_the_guides_example_runs_as_it_stands(python: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "serve.md").read_text(), re.DOTALL)
    robot, source = read_robot("sim_fetch"), load_card(ROOT / "data_mixtures" / "source" / "sim_fetch.yaml")
    with running(
        source=source, robot=robot, infer=lambda samples, *_: [np.zeros((10, 4), np.float32)] * len(samples)
    ) as server:
        code = example.replace("8000", str(server.port)) + "\nprint(actions.shape, command.shape)"
        ended = subprocess.run([python, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert ended.stdout.splitlines()[-1:] == ["(10, 4) (4,)"], ended.stderr


@pytest.mark.slow
def test_eight_clients_at_once_each_get_their_own_answers(python: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    states, seeds = rng.normal(size=(QUESTIONS, 4)), np.arange(QUESTIONS)
    answers = [expected_actions(state, seed) for state, seed in zip(states, seeds, strict=True)]
    pictures = rng.integers(0, 256, (QUESTIONS, 32, 32, 3), dtype=np.uint8)
    prompts = np.array([f"go to {seed}" for seed in seeds])
    questions = tmp_path / "questions.npz"
    np.savez(questions, picture=pictures, state=states, prompt=prompts, seed=seeds, actions=np.stack(answers))
    with running(api_key="secret") as server:
        words = [questions, "--port", server.port, "--clients", CLIENTS, "--api-key", "secret"]
        ended = subprocess.run([python, SCRIPT, *map(str, words)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    assert found["requests"] == [QUESTIONS // CLIENTS] * CLIENTS
    assert (found["wrong"], found["difference"], found["one_by_one"]) == (0, 0, 0)
    assert found["metadata"]["robot"] == "toy_arm_robot"
    assert "observation, joints[0]: got nan, expected finite numbers" in found["refusal"]
    assert max(server.policy.batches) > 1
