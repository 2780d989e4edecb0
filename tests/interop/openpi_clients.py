"""Robots with openpi-client, several at once: each knows the answers to its own questions.

    python tests/interop/openpi_clients.py QUESTIONS.npz --port PORT [--clients 8] [--seconds 0] [--api-key KEY]

runs in an environment of openpi-client's own, where nothing of this repository is installed (pytest does not collect
it; `tests/services/openpi_client.py` makes one). QUESTIONS.npz, N of them, for the robot of tests/policy/robots.py:
`picture` [N, h, w, 3] uint8, `state` [N, 4], `prompt` [N], `seed` [N], `actions` [N, H, D], the right answers. Client c
of n asks questions c, c + n, ... in turn: all of them once, or again and again for some seconds. Prints one JSON line:
requests, wrong answers, the largest difference, and what a bad observation was told.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
import warnings
from typing import Any

import numpy as np

warnings.simplefilter("ignore", DeprecationWarning)  # newer websockets want connect() in a with statement

from openpi_client.action_chunk_broker import ActionChunkBroker  # noqa: E402
from openpi_client.websocket_client_policy import WebsocketClientPolicy  # noqa: E402

TOLERANCE = 1e-3
"""Of an answer that was computed in a batch; the questions' answers differ by far more."""


def observation(questions: dict[str, Any], number: int) -> dict[str, Any]:
    state = questions["state"][number]
    return {
        "images": {"base_0_rgb": questions["picture"][number]},
        "joints": state[:3],
        "gripper": state[3:],
        "prompt": str(questions["prompt"][number]),
        "seed": int(questions["seed"][number]),
    }


class Robot(threading.Thread):
    """One client."""

    def __init__(self, policy: Any, questions: dict[str, Any], mine: range, seconds: float) -> None:
        super().__init__()
        self.policy, self.questions, self.mine, self.seconds = policy, questions, mine, seconds
        self.requests = self.wrong = 0
        self.difference = 0.0

    def run(self) -> None:
        end = time.monotonic() + self.seconds
        while True:
            for number in self.mine:
                reply = self.policy.infer(observation(self.questions, number))
                difference = float(np.abs(reply["actions"] - self.questions["actions"][number]).max())
                same = difference <= TOLERANCE and reply["seed"] == self.questions["seed"][number]
                self.requests, self.wrong = self.requests + 1, self.wrong + (not same)
                self.difference = max(self.difference, difference)
            if time.monotonic() >= end:
                return


def refusal(policy: Any, questions: dict[str, Any]) -> str:
    """What the server says to a bad observation."""
    try:
        policy.infer(observation(questions, 0) | {"joints": np.full(3, np.nan)})
    except RuntimeError as error:
        return str(error)
    return ""


def one_by_one(policy: Any, questions: dict[str, Any]) -> float:
    """How far a chunk that openpi's broker deals out step by step is from the right one."""
    expected = questions["actions"][0]
    broker = ActionChunkBroker(policy, action_horizon=len(expected))
    steps = [broker.infer(observation(questions, 0))["actions"] for _ in expected]
    return float(np.abs(np.stack(steps) - expected).max())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("questions")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--api-key")
    arguments = parser.parse_args()
    with np.load(arguments.questions) as stored:
        questions = dict(stored)
    policies = [WebsocketClientPolicy("127.0.0.1", arguments.port, arguments.api_key) for _ in range(arguments.clients)]
    count = len(questions["seed"])
    found = {
        "metadata": policies[0].get_server_metadata(),
        "refusal": refusal(policies[0], questions),
        "one_by_one": one_by_one(policies[0], questions),
    }
    robots = [
        Robot(policy, questions, range(number, count, len(policies)), arguments.seconds)
        for number, policy in enumerate(policies)
    ]
    for robot in robots:
        robot.start()
    for robot in robots:
        robot.join()
    found["requests"] = [robot.requests for robot in robots]
    found["wrong"] = sum(robot.wrong for robot in robots)
    found["difference"] = max(robot.difference for robot in robots)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
