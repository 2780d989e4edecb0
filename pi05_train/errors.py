"""The one exception a person is meant to read."""

from __future__ import annotations


class UserError(ValueError):
    """Something a person can mend: one sentence with what, got, expected and what to do.

    Commands print it without a traceback (unless `--debug`) and exit with status 2.
    Broken invariants of our own stay assertions.
    """

    def __init__(self, what: str, *, got: object, expected: object, do: str) -> None:
        super().__init__(f"{what}: got {got}, expected {expected}; {do}{'' if do.endswith('?') else '.'}")

    def __reduce__(self) -> tuple[object, ...]:
        """Crosses process borders as its sentence: worker processes raise it too."""
        return _from_sentence, (type(self), str(self))


def _from_sentence(kind: type[UserError], sentence: str) -> UserError:
    error = kind.__new__(kind)
    ValueError.__init__(error, sentence)
    return error
