"""The one exception a person is meant to read."""

from __future__ import annotations


class UserError(ValueError):
    """Something a person can mend: one sentence with what, got, expected and what to do.

    Commands print it without a traceback (unless `--debug`) and exit with status 2.
    Broken invariants of our own stay assertions.
    """

    def __init__(self, what: str, *, got: object, expected: object, do: str) -> None:
        super().__init__(f"{what}: got {got}, expected {expected}; {do}.")
