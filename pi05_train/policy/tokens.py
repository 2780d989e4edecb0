"""Ids as a person reads them: the words of each and what sort of token it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pi05_train.tokenization.text import TextTokenizer
from pi05_train.tokenization.vocabulary import BOS_ID, EOS_ID

SORTS = {
    "image": "patches of a picture",
    "text": "words",
    "state": "the robot's state, in bins",
    "FAST": "actions as tokens",
    "loc": "a position in a picture, for boxes",
    "mark": "begin and end",
    "action": "a step of the noisy chunk",
}
"""What a token may be."""
_MARKS = {BOS_ID: "<bos>", EOS_ID: "<eos>"}


@dataclass(frozen=True)
class Token:
    """One id of a prefix, a target or an answer."""

    id: int
    words: str
    """Its share of the decoded text."""
    sort: str
    """One of `SORTS`."""


def read_tokens(ids: Sequence[int], text: TextTokenizer, state: tuple[int, int] | None = None) -> list[Token]:
    """Every id with its words, which together are the decoded text; `state`: the characters that are the state's."""
    whole, tokens, start = text.decode(ids), [], 0
    for place, token_id in enumerate(ids):
        # The words of an id depend on its neighbours: a letter of several ids is there with the last of them.
        end = _shared(text.decode(ids[: place + 1]), whole)
        words = _MARKS.get(token_id, whole[start:end])
        tokens.append(Token(token_id, words, _sort(token_id, text, start, end, state)))
        start = end
    return tokens


def _shared(part: str, whole: str) -> int:
    """How many characters both begin with."""
    differ = (place for place, (a, b) in enumerate(zip(part, whole, strict=False)) if a != b)
    return next(differ, min(len(part), len(whole)))


def _sort(token_id: int, text: TextTokenizer, start: int, end: int, state: tuple[int, int] | None) -> str:
    if token_id in _MARKS:
        return "mark"
    if text.layout.is_fast(token_id):
        return "FAST"
    if text.layout.is_loc(token_id):
        return "loc"
    return "state" if state is not None and start < state[1] and end > state[0] else "text"
