"""Which ids an answer in words may go on with, and when it is over.

FAST ids mean actions and are never written. `<loc>` ids come in fours and only where a box may stand: in a high-level
answer after the words that open the boxes and then at the beginning of a line, until the subtask; in an answer about a
picture anywhere; in an answer to a verbal instruction nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from itertools import takewhile

import torch
from torch import Tensor

from pi05_train.processing.sequence import SUBTASK_MARK
from pi05_train.processing.templates import Templates
from pi05_train.tokenization.tokens import Tokens
from pi05_train.tokenization.vocabulary import BOS_ID, PAD_ID

CORNERS = 4


class Next(IntEnum):
    """What the next id may be."""

    WORDS = 0
    ANYTHING = 1
    POSITION = 2


class AnswerRules:
    """Rules for answers to HL, VI and WD prompts."""

    def __init__(self, tokens: Tokens, templates: Templates, vocab_size: int) -> None:
        """`vocab_size` is the network's."""
        self.tokens = tokens
        layout = tokens.layout
        before_boxes = templates.high_level_target.partition("{boxes}")[0].rpartition("}")[2]
        self.line_start = templates.box_line.partition("{box}")[0]
        self.first_line_start = before_boxes + self.line_start
        positions = torch.zeros(vocab_size, dtype=torch.bool)
        positions[layout.loc_start : layout.seg_start] = True
        never = torch.zeros(vocab_size, dtype=torch.bool)
        never[[PAD_ID, BOS_ID]] = True
        never[layout.fast_range.start : layout.fast_range.stop] = True
        never[layout.vocab_size :] = True
        self.forbidden = torch.stack([never | positions, never, never | ~positions])
        """[3, vocab_size], by `Next`."""

    def next(self, written: Sequence[int], kind: str) -> Next:
        """What may follow the ids written so far in an answer to a prompt of this kind."""
        open_corners = len(list(takewhile(self.tokens.layout.is_loc, reversed(written))))
        if open_corners:
            return Next.WORDS if open_corners == CORNERS else Next.POSITION
        if kind == "WD":
            return Next.ANYTHING
        return Next.ANYTHING if kind == "HL" and self._box_may_stand(written) else Next.WORDS

    def finished(self, written: Sequence[int], kind: str) -> bool:
        """Whether the answer is complete without a stop id: a subtask is one line."""
        if kind == "WD" or not written:
            return False
        _, mark, after = self.tokens.text.decode(written).rpartition(SUBTASK_MARK)
        return bool(mark) and "\n" in after.lstrip()

    def mask(self, logits_BV: Tensor, written: Sequence[Sequence[int]], kinds: Sequence[str]) -> Tensor:
        """The scores, minus infinity where an id may not come next."""
        which = torch.tensor([self.next(ids, kind) for ids, kind in zip(written, kinds, strict=True)])
        self.forbidden = self.forbidden.to(logits_BV.device)
        return logits_BV.masked_fill(self.forbidden[which.to(logits_BV.device)], float("-inf"))

    def _box_may_stand(self, written: Sequence[int]) -> bool:
        text = self.tokens.text.decode(written)
        if SUBTASK_MARK in text:
            return False
        if any(map(self.tokens.layout.is_loc, written)):
            return text.rpartition("\n")[2] == self.line_start
        return text.endswith(self.first_line_start)
