from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard, check_card

CARD = SourceCard(name="web", kind="WD", shards="web", cameras=["base_0_rgb"])


def test_what_is_not_known_about_a_download_is_left_out() -> None:
    check_card(CARD)
    check_card(replace(CARD, samples=7, download_gb=0, convert=["pi05 data convert coco $DOWNLOADS/coco $DATA/web"]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"samples": 0}, r"web, samples and download_gb: got \(0, None\), expected at least 1 row"),
        ({"download_gb": -1.0}, r"got \(None, -1\.0\), expected at least 1 row and 0 GB or more"),
        ({"download_gb": float("nan")}, "nan"),
        ({"convert": ["rm -r $DATA"]}, r"web, convert: got 'rm -r \$DATA', expected commands `pi05 data \.\.\.`"),
    ],
)
def test_a_download_that_cannot_be_meant(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_card(replace(CARD, **change))
