from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.report.figures import smoothed, source_colours
from pi05_train.report.html import duration, number, readable, text


@settings(deadline=None)
@given(st.floats(1e-6, 1e6))
def test_a_shown_number_is_near_the_exact_one_and_the_exact_one_is_kept(value: float) -> None:
    assert float(readable(value).replace(" ", "")) == pytest.approx(value, rel=6e-3)
    assert f'value="{value!r}"' in number(value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.01234, "0.0123"), (12.34, "12.3"), (1234.5, "1 234"), (7, "7"), (0.0, "0"), (1e-7, "1.00e-07"), (99.99, "100")],
)
def test_numbers_for_the_eye(value: float, shown: str) -> None:
    assert readable(value) == shown


def test_an_absent_number_is_a_dash() -> None:
    assert "–" in number(None)


@pytest.mark.parametrize(
    ("seconds", "said"), [(4.2, "4.20 s"), (61, "61 s"), (750, "12 min 30 s"), (11100, "3 h 05 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@given(st.text())
@settings(deadline=None)
def test_escaped_text_has_no_markup(words: str) -> None:
    assert not {"<", ">", '"'} & set(text(words))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=200))
def test_smoothing_stays_within_the_values_and_keeps_their_number(values: list[float]) -> None:
    curve = smoothed(values)
    assert len(curve) == len(values)
    assert min(values) - 1e-9 <= curve.min() <= curve.max() <= max(values) + 1e-9


def test_a_source_has_one_colour() -> None:
    assert source_colours(["b", "a", "b"]) == source_colours(["a", "b"])
    assert len(set(source_colours([f"s{i}" for i in range(10)]).values())) == 10
