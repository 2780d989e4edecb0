from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from pi05_train.policy.server.limits import Limits
from tests.policy.server.serving import FAIL, HOLD, HORIZON, NAN, Running, expected_actions, observation, running


def check_answer(reply: dict[str, Any], state: Any, seed: int) -> None:
    assert reply["seed"] == seed
    np.testing.assert_array_equal(reply["actions"], expected_actions(np.array(state, np.float64), seed))


def get(server: Running, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    found = (answer.status, answer.read())
    connection.close()
    return found


def test_a_client_is_told_what_the_robot_is_and_gets_actions_for_its_observation() -> None:
    with running() as server, server.client() as client:
        assert client.metadata["robot"] == "toy_arm_robot"
        assert client.metadata["step"] == 3
        first = client.ask(observation([1, 2, 3, 4], seed=5))
        second = client.ask(observation([1, 2, 3, 4], seed=6))
    check_answer(first, [1, 2, 3, 4], 5)
    check_answer(second, [1, 2, 3, 4], 6)
    assert first["actions"].dtype == np.float32
    assert first["actions"].shape == (HORIZON, 4)
    assert set(first["server_timing"]) == {"infer_ms"}
    assert set(second["server_timing"]) == {"infer_ms", "prev_total_ms"}
    assert all(value >= 0 for value in second["server_timing"].values())
    assert first["policy_timing"]["batch_samples"] == 1


def test_without_a_seed_the_noise_differs_and_the_reply_says_which_it_was() -> None:
    asked = observation()
    del asked["seed"]
    with running() as server, server.client() as client:
        replies = [client.ask(asked) for _ in range(3)]
    assert len({reply["seed"] for reply in replies}) == 3
    for reply in replies:
        check_answer(reply, [0, 0, 0, 0], reply["seed"])


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"images": {}}, "images/base_0_rgb: got nothing"),
        ({"images": {"base_0_rgb": np.zeros((56, 56))}}, "images/base_0_rgb: got float64"),
        ({"joints": np.full(3, np.nan)}, "joints[0]: got nan"),
        ({"wheels": np.zeros(3)}, "wheels: got an unknown key"),
        ({"gripper": np.zeros(2)}, "gripper: got float64 [2]"),
    ],
)
def test_a_bad_observation_gets_one_sentence_with_its_key_and_the_connection_stays(
    change: dict[str, Any], key: str
) -> None:
    with running() as server, server.client() as client:
        sentence = client.ask(observation() | change)
        assert sentence.startswith(f"observation, {key}")
        assert "\n" not in sentence
        check_answer(client.ask(observation(seed=2)), [0, 0, 0, 0], 2)
    assert server.events.wait("refused")["why"] == sentence


def test_requests_that_wait_are_computed_together_and_answered_apart() -> None:
    with running(Limits(batch_samples=4)) as server, ThreadPoolExecutor(8) as threads:
        clients = [server.client() for _ in range(7)]
        first = threads.submit(clients[0].ask, observation(prompt=HOLD))
        assert server.policy.holding.wait(60)
        others = [
            threads.submit(client.ask, observation([number] * 4, seed=number))
            for number, client in enumerate(clients[1:], start=1)
        ]
        waiting = server.server._batcher._waiting
        while waiting.qsize() < 6:
            assert not any(other.done() for other in others)
        server.policy.let.set()
        check_answer(first.result(60), [0, 0, 0, 0], 0)
        for number, other in enumerate(others, start=1):
            check_answer(other.result(60), [number] * 4, number)
        for client in clients:
            client.close()
    assert server.policy.batches == [1, 4, 2]


def test_a_failing_request_fails_alone_and_its_client_is_told_where_to_look() -> None:
    with running() as server, ThreadPoolExecutor(3) as threads:
        holder, good, bad = (server.client() for _ in range(3))
        held = threads.submit(holder.ask, observation(prompt=HOLD))
        assert server.policy.holding.wait(60)
        answered = threads.submit(good.ask, observation([1, 2, 3, 4], seed=9))
        failed = threads.submit(bad.ask, observation(prompt=FAIL))
        while server.server._batcher._waiting.qsize() < 2:
            assert not answered.done()
        server.policy.let.set()
        held.result(60)
        check_answer(answered.result(60), [1, 2, 3, 4], 9)
        assert failed.result(60).startswith("The server failed (RuntimeError)")
        assert bad.closed()[0] == 1011
        check_answer(good.ask(observation(seed=1)), [0, 0, 0, 0], 1)
        for client in (holder, good, bad):
            client.close()
    assert "the policy fails" in server.events.wait("failed")["traceback"]


