"""Servers whose network names subtasks: every robot has its own, a person's words come first, and all is as offline."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pi05_train.policy.execution import Remainder
from pi05_train.policy.hierarchy import Hierarchy, RobotState, Turn
from pi05_train.policy.policy import Policy
from pi05_train.samples.schema import Sample
from tests.policy.robots import observation_of
from tests.policy.server.serving import HOLD, Arithmetic, Client, expected_actions, observation, running
from tests.policy.toy_policy import toy_policy, toy_samples
from tests.synthetic import CARDS


def number_of(subtask: str) -> np.float32:
    """What the actions on a subtask have more than others."""
    return np.float32(zlib.crc32(subtask.encode()) % 1000)


@dataclass
class Speaker(Arithmetic):
    """A policy that counts how often it is asked about a command, and whose actions tell subtasks apart."""

    processor: Any = field(default_factory=lambda: SimpleNamespace(cards={}))
    asked: Counter[str] = field(default_factory=Counter)

    def text(self, samples: Sequence[Sample], max_tokens: int) -> list[str]:
        assert max_tokens > 0
        self.asked.update(sample.task for sample in samples)
        return [f"Subtask: {sample.task} {self.asked[sample.task]}" for sample in samples]

    def actions(
        self, samples: Sequence[Sample], seeds: Sequence[int], remainders: Sequence[Remainder | None]
    ) -> list[NDArray[np.float32]]:
        chunks = self(samples, seeds, remainders)
        return [chunk + number_of(sample.subtask) for chunk, sample in zip(chunks, samples, strict=True)]

    def levels(self) -> Hierarchy:
        return Hierarchy(cast(Policy, self), "hierarchical", period_s=1.0, correction_s=10.0)


class Clock:
    """Stands still until a test sets it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def check(reply: Any, subtask: str, seed: int = 0) -> None:
    """A reply names its subtask and acts on it."""
    assert reply["subtask"] == subtask
    zero = np.zeros(4)
    np.testing.assert_array_equal(reply["actions"], expected_actions(zero, seed) + number_of(subtask))


def test_two_robots_in_one_batch_keep_their_own_subtasks() -> None:
    speaker, clock = Speaker(), Clock()
    with running(hierarchical=speaker.levels().act, clock=clock) as server, ThreadPoolExecutor(3) as threads:
        holder, one, other = (server.client() for _ in range(3))
        assert one.metadata["mode"] == "hierarchical"
        held = threads.submit(holder.ask, observation(prompt=HOLD))
        assert speaker.holding.wait(60)
        asked = [
            threads.submit(one.ask, observation(prompt="tidy", seed=1)),
            threads.submit(other.ask, observation(prompt="cook", seed=2)),
        ]
        while server.server._batcher._waiting.qsize() < 2:
            assert not any(each.done() for each in asked)
        speaker.let.set()
        check(held.result(60), "hold 1")
        check(asked[0].result(60), "tidy 1", seed=1)
        check(asked[1].result(60), "cook 1", seed=2)
        clock.now = 0.5
        check(one.ask(observation(prompt="tidy")), "tidy 1")
        clock.now = 1.0
        check(one.ask(observation(prompt="tidy")), "tidy 2")
        check(other.ask(observation(prompt="cook")), "cook 2")
        for client in (holder, one, other):
            client.close()
    assert speaker.batches == [1, 2, 1, 1, 1]
    assert server.events.wait("answered")["subtask"] == "hold 1"


def test_a_correction_is_done_in_its_own_reply_until_its_time_or_a_new_command() -> None:
    speaker, clock = Speaker(), Clock()
    with running(hierarchical=speaker.levels().act, clock=clock) as server, server.client() as client:
        check(client.ask(observation(prompt="tidy")), "tidy 1")
        check(client.ask(observation(prompt="tidy") | {"correction": "wait"}), "wait")
        clock.now = 9.9
        check(client.ask(observation(prompt="tidy")), "wait")
        clock.now = 10.0
        check(client.ask(observation(prompt="tidy")), "tidy 2")
        check(client.ask(observation(prompt="tidy") | {"correction": "stop"}), "stop")
        check(client.ask(observation(prompt="cook")), "cook 1")


def test_a_correction_that_is_no_text_is_refused_and_changes_nothing() -> None:
    speaker = Speaker()
    with running(hierarchical=speaker.levels().act, clock=Clock()) as server, server.client() as client:
        check(client.ask(observation(prompt="tidy")), "tidy 1")
        for wrong in (7, "", "a" * 2001):
            assert client.ask(observation(prompt="tidy") | {"correction": wrong}).startswith("observation, correction:")
        check(client.ask(observation(prompt="tidy")), "tidy 1")


def test_a_flat_server_knows_no_corrections_and_names_no_subtask() -> None:
    with running() as server, server.client() as client:
        assert client.metadata["mode"] == "flat"
        assert client.ask(observation() | {"correction": "wait"}).startswith("observation, correction: got an unknown")
        assert "subtask" not in client.ask(observation())


def test_what_is_known_of_a_robot_goes_with_its_connection() -> None:
    speaker = Speaker()
    with running(hierarchical=speaker.levels().act, clock=Clock()) as server:
        with server.client() as client:
            check(client.ask(observation(prompt="tidy")), "tidy 1")
            check(client.ask(observation(prompt="tidy") | {"correction": "wait"}), "wait")
        server.events.wait("disconnected")
        with server.client() as client:
            check(client.ask(observation(prompt="tidy")), "tidy 2")


def test_a_robot_gets_bit_for_bit_what_the_hierarchy_says_offline() -> None:
    policy, clock = toy_policy(), Clock()
    spoken = SimpleNamespace(
        processor=policy.processor,
        actions=policy.actions,
        text=lambda samples, _: [f"Subtask: {sample.task} now" for sample in samples],
    )
    levels = Hierarchy(cast(Policy, spoken), "hierarchical", high_level_source="toy_subtasks")
    sample = toy_samples("toy_arm")[0]
    script = [
        (0.0, "tidy", ""),
        (0.4, "tidy", "open the drawer"),
        (5.0, "tidy", ""),
        (5.1, "cook", ""),
        (7.0, "cook", ""),
    ]
    state, subtasks = RobotState(), []
    with running(source=CARDS["toy_arm"], hierarchical=levels.act, clock=clock) as server, server.client() as client:
        for seed, (time_s, command, said) in enumerate(script):
            asked = replace(sample, task=command)
            ((chunk, state),) = levels.act([Turn(asked, state, time_s, seed, said)])
            clock.now = time_s
            reply = _ask(client, asked, seed, said)
            assert reply["subtask"] == state.subtask
            np.testing.assert_array_equal(reply["actions"], chunk)
            subtasks.append(state.subtask)
    assert subtasks == ["tidy now", "open the drawer", "open the drawer", "cook now", "cook now"]


def _ask(client: Client, sample: Sample, seed: int, correction: str) -> Any:
    return client.ask(observation_of(sample) | {"seed": seed} | ({"correction": correction} if correction else {}))
