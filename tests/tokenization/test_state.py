"""State numbers in the prompt are openpi's."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.tokenization.state import state_bins, state_text
from tests.golden_numbers import golden_json


def test_bins_are_openpis_bit_for_bit() -> None:
    states = golden_json("preprocessing/prompt_strings")["states"]
    for name, entry in states.items():
        values = np.array([float.fromhex(v) for v in entry["hex"]], dtype=entry["dtype"])
        assert state_bins(values).tolist() == entry["bins"], name
    assert len(states) > 5


@given(st.lists(st.floats(-3, 3) | st.floats(allow_nan=False), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_text_names_the_bin_that_holds_the_number(values: list[float]) -> None:
    numbers = [int(word) for word in state_text(np.array(values)).split(" ")]
    for value, number in zip(values, numbers, strict=True):
        low = -1 + number * 2 / 256
        assert -1 <= number <= 255
        assert value < -1 if number == -1 else value >= low
        assert number == 255 or value < low + 2 / 256


def test_outside_numbers_saturate() -> None:
    assert state_text(np.array([-1.5, -1, 0, 1, 1.5], dtype=np.float32)) == "-1 0 128 255 255"
