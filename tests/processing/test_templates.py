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
