"""Stopping is asked for once, and insisted on by hand."""

from __future__ import annotations

import os
import signal

import pytest

from pi05_train.trainer.stop import stop_requests


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_first_signal_is_a_request_and_handlers_come_back(number: int) -> None:
    before = signal.getsignal(number)
    with stop_requests() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert signal.getsignal(number) is before


def test_only_a_later_interrupt_insists() -> None:
    """A launcher's copy of the same signal arrives at once; a person's second Ctrl-C does not."""
    now = 10.0
    with stop_requests(lambda: now) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        now = 12.0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
