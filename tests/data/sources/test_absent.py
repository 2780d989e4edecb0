from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pi05_train.data.order.mixture import Mixture
from pi05_train.data.sources.absent import absent_sources, commands, require_present
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry

World = tuple[Path, dict[str, SourceCard]]


def fetched(card: SourceCard, name: str) -> SourceCard:
    """The card of a source that is not there, with its command."""
    command = f"pi05 data convert coco $DOWNLOADS/x $DATA/{name}"
    return replace(card, name=name, shards=name, origin="https://example.org", convert=[command, f"pi05 data {name}"])


def test_the_first_absent_source_is_named_with_its_commands(synthetic_world: World) -> None:
    root, cards = synthetic_world
    web = cards["toy_web"]
    sources = [web, fetched(web, "one"), fetched(web, "two")]
    assert [card.name for card in absent_sources(sources, str(root), 1)] == ["one", "two"]
    assert commands(sources[1], str(root)) == [f"pi05 data convert coco $DOWNLOADS/x {root}/one", "pi05 data one"]
    assert commands(sources[1], "s3://bucket/data") == sources[1].convert
    with pytest.raises(UserError) as refused:
        require_present(sources, str(root), 1)
    assert str(refused.value) == (
        f"source one: got no shards in {root / 'one'}, and none of 1 other sources, expected converted and indexed "
        f"sources; fetch https://example.org into $DOWNLOADS and run `pi05 data convert coco $DOWNLOADS/x {root}/one "
        "&& pi05 data one`; `pi05 data mixture` lists the commands of all."
    )


def test_a_mixture_is_refused_before_any_index_is_opened(synthetic_world: World) -> None:
    root, cards = synthetic_world
    broken = replace(cards["toy_arm"], name="broken", shards="broken")  # no command: refused by its index, later
    sources = {card.name: SourceEntry(card, 1.0) for card in (broken, fetched(cards["toy_web"], "one"))}
    with pytest.raises(UserError, match="source one: got no shards in"):
        Mixture.open(MixtureConfig("toy", sources), root)
    del sources["one"]
    with pytest.raises(UserError, match=r"broken: got no index\.json"):
        Mixture.open(MixtureConfig("toy", sources), root)
