"""The regions of the vocabulary never meet, whatever its size."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.errors import UserError
from pi05_train.tokenization.vocabulary import LEGACY_SKIP, LOC_SIZE, SEG_SIZE, UNK_ID, VocabularyLayout

sizes = st.integers(1, 4096).flatmap(lambda fast: st.tuples(st.integers(fast + UNK_ID + 1, 300_000), st.just(fast)))


@given(sizes)
@settings(max_examples=60, deadline=None)
def test_fast_ids_never_touch_boxes_or_special_ids(size: tuple[int, int]) -> None:
    layout = VocabularyLayout(*size)
    fast = {layout.fast_id(token) for token in range(layout.fast_size)}
    boxes = {layout.loc_id(i) for i in range(LOC_SIZE)} | {layout.seg_id(i) for i in range(SEG_SIZE)}
    assert len(fast) == layout.fast_size
    assert fast.isdisjoint(boxes)
    assert min(fast) > UNK_ID
    assert max(fast) < layout.text_size
    assert max(boxes) == layout.vocab_size - 1


@given(sizes, st.data())
@settings(max_examples=60, deadline=None)
def test_every_id_means_one_thing_and_maps_back(size: tuple[int, int], data: st.DataObject) -> None:
    layout = VocabularyLayout(*size)
    token_id = data.draw(st.integers(0, layout.vocab_size - 1))
    meanings = [layout.is_fast(token_id), layout.is_loc(token_id), layout.is_seg(token_id)]
    assert sum(meanings) <= 1
    if meanings[0]:
        assert layout.fast_id(layout.fast_token(token_id)) == token_id
    elif meanings[1]:
        assert layout.loc_id(layout.loc_position(token_id)) == token_id
    elif meanings[2]:
        assert layout.seg_id(layout.seg_index(token_id)) == token_id
    else:
        assert token_id < layout.text_size


def test_paligemma_ids_are_the_published_ones() -> None:
    layout = VocabularyLayout(256000, 2048)
    assert layout.vocab_size == 257152
    assert [layout.fast_id(0), layout.fast_id(2047)] == [255999, 253952]
    assert [layout.loc_id(0), layout.loc_id(1023), layout.seg_id(0), layout.seg_id(127)] == [
        256000, 257023, 257024, 257151,
    ]  # fmt: skip


def test_legacy_map_is_openpis_and_must_be_asked_for() -> None:
    with pytest.raises(UserError, match="on top of <loc>"):
        VocabularyLayout(256000, 2048, LEGACY_SKIP)
    legacy = VocabularyLayout(256000, 2048, LEGACY_SKIP, allow_overlap=True)
    tokens, ids = [0, 1, 5, 127, 1023, 2047], [257023, 257022, 257018, 256896, 256000, 254976]
    assert [legacy.fast_id(token) for token in tokens] == ids
    assert [legacy.fast_token(token_id) for token_id in ids] == tokens


def test_fast_larger_than_text_is_refused() -> None:
    with pytest.raises(UserError, match="make the text region larger"):
        VocabularyLayout(500, 500)
