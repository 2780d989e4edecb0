"""The table of Open X-Embodiment data sets."""

from __future__ import annotations

from pi05_train.convert.rlds_datasets import DATASETS, SOURCES, find_entry


def test_every_entry_can_be_looked_up_and_says_where_it_comes_from() -> None:
    assert len(DATASETS) >= 27
    names = [name for entry in DATASETS.values() for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))
    for entry in DATASETS.values():
        assert {find_entry(name).name for name in (entry.name, *entry.aliases)} == {entry.name}
        assert entry.sources
        assert set(entry.sources) <= set(SOURCES)
        assert len(entry.delta_mask) <= min(entry.state_dim, entry.action_dim)
        assert all(0 <= part.start < part.start + part.size <= part.of for part in (*entry.state, *entry.actions))
