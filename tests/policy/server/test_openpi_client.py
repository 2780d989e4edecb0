"""openpi-client as it is published, in an environment of its own, against our server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.policy.server.serving import expected_actions, running
from tests.services.openpi_client import openpi_client

SCRIPT = Path(__file__).resolve().parents[2] / "interop" / "openpi_clients.py"
CLIENTS, QUESTIONS = 8, 800


@pytest.mark.slow
def test_eight_clients_at_once_each_get_their_own_answers(tmp_path: Path) -> None:
    python = openpi_client(tmp_path / "environment")
    if isinstance(python, str):
        pytest.skip(python)
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