def test_a_robot_never_gets_numbers_that_are_not_finite() -> None:
    with running() as server, server.client() as client:
        assert client.ask(observation(prompt=NAN)).startswith("The server failed (ValueError)")
        assert client.closed()[0] == 1011
    assert "actions are not finite" in server.events.wait("failed")["error"]


def test_healthz_answers_and_other_paths_are_no_page() -> None:
    with running(api_key="secret") as server:
        assert get(server, "/healthz") == (200, b"OK\n")
        assert get(server, "/")[0] == 401
    with running() as server:
        assert get(server, "/")[0] == 426


def test_an_api_key_lets_in_and_anything_else_does_not() -> None:
    with running(api_key="secret") as server:
        for wrong in (None, "", "Secret", "secret2", "sécret"):
            with pytest.raises(InvalidStatus, match="401"):
                server.client(wrong)
        with server.client("secret") as client:
            check_answer(client.ask(observation(seed=4)), [0, 0, 0, 0], 4)


def test_a_page_of_a_browser_is_not_let_in() -> None:
    page = Origin("http://example.com")
    with (
        running() as server,
        pytest.raises(InvalidStatus, match="403"),
        connect(f"ws://127.0.0.1:{server.port}", origin=page, proxy=None),
    ):
        pass


def test_more_clients_than_allowed_are_turned_away_until_one_leaves() -> None:
    with running(Limits(clients=2)) as server:
        first, second = server.client(), server.client()
        with pytest.raises(InvalidStatus, match="503"):
            server.client()
        first.close()
        server.events.wait("disconnected")
        with server.client() as third:
            check_answer(third.ask(observation(seed=1)), [0, 0, 0, 0], 1)
        second.close()


def test_a_message_that_is_too_long_closes_its_own_connection() -> None:
    with running(Limits(message_megabytes=0.05)) as server, server.client() as other:
        with server.client() as client:
            client.socket.send(bytes(60_000))
            assert client.closed()[0] == 1009
        check_answer(other.ask(observation(seed=1)), [0, 0, 0, 0], 1)


def test_more_requests_than_allowed_close_the_connection() -> None:
    with running(Limits(requests_per_second=1e-6)) as server, server.client() as client:
        check_answer(client.ask(observation(seed=1)), [0, 0, 0, 0], 1)
        assert client.ask(observation()) == "More than 1e-06 requests a second."
        assert client.closed() == (1008, "rate")


def test_an_idle_connection_is_closed() -> None:
    with running(Limits(idle_seconds=0.05)) as server, server.client() as client:
        assert client.closed() == (1000, "no request for 0.05 seconds")


def test_on_being_stopped_the_request_at_work_is_answered_and_idle_clients_are_told() -> None:
    with running() as server, ThreadPoolExecutor(1) as threads:
        busy, idle = server.client(), server.client()
        held = threads.submit(busy.ask, observation([1, 2, 3, 4], seed=2, prompt=HOLD))
        assert server.policy.holding.wait(60)
        server.ask_to_stop()
        assert idle.closed() == (1001, "the server stops")
        with pytest.raises(OSError, match="refused"):
            server.client()
        server.policy.let.set()
        check_answer(held.result(60), [1, 2, 3, 4], 2)
        assert busy.closed() == (1001, "the server stops")
        server.thread.join(60)
        assert not server.thread.is_alive()


def test_every_event_is_a_line_of_json_with_what_a_request_cost() -> None:
    with running() as server, server.client() as client:
        client.ask(observation(seed=3))
        answered = server.events.wait("answered")
        connected = server.events.all[0]
    assert connected["event"] == "connected"
    assert (answered["client"], answered["request"], answered["seed"], answered["batch_samples"]) == (1, 1, 3, 1)
    assert json.dumps(answered)
    assert {"time", "queue_ms", "infer_ms"} <= set(answered)
    assert server.events.wait("disconnected")["requests"] == 1


def test_the_policy_is_told_what_is_left_of_a_robots_chunk() -> None:
    with running() as server, server.client() as client:
        first = client.ask(observation())
        left = {"actions": first["actions"][2:], "delay_steps": 1}
        check_answer(client.ask(observation(seed=4) | {"remainder": left}), [0, 0, 0, 0], 4)
    nothing, told = server.policy.remainders
    assert nothing is None
    assert told is not None
    np.testing.assert_array_equal(told.actions_RD, first["actions"][2:])
    assert told.delay_steps == 1
