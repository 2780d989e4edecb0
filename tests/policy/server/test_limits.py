from __future__ import annotations

from typing import Any

import pytest

from pi05_train.errors import UserError
from pi05_train.policy.server.limits import Limits, Rate


def test_a_client_may_ask_a_seconds_worth_at_once_and_then_as_often_as_its_rate() -> None:
    now = 100.0
    rate = Rate(4, clock=lambda: now)
    assert [rate.take() for _ in range(6)] == [True] * 4 + [False] * 2
    now += 0.25
    assert [rate.take(), rate.take()] == [True, False]
    now += 1000
    assert [rate.take() for _ in range(5)] == [True] * 4 + [False]


def test_a_rate_below_one_a_second_lets_one_through_at_a_time() -> None:
    now = 0.0
    rate = Rate(0.5, clock=lambda: now)
    assert [rate.take(), rate.take()] == [True, False]
    now += 2
    assert [rate.take(), rate.take()] == [True, False]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"clients": 0}, "--clients: got 0, expected at least 1"),
        ({"batch_samples": 0}, "--batch-samples: got 0"),
        ({"idle_seconds": float("inf")}, "--idle-seconds: got inf, expected a positive number"),
        ({"requests_per_second": float("nan")}, "--requests-per-second: got nan"),
        ({"message_megabytes": -1.0}, "--message-megabytes: got -1"),
    ],
)
def test_limits_that_cannot_be_meant(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Limits(**change)
