"""Source cards by name or path."""

from __future__ import annotations

from pi05_train.config.card_file import read_content
from pi05_train.config.convert import build
from pi05_train.samples.card import SourceCard, check_card


def read_card(name: str) -> SourceCard:
    """A card by its name in data_mixtures/source, or by the path of its file; refuses one that cannot be meant."""
    card = build(SourceCard, *read_content("source", name))
    check_card(card)
    return card
