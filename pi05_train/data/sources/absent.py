"""Sources whose shards are not there: which they are, and what makes them."""

from __future__ import annotations

from collections.abc import Iterable

from pi05_train.errors import UserError
from pi05_train.samples.address import open_store, source_address
from pi05_train.samples.card import SourceCard


def absent_sources(cards: Iterable[SourceCard], root: str, patience_seconds: float) -> list[SourceCard]:
    """Those that have no index; `root` is what relative `shards` start at, a folder or an address."""

    def there(card: SourceCard) -> bool:
        store = open_store(source_address(root, card.shards), patience_seconds=patience_seconds)
        return bool(store.sizes(["index.json"]))

    return [card for card in cards if not there(card)]


def commands(card: SourceCard, root: str) -> list[str]:
    """What to run for the card's shards. `$DOWNLOADS` stays for the shell, and so does `$DATA` where the root is an
    address: shards are made on a disk and uploaded."""
    return [command if "://" in root else command.replace("$DATA", root) for command in card.convert]


def require_present(cards: Iterable[SourceCard], root: str, patience_seconds: float) -> None:
    """Refuse (UserError) absent sources of which the cards tell how to make them, the first by name and command."""
    absent = absent_sources((card for card in cards if card.convert), root, patience_seconds)
    if not absent:
        return
    first, others = absent[0], len(absent) - 1
    raise UserError(
        f"source {first.name}",
        got=f"no shards in {source_address(root, first.shards)}"
        + (f", and none of {others} other sources" if others else ""),
        expected="converted and indexed sources",
        do=f"fetch {first.origin} into $DOWNLOADS and run `{' && '.join(commands(first, root))}`"
        + ("; `pi05 data mixture` lists the commands of all" if others else ""),
    )
