"""Every format on files that are cut, foreign, empty, of other dimensions or full of NaN.

Either one sentence refuses them, nothing that looks finished is left, and units that were finished before the damage
are kept; or the bad part is dropped and counted, and the good one comes out as ever.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from pi05_train.convert import formats, web
from pi05_train.convert.formats import opener
from pi05_train.convert.run import Conversion, convert
from pi05_train.errors import UserError
from tests.convert.bad_format import Format
from tests.convert.bad_pictures import COCO, CONVERSATIONS, PIXMO, TARS, VQA
from tests.convert.bad_robots import ANNOTATIONS, HDF5, LEROBOT, MASTER, RLDS

FORMATS = {
    **LEROBOT, "rlds": RLDS, "hdf5": HDF5, "coco": COCO, "vqa": VQA, "pixmo": PIXMO, "conversations": CONVERSATIONS,
    **TARS, "annotations": ANNOTATIONS, "master": MASTER,
}  # fmt: skip
CASES = [(name, fault) for name, format_ in FORMATS.items() for fault in format_.faults]
REFUSED = {name: next(f for f, (_, out) in each.faults.items() if isinstance(out, str)) for name, each in
           FORMATS.items()}  # fmt: skip
"""Format to the first fault that is refused."""


def test_every_format_is_here() -> None:
    assert {each.name for each in FORMATS.values()} == set(formats.FORMATS)


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PICTURES_PER_UNIT", 1)


def converted(format_: Format, path: Path, folder: Path, report: Any = None) -> Conversion:
    return convert(opener(format_.name), path, folder, format_.options(path), samples_per_shard=4, report=report)


def finished(folder: Path) -> list[str]:
    """What would pass for a finished conversion."""
    return [path.name for path in folder.glob("*") if path.name != ".converting"]


def unit_files(folder: Path) -> dict[str, tuple[bytes, int]]:
    paths = (folder / ".converting").glob("unit-*")
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@pytest.mark.parametrize(("name", "fault"), CASES, ids=[f"{name}, {fault}" for name, fault in CASES])
def test_bad_input_is_refused_in_a_sentence_or_dropped_and_counted(name: str, fault: str, tmp_path: Path) -> None:
    format_ = FORMATS[name]
    damage, outcome = format_.faults[fault]
    path = format_.write(tmp_path / "source")
    damage(path)
    if isinstance(outcome, str):
        with pytest.raises(UserError, match=outcome) as refused:
            converted(format_, path, tmp_path / "toy")
        assert "\n" not in str(refused.value)
        assert not finished(tmp_path / "toy")
    else:
        made = converted(format_, path, tmp_path / "toy")
        assert {reason: made.dropped.get(reason, 0) for reason in outcome} == outcome
        assert made.samples > 0
        assert made.samples_in == made.samples + sum(made.dropped.values())


def damaged_somewhere(folder: Path, rng: random.Random) -> str:
    """Cut, zero or change some file below the folder; which."""
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    match rng.randrange(4):
        case 0:
            del content[place:]
        case 1:
            content[place : place + 64] = bytes(len(content[place : place + 64]))
        case 2:
            content[place:place] = rng.randbytes(5)
        case 3:
            for _ in range(rng.choice((1, 20))):
                content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    path.write_bytes(content)
    return path.name


@pytest.mark.parametrize("name", FORMATS)
def test_any_damage_is_refused_in_a_sentence_or_counted(name: str, tmp_path: Path) -> None:
    """Whatever bytes a file holds: no other error comes than UserError, and every sample is accounted for."""
    format_ = FORMATS[name]
    inside = format_.write(tmp_path / "good").relative_to(tmp_path / "good")
    for seed in range(10):
        source, folder = tmp_path / f"source{seed}", tmp_path / f"toy{seed}"
        shutil.copytree(tmp_path / "good", source)
        where = damaged_somewhere(source, random.Random(seed))
        try:
            made = converted(format_, source / inside, folder)
        except UserError as refused:
            sentence, left = str(refused), finished(folder)
        else:
            sentence, left = "", []
            assert made.samples_in == made.samples + sum(made.dropped.values()), where
        assert "\n" not in sentence, where
        assert not left, where


@pytest.mark.parametrize("name", FORMATS)
def test_what_was_finished_before_the_damage_is_kept(name: str, tmp_path: Path) -> None:
    format_ = FORMATS[name]
    path = format_.write(tmp_path / "source")
    shutil.copytree(tmp_path / "source", tmp_path / "copy")
    undisturbed = converted(format_, path, tmp_path / "undisturbed" / "toy")

    def interrupt(*said: Any) -> None:
        if said[0] == 1:
            raise KeyboardInterrupt

    folder = tmp_path / "disturbed" / "toy"
    with pytest.raises(KeyboardInterrupt):
        converted(format_, path, folder, report=interrupt)
    kept = unit_files(folder)
    assert kept
    format_.faults[REFUSED[name]][0](path)
    with pytest.raises(UserError):
        converted(format_, path, folder)
    assert not finished(folder)
    assert kept.items() <= unit_files(folder).items()
    shutil.rmtree(tmp_path / "source")
    shutil.copytree(tmp_path / "copy", tmp_path / "source")
    said: list[tuple[int, int, str]] = []
    assert converted(format_, path, folder, report=lambda *each: said.append(each)) == undisturbed
    assert said[0][0] >= 1
    for shard in (tmp_path / "undisturbed" / "toy").glob("*.tar"):
        assert shard.read_bytes() == (folder / shard.name).read_bytes()
