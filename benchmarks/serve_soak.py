"""Memory, files and threads of a policy server under eight robots, malformed frames and clients that are killed.

A server process has a small real network and no limit on the rate. Eight robots with openpi-client, in an environment
of its own, ask one question after the other and know the offline sampler's answers. Beside them every five seconds
somebody sends eighty malformed frames, and every thirty seconds a client is killed (kill -9) after its request. Flat
means: after the first twelfth of the time nothing grows.

Run: uv run python -m benchmarks.serve_soak [--minutes 10]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import IO

import numpy as np
import torch

from benchmarks.soak import usage
from pi05_train.policy.hierarchy import Hierarchy
from pi05_train.policy.robot import RobotInterface
from pi05_train.policy.server.events import Events
from pi05_train.policy.server.limits import Limits
from pi05_train.policy.server.process import serve_until_signal
from pi05_train.policy.server.server import PolicyServer
from pi05_train.processing.images import decode_jpeg
from tests.policy.robots import observation_of, robot_of
from tests.policy.server.malformed import malformed
from tests.policy.server.serving import CLIENT, PATIENCE_SECONDS, Client
from tests.policy.toy_policy import toy_policy, toy_samples
from tests.services.openpi_client import openpi_client
from tests.synthetic import CARDS

ROBOTS, ROWS, FRAMES, SOURCE = 8, 12, 80, "toy_arm"
CLIENTS = Path(__file__).resolve().parents[1] / "tests" / "interop" / "openpi_clients.py"


def serve() -> None:
    """The server's process."""
    events, limits = Events(sys.stdout), Limits(requests_per_second=1e6)
    robot = RobotInterface(robot_of(CARDS[SOURCE]), CARDS[SOURCE])
    server = PolicyServer(robot, Hierarchy(toy_policy(), "flat").act, events, limits=limits)
    serve_until_signal(server, "127.0.0.1", 0, events, lambda port: events("serving", port=port))


def write_questions(path: Path) -> None:
    """What the robots ask, and the offline sampler's answers, each computed alone."""
    samples, policy = [replace(sample, subtask="") for sample in toy_samples(SOURCE)], toy_policy()
    seeds = np.arange(len(samples))
    np.savez(
        path,
        picture=np.stack([decode_jpeg(s.images["base_0_rgb"]).permute(1, 2, 0).numpy() for s in samples]),
        state=np.stack([s.state for s in samples if s.state is not None]),
        prompt=np.array([s.task for s in samples]),
        seed=seeds,
        actions=np.concatenate([policy.actions([s], [seed]) for s, seed in zip(samples, seeds.tolist(), strict=True)]),
    )


class Counted(threading.Thread):
    """Reads the server's events, so that it never waits for a reader."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(daemon=True)
        self.stream, self.counts, self.batches = stream, Counter[str](), Counter[int]()

    def run(self) -> None:
        for line in self.stream:
            event = json.loads(line)
            self.counts[event["event"]] += 1
            if event["event"] == "answered":
                self.batches[event["batch_samples"]] += 1


def disturb(port: int, ended: threading.Event) -> None:
    """Malformed frames every five seconds, a killed client every thirty."""
    good = observation_of(toy_samples(SOURCE)[0])
    round_ = 0
    while not ended.wait(5):
        round_ += 1
        with Client(port) as client:
            for frame in malformed(good, FRAMES, seed=round_):
                client.socket.send(frame)
                client.received()
        if round_ % 6 == 0:
            words = [sys.executable, "-c", CLIENT, str(port), "go"]
            with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
                assert killed.stdout is not None
                killed.stdout.readline()
                killed.kill()


def soak(minutes: float, python: Path, folder: Path) -> None:
    """Print a row a twelfth of the time, then what the robots found and what grew."""
    write_questions(folder / "questions.npz")
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serve_soak", "--serve"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    port = int(json.loads(process.stdout.readline())["port"])
    counted = Counted(process.stdout)
    counted.start()
    words = [python, CLIENTS, folder / "questions.npz", "--port", port, "--clients", ROBOTS, "--seconds", minutes * 60]
    began, memory = time.monotonic(), []
    robots = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
    ended = threading.Event()
    disturber = threading.Thread(target=disturb, args=(port, ended))
    disturber.start()
    for row in range(1, ROWS + 1):
        time.sleep(max(0.0, began + row * minutes * 60 / ROWS - time.monotonic()))
        memory.append(print_row((time.monotonic() - began) / 60, process.pid, counted.counts))
    ended.set()
    disturber.join()
    found = json.loads(robots.communicate(timeout=PATIENCE_SECONDS)[0])
    process.terminate()
    status = process.wait(PATIENCE_SECONDS)
    counted.join()
    requests, difference = sum(found["requests"]), found["difference"]
    print(f"\nrobots: {requests} requests, {found['wrong']} wrong answers, largest difference {difference:.1e}")
    failed = counted.counts["failed"]
    print(f"server: {failed} requests failed, mean batch {_mean(counted.batches):.1f}, exit status {status}")
    later = memory[1:]
    print(
        f"memory after the first row: {min(later):.1f} to {max(later):.1f} MB, at the end {later[-1] - later[0]:+.1f}"
    )


def print_row(minutes: float, process: int, counts: Counter[str]) -> float:
    """A line of the table; the server's memory in MB."""
    used, open_now = usage(process), counts["connected"] - counts["disconnected"]
    numbers = (counts["answered"], counts["refused"], counts["connected"], open_now)
    row = [f"{minutes:.1f}", *numbers, f"{used.memory_mb:.1f}", used.files, used.threads]
    print(f"| {' | '.join(map(str, row))} |", flush=True)
    return used.memory_mb


def _mean(sizes: Counter[int]) -> float:
    """Samples per batch: every sample of a batch has an event of its own."""
    return sum(sizes.values()) / max(sum(count / size for size, count in sizes.items()), 1)


def main() -> None:
    """Serve, or print the settings, a dozen rows and what grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.serve:
        serve()
        return
    with tempfile.TemporaryDirectory() as name:
        python = openpi_client(Path(name) / "environment")
        if isinstance(python, str):
            raise SystemExit(python)
        versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "websockets", "msgpack"))
        print(f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, {versions}\n")
        print("| minutes | answered | refused | connections so far | open now | memory, MB | open files | threads |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        soak(options.minutes, python, Path(name))


if __name__ == "__main__":
    main()
