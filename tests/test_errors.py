"""A refusal reads the same wherever it was raised."""

from __future__ import annotations

import pickle

from pi05_train.errors import UserError


def test_a_refusal_crosses_a_process_border() -> None:
    error = UserError("data.root", got="nothing", expected="a folder", do="set it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is UserError
    assert str(again) == str(error) == "data.root: got nothing, expected a folder; set it."
