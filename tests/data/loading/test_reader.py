from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tests.synthetic
from pi05_train.data.loading.reader import BadSample, Reader
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.order.schedule import Draw
from pi05_train.data.sources.index import build_index
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import write_shards
from tests.synthetic import shard_path, synthetic_samples

World = tuple[Path, dict[str, SourceCard]]
SOURCE = "toy_arm"


def open_reader(root: Path, cards: dict[str, SourceCard]) -> Reader:
    entries = {name: SourceEntry(card, weight=1.0) for name, card in cards.items()}
    return Reader(Mixture.open(MixtureConfig("toy", entries), root))


def flip(reader: Reader, row: int, needle: bytes | None = None) -> None:
    """Change one byte of the sample at `row`: in its first JPEG, or where `needle` stands."""
    index = reader.mixture.indexes[SOURCE]
    index_row = int(reader.mixture.rows[SOURCE][row])
    record, path = index.records[index_row], shard_path(index, index_row)
    content = bytearray(path.read_bytes())
    start = content.index(needle or b"\xff\xd8", int(record["offset"]))
    content[start + 30] ^= 0x10
    path.write_bytes(content)


@pytest.fixture
def damaged(synthetic_world: World, tmp_path: Path) -> Reader:
    root, cards = synthetic_world
    shutil.copytree(root / SOURCE, tmp_path / SOURCE)
    return open_reader(tmp_path, {SOURCE: cards[SOURCE]})


def test_every_row_of_every_source_reads_as_it_was_written(synthetic_world: World) -> None:
    reader = open_reader(*synthetic_world)
    for name, card in synthetic_world[1].items():
        written = [sample for sample in synthetic_samples(card) if sample.split == "train"]
        for row, sample in enumerate(written):
            read = reader.read(name, row)
            assert (read.key, read.images, read.boxes) == (sample.key, sample.images, sample.boxes)
            if sample.actions is not None:
                np.testing.assert_array_equal(read.actions, sample.actions)  # type: ignore[arg-type]


@pytest.mark.parametrize("needle", [None, b"PK\x03\x04"], ids=["jpeg", "npz"])
def test_one_flipped_byte_gives_the_same_substitute_on_every_run(damaged: Reader, needle: bytes | None) -> None:
    flip(damaged, 5, needle)
    with pytest.raises(BadSample, match="checksum"):
        damaged.read(SOURCE, 5)
    first = damaged.draw(Draw(SOURCE, 5, 77), seed=0, make=lambda sample: sample)
    again = Reader(damaged.mixture).draw(Draw(SOURCE, 5, 77), seed=0, make=lambda sample: sample)
    assert first.value.key == again.value.key != damaged.mixture.key(SOURCE, 5)
    assert first.faults == again.faults
    assert [(fault.row, fault.draw) for fault in first.faults] == [(5, 77)]


def test_substitutes_of_different_draws_differ(damaged: Reader) -> None:
    flip(damaged, 5)
    keys = {damaged.draw(Draw(SOURCE, 5, draw), seed=0, make=lambda s: s.key).value for draw in range(20)}
    assert len(keys) > 8


def test_a_healthy_draw_is_itself_and_faultless(damaged: Reader) -> None:
    drawn = damaged.draw(Draw(SOURCE, 3, 0), seed=0, make=lambda sample: sample.key)
    assert drawn.value == damaged.mixture.key(SOURCE, 3)
    assert drawn.faults == ()


def reader_with(sample: Sample, card: SourceCard, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A source whose first row is `sample`, indexed although the writer would have refused it."""
    good = [other for other in synthetic_samples(card) if other.split == "train" and other.key != sample.key]
    with monkeypatch.context() as patch:
        patch.setattr("pi05_train.samples.shards.parse_sample", lambda _: None)
        write_shards(folder / card.shards, [sample, *good])
    build_index(folder / card.shards)
    return open_reader(folder, {card.name: card})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"actions": np.full((12, 4), np.nan, np.float32)}, "NaN or Inf"),
        ({"actions": np.zeros((12, 5), np.float32)}, "action_dim"),
        ({"rate_hz": 5.0}, "rate_hz"),
        ({"images": {"base_0_rgb": b"\xff\xd8 short"}}, "JPEG"),
    ],
)
def test_bad_content_is_named_by_key_and_replaced(
    change: dict[str, object], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tests.synthetic.CARDS[SOURCE]
    good = next(sample for sample in synthetic_samples(card) if sample.split == "train")
    reader = reader_with(replace(good, **change), card, tmp_path, monkeypatch)  # type: ignore[arg-type]
    with pytest.raises(BadSample, match=f"{good.key}.*{sentence}"):
        reader.read(SOURCE, 0)
    drawn = reader.draw(Draw(SOURCE, 0, 0), seed=0, make=lambda sample: sample.key)
    assert drawn.value != good.key
    assert sentence in drawn.faults[0].reason


def test_an_image_that_does_not_decode_is_the_samples_fault_and_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tests.synthetic.CARDS[SOURCE]
    good = next(sample for sample in synthetic_samples(card) if sample.split == "train")
    broken = replace(good, images={"base_0_rgb": b"\xff\xd8 no picture \xff\xd9"})
    reader = reader_with(broken, card, tmp_path, monkeypatch)

    def fail_on_broken(sample: Sample) -> str:
        if sample.key == broken.key:
            raise RuntimeError("decoder")
        return sample.key

    drawn = reader.draw(Draw(SOURCE, 0, 0), seed=0, make=fail_on_broken)
    assert "base_0_rgb.jpg" in drawn.faults[0].reason

    def misconfigured(_: Sample) -> str:
        raise UserError("template", got="{tsk}", expected="{task}", do="correct it")

    with pytest.raises(UserError, match="template"):
        reader.draw(Draw(SOURCE, 1, 1), seed=0, make=misconfigured)


def test_a_source_of_bad_samples_stops_after_sixteen_in_a_row(damaged: Reader) -> None:
    for path in damaged.mixture.indexes[SOURCE].folder.glob("*.tar"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match="16 bad samples in a row"):
        damaged.draw(Draw(SOURCE, 0, 0), seed=0, make=lambda sample: sample)


def test_a_shard_that_disappears_is_an_error_not_a_bad_sample(damaged: Reader) -> None:
    next(damaged.mixture.indexes[SOURCE].folder.glob("*-000000.tar")).unlink()
    with pytest.raises(UserError, match=r"shard-000000\.tar.*FileNotFoundError") as raised:
        damaged.draw(Draw(SOURCE, 0, 0), seed=0, make=lambda sample: sample)
    assert not isinstance(raised.value, BadSample)


def test_sources_with_the_same_shard_names_are_not_confused(synthetic_world: World) -> None:
    reader = open_reader(*synthetic_world)
    names = {shard.name for index in reader.mixture.indexes.values() for shard in index.shards}
    assert names == {f"shard-{i:06d}.tar" for i in range(3)}
    assert all(reader.read(name, 0).source == name for name in reader.mixture.names)
