from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.errors import UserError
from pi05_train.policy.execution import STRATEGIES, Chunk, Execution, Remainder
from tests.policy.toy_policy import ACTION_DIM, HORIZON, toy_policy, toy_samples
from tests.synthetic import CARDS


def chunk(number: int, horizon: int) -> Chunk:
    """Steps say which chunk they are of and which step of it."""
    return np.stack([np.full(horizon, number), np.arange(horizon)], axis=1).astype(np.float32)


def run(
    execution: Execution, delays: list[int], steps: int
) -> tuple[list[tuple[int, int] | None], list[Remainder | None]]:
    """(chunk, step of it) at every control step, and what the policy was told; answer i takes `delays[i]` steps."""
    done: list[tuple[int, int] | None] = []
    told: list[Remainder | None] = []
    arrives = -1
    for now in range(steps):
        if execution.due:
            told.append(execution.ask())
            arrives = now + delays[(len(told) - 1) % len(delays)]
        if execution.waiting and now >= arrives:
            execution.receive(chunk(len(told) - 1, execution.horizon))
        command = execution.command()
        done.append(None if command is None else (int(command[0]), int(command[1])))
    return done, told


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_a_delay_every_chunk_is_begun_at_its_first_step(strategy: str) -> None:
    done, _ = run(Execution(strategy, horizon=6, execute_steps=2), [0], 12)
    length = 6 if strategy == "open_loop" else 2
    assert done == [(step // length, step % length) for step in range(12)]


def test_an_open_loop_holds_still_while_it_waits_and_misses_nothing() -> None:
    done, told = run(Execution("open_loop", horizon=3, execute_steps=1), [2], 10)
    assert done == [None, None, (0, 0), (0, 1), (0, 2), None, None, (1, 0), (1, 1), (1, 2)]
    assert told == [None, None]


@pytest.mark.parametrize("strategy", ["receding_horizon", "real_time"])
def test_the_former_chunk_goes_on_while_the_next_is_inferred_and_the_steps_that_are_over_are_skipped(
    strategy: str,
) -> None:
    done, _ = run(Execution(strategy, horizon=8, execute_steps=4, delay_steps=2), [2], 14)
    assert done == [
        None, None, (0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 2), (1, 3), (1, 4), (1, 5), (2, 2), (2, 3),
    ]  # fmt: skip


def test_the_policy_is_told_what_is_left_and_expects_the_longest_of_the_latest_delays() -> None:
    _, told = run(Execution("real_time", horizon=8, execute_steps=4, delay_steps=1), [0, 3, 1], 20)
    assert told[0] is None
    assert [rest.delay_steps for rest in told[1:4] if rest is not None] == [1, 3, 3]
    for number, rest, first in zip(range(3), told[1:4], [4, 4, 4], strict=True):
        assert rest is not None
        np.testing.assert_array_equal(rest.actions_RD, chunk(number, 8)[first:])


@settings(deadline=None)
@given(
    strategy=st.sampled_from(STRATEGIES),
    execute=st.integers(1, 10),
    delays=st.lists(st.integers(0, 15), min_size=1, max_size=6),
)
def test_a_chunk_is_executed_in_step_with_the_time_since_its_observation(
    strategy: str, execute: int, delays: list[int]
) -> None:
    """Whatever the delays: chunks in order, no step twice, and none that its remainder did not have."""
    done, told = run(Execution(strategy, horizon=10, execute_steps=execute), delays, 80)
    executed = [command for command in done if command is not None]
    assert executed == sorted(set(executed))
    for rest in told:
        assert rest is None or 0 <= rest.delay_steps <= len(rest.actions_RD) <= 10


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"strategy": "closed_loop"}, "strategy"),
        ({"execute_steps": 9}, "execute_steps"),
        ({"delay_steps": 9}, "delay_steps"),
    ],
)
def test_what_cannot_be_executed_is_refused(change: dict[str, object], name: str) -> None:
    given_: dict[str, object] = {"strategy": "real_time", "horizon": 8, "execute_steps": 4, "delay_steps": 0} | change
    with pytest.raises(UserError, match=name):
        Execution(**given_)  # type: ignore[arg-type]


# the policy, told what is left


@pytest.mark.parametrize("source", ["toy_arm", "toy_bimanual"])
def test_relative_actions_are_told_relative_to_the_new_state(source: str) -> None:
    """The network's chunk of the old state, executed for two steps, is the same commands seen from the new state."""
    processor, samples, card = toy_policy().processor, toy_samples(source), CARDS[source]
    old, new = samples[0], samples[1]
    network = np.zeros((HORIZON, ACTION_DIM), np.float32)
    network[:, : card.action_dim] = np.random.default_rng(0).uniform(-1, 1, (HORIZON, card.action_dim))
    physical = processor.physical_actions(network, source, old.state)
    told = processor.network_actions(physical[2:], source, new.state)
    np.testing.assert_allclose(processor.physical_actions(told, source, new.state), physical[2:], atol=1e-5)
    assert np.abs(told - network[2:]).max() > 1e-3 or not any(card.delta_mask)
    np.testing.assert_allclose(processor.network_actions(physical, source, old.state), network, atol=1e-3)


def test_a_chunk_that_goes_on_begins_with_the_committed_steps_and_stays_close_to_the_rest() -> None:
    policy, samples = toy_policy(), toy_samples("toy_arm")[:3]
    former = policy.actions([samples[0]], [1])[0]
    rest = Remainder(former[2:], 3)
    plain = policy.actions(samples, [4, 5, 6])
    guided = policy.actions(samples, [4, 5, 6], [rest, None, rest])
    np.testing.assert_allclose(guided[1], plain[1], atol=1e-5)
    for number in (0, 2):
        np.testing.assert_array_equal(guided[number][:3], former[2:5])
        alone = policy.actions([samples[number]], [4 + number], [rest])[0]
        np.testing.assert_allclose(guided[number], alone, atol=1e-4)
    network = policy.normalised_actions(samples[:1], [4], [rest])[0][:3]
    wanted = policy.processor.network_actions(former[2:5], samples[0].source, samples[0].state)
    unguided = policy.normalised_actions(samples[:1], [4])[0][:3]
    assert np.abs(network - wanted).max() < 0.3 * np.abs(unguided - wanted).max()


@pytest.mark.parametrize(("left", "delay"), [(HORIZON + 1, 0), (3, 4), (0, 0), (3, -1)])
def test_a_remainder_that_is_not_of_this_policys_chunk_is_refused(left: int, delay: int) -> None:
    sample = toy_samples("toy_arm")[0]
    rest = Remainder(np.zeros((left, CARDS["toy_arm"].action_dim), np.float32), delay)
    with pytest.raises(UserError, match="remainder"):
        toy_policy().actions([sample], [0], [rest])


def test_fast_tokens_cannot_go_on_with_a_chunk() -> None:
    sample = toy_samples("toy_arm")[0]
    rest = Remainder(np.zeros((2, CARDS["toy_arm"].action_dim), np.float32), 1)
    with pytest.raises(UserError, match="without an action expert"):
        toy_policy(expert=False).actions([sample], [0], [rest])
