"""What is found in a foreign source."""

from __future__ import annotations

from collections import Counter

from pi05_train.convert.source import Dropped, ForeignSource
from pi05_train.samples.card import check_card
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import check_sample, parse_sample, sample_members

Found = list[Sample | Dropped]


def everything(source: ForeignSource) -> Found:
    return [found for unit in source.units for found in source.samples(unit)]


def dropped(found: Found) -> Counter[str]:
    counts: Counter[str] = Counter()
    for item in found:
        if isinstance(item, Dropped):
            counts[item.reason] += item.samples
    return counts


def samples(found: Found) -> list[Sample]:
    return [each for each in found if isinstance(each, Sample)]


def checked(source: ForeignSource) -> Found:
    """Everything, after samples and card were checked as they will be when they are read again."""
    check_card(source.card)
    found = everything(source)
    for sample in samples(found):
        check_sample(parse_sample(sample_members(sample)), source.card)
    return found
