"""Which id means what: text, boxes and action tokens share one vocabulary.

Regions in order (PaliGemma's sizes in brackets): text [0, 256000), `<loc0000>`..`<loc1023>` [256000, 257024),
`<seg000>`..`<seg127>` [257024, 257152). FAST tokens own no region: they overwrite the highest, least used text
ids, counted downwards (paper: "overwrite the least used tokens in the VLM vocabulary").
"""

from __future__ import annotations

from dataclasses import dataclass

from pi05_train.errors import UserError

LOC_SIZE = 1024
SEG_SIZE = 128
PAD_ID, EOS_ID, BOS_ID, UNK_ID = 0, 1, 2, 3
DEFAULT_SKIP = LOC_SIZE + SEG_SIZE
"""Ids left alone at the top of the vocabulary: both special regions, so FAST ends right below `<loc0000>`."""
LEGACY_SKIP = SEG_SIZE
"""openpi's pi0-FAST checkpoints leave only `<seg>` alone and so write FAST over `<loc>`."""


@dataclass(frozen=True)
class VocabularyLayout:
    """Sizes of the regions, and the maps between a token's meaning and its id."""

    text_size: int
    """Ids of text, including those that FAST overwrites."""
    fast_size: int
    fast_skip: int = DEFAULT_SKIP
    allow_overlap: bool = False
    """Only for published pi0-FAST weights (`fast_skip` 128): FAST and box ids may be the same."""

    def __post_init__(self) -> None:
        self.check()

    @property
    def vocab_size(self) -> int:
        return self.text_size + LOC_SIZE + SEG_SIZE

    @property
    def loc_start(self) -> int:
        return self.text_size

    @property
    def seg_start(self) -> int:
        return self.text_size + LOC_SIZE

    @property
    def fast_range(self) -> range:
        """The ids that FAST tokens take, ascending (token 0 has the highest)."""
        top = self.vocab_size - self.fast_skip
        return range(top - self.fast_size, top)

    def check(self) -> None:
        """Refuse a layout in which FAST ids fall outside the vocabulary, on special ids or (unasked) on boxes."""
        taken = self.fast_range
        if self.fast_size < 0 or taken.start <= UNK_ID or taken.stop > self.vocab_size:
            raise UserError(
                "vocabulary, FAST tokens",
                got=f"{self.fast_size} tokens on ids {taken.start}..{taken.stop - 1}",
                expected=f"ids within {UNK_ID + 1}..{self.vocab_size - 1}",
                do="make the text region larger or the FAST vocabulary smaller",
            )
        if taken.stop > self.text_size and self.fast_size > 0 and not self.allow_overlap:
            raise UserError(
                "vocabulary, FAST tokens",
                got=f"ids up to {taken.stop - 1}, on top of <loc> or <seg>",
                expected=f"ids below {self.text_size}",
                do=f"use fast_skip {DEFAULT_SKIP}, or set allow_overlap for published pi0-FAST weights",
            )

    def fast_id(self, token: int) -> int:
        """Id of FAST token `token` (openpi `models/tokenizer.py`: vocab_size - 1 - skip - token)."""
        assert 0 <= token < self.fast_size, (token, self.fast_size)
        return self.vocab_size - 1 - self.fast_skip - token

    def fast_token(self, token_id: int) -> int:
        """The FAST token behind an id of `fast_range`; the map is its own inverse."""
        assert self.is_fast(token_id), token_id
        return self.vocab_size - 1 - self.fast_skip - token_id

    def loc_id(self, position: int) -> int:
        """Id of `<locDDDD>`, position 0..1023."""
        assert 0 <= position < LOC_SIZE, position
        return self.loc_start + position

    def loc_position(self, token_id: int) -> int:
        assert self.is_loc(token_id), token_id
        return token_id - self.loc_start

    def seg_id(self, index: int) -> int:
        """Id of `<segDDD>`, index 0..127."""
        assert 0 <= index < SEG_SIZE, index
        return self.seg_start + index

    def seg_index(self, token_id: int) -> int:
        assert self.is_seg(token_id), token_id
        return token_id - self.seg_start

    def is_fast(self, token_id: int) -> bool:
        return token_id in self.fast_range

    def is_loc(self, token_id: int) -> bool:
        return self.loc_start <= token_id < self.seg_start

    def is_seg(self, token_id: int) -> bool:
        return self.seg_start <= token_id < self.vocab_size
