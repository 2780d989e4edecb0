"""What is served is what was trained: the same network inputs and the offline sampler's actions."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from pi05_train.policy.execution import Remainder
from pi05_train.processing.example import Example
from pi05_train.samples.schema import Sample
from tests.policy.robots import observation_of
from tests.policy.server.serving import running
from tests.policy.toy_policy import toy_policy, toy_processor, toy_samples
from tests.synthetic import CARDS


def inputs(example: Example) -> list[Any]:
    return [example.prefix_ids, example.state, *(image.tolist() for image in example.images)]


def test_a_training_sample_through_client_and_server_is_bit_equal() -> None:
    source = "toy_mobile"
    policy, samples = toy_policy(), [replace(sample, subtask="") for sample in toy_samples(source)[:3]]
    seen: list[list[Any]] = []

    def infer(served: Sequence[Sample], seeds: Sequence[int], remainders: Sequence[Remainder | None]) -> list[Any]:
        seen.extend(inputs(policy.processor.prompt_only(sample)) for sample in served)
        return policy.actions(served, seeds, remainders)

    with running(source=CARDS[source], infer=infer) as server, server.client() as client:
        replies = [client.ask(observation_of(sample) | {"seed": seed}) for seed, sample in enumerate(samples)]
    for seed, (sample, reply, network_inputs) in enumerate(zip(samples, replies, seen, strict=True)):
        assert network_inputs == inputs(toy_processor()(sample, key=(0,), training=False))
        np.testing.assert_array_equal(reply["actions"], policy.actions([sample], [seed])[0])


def test_answers_of_shared_batches_are_those_of_the_offline_sampler() -> None:
    policy, samples = toy_policy(), [replace(sample, subtask="") for sample in toy_samples("toy_bimanual")[:4]]
    expected = [policy.actions([sample], [seed])[0] for seed, sample in enumerate(samples)]
    with running(source=CARDS["toy_bimanual"], infer=policy.actions) as server, ThreadPoolExecutor(4) as threads:

        def ask(seed: int) -> Any:
            with server.client() as client:
                return [client.ask(observation_of(samples[seed]) | {"seed": seed})["actions"] for _ in range(2)]

        answers = list(threads.map(ask, range(4)))
    for own, given in zip(expected, answers, strict=True):
        for actions in given:
            np.testing.assert_allclose(actions, own, atol=1e-4)


def test_a_chunk_that_goes_on_through_client_and_server_is_the_offline_samplers() -> None:
    source = "toy_bimanual"
    policy, (first, second) = toy_policy(), [replace(sample, subtask="") for sample in toy_samples(source)[:2]]
    with running(source=CARDS[source], infer=policy.actions) as server, server.client() as client:
        former = client.ask(observation_of(first) | {"seed": 1})["actions"]
        left = {"actions": former[3:], "delay_steps": 2}
        answer = client.ask(observation_of(second) | {"seed": 2, "remainder": left})["actions"]
        too_long = client.ask(
            observation_of(second) | {"remainder": {"actions": former.repeat(2, 0), "delay_steps": 2}}
        )
    np.testing.assert_array_equal(answer, policy.actions([second], [2], [Remainder(former[3:], 2)])[0])
    np.testing.assert_array_equal(answer[:2], former[3:5])
    assert too_long.startswith("remainder: got 16 steps")
