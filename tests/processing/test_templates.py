"""A template names only fields it can be given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pi05_train.errors import UserError
from pi05_train.processing.templates import Templates, clean


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("low_level", "Task: {tsk}", "{tsk}"),
        ("low_level_end", "{task}", "no field"),
        ("low_level_begin", "Action: {state}", "no field"),
        ("low_level_separator", "{task}", "no field"),
        ("web_prompt", "{question", "braces"),
        ("high_level_target", "{boxes.__class__}", "unknown field"),
        ("verbal_target", "{}", "unknown field"),
    ],
)
def test_a_wrong_template_is_refused_by_name(name: str, text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=rf"templates\.{name}") as error:
        replace(Templates(), **{name: text})
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("raw", "cleaned"), [(" hello_", "hello "), ("  Pick_up  the\nCup_ \n", "Pick up  the Cup "), ("", "")]
)
def test_cleaning_is_openpis(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


@pytest.mark.parametrize(
    ("raw", "cleaned"), [(" Hello_", "hello "), ("  Pick_up  the\nCup_ \n", "pick up  the\ncup "), ("", "")]
)
def test_pi0_fast_cleans_its_own_way(raw: str, cleaned: str) -> None:
    assert Templates(cleaning="pi0_fast").clean(raw) == cleaned


def test_an_unknown_cleaning_is_refused() -> None:
    with pytest.raises(UserError, match=r"templates\.cleaning: got 'fast', expected one of pi05, pi0_fast"):
        Templates(cleaning="fast")
