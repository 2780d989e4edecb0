"""The open mixture without its data: cards that say what our converters make, commands that would run, shares."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from pi05_train.commands.main import main, parse
from pi05_train.config.compose import compose
from pi05_train.config.schema import Config
from pi05_train.config.sources import read_card
from pi05_train.convert import coco, pixmo, vqa
from pi05_train.convert.annotations import PHRASED
from pi05_train.convert.lerobot_cameras import name_cameras, parse_overrides
from pi05_train.convert.rlds_datasets import DATASETS, find_entry
from pi05_train.convert.webdataset import CAPTION_FIELDS
from pi05_train.data.order.outlook import Outlook
from pi05_train.data.order.schedule import Schedule
from pi05_train.resources import resource
from tests.convert.lerobot_folders import Dataset, needs_encoder

CARDS = {path.stem: read_card(path.stem) for path in sorted((resource("data_mixtures") / "source").glob("open_*.yaml"))}
GUIDE = Path(__file__).resolve().parents[2] / "docs" / "open-mixture.md"
NOWHERE = Path("/nowhere")
AGIBOT_CAMERAS = (
    "top_head", "hand_left", "hand_right", "head_center_fisheye", "head_left_fisheye", "head_right_fisheye",
    "back_left_fisheye", "back_right_fisheye",
)  # fmt: skip
"""Of the LeRobot copy, without `observation.images.`: the script that made it (port_agibot.py of LeRobot's author)."""


def parsed(command: str) -> argparse.Namespace:
    program, *arguments = shlex.split(command)
    assert program == "pi05"
    return parse(arguments)


def conversion(name: str) -> argparse.Namespace:
    """Arguments of the command that makes a card's shards: the first one."""
    return parsed(CARDS[name].convert[0])


@cache
def composed(stage: str) -> Config:
    return compose([f"experiment=open_{stage}", f"data.root={NOWHERE}"])


@cache
def schedule(stage: str) -> Schedule:
    """With the rows that cards declare."""
    config = composed(stage)
    return Outlook.of(config).schedule(0, config.data.global_batch_samples, config.run.steps)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_all_there_is_to_say(name: str) -> None:
    card = CARDS[name]
    assert card.name == card.shards == name
    assert all((card.description, card.licence, card.version, card.convert))
    assert card.origin.startswith("https://")
    if None in (card.samples, card.download_gb):  # and of a number that nobody knows it says why
        assert re.search(r"not (counted|checked|published|found)|decide the rows", card.description)


@pytest.mark.parametrize("name", CARDS)
def test_its_command_runs_into_its_shards(name: str) -> None:
    card, arguments = CARDS[name], conversion(name)
    assert (arguments.name, arguments.kind, arguments.folder) == (name, card.kind, f"$DATA/{card.shards}")
    place, _, source = arguments.path.partition("/")
    assert source
    assert place == "$DOWNLOADS" or (place == "$DATA" and source in CARDS)
    match arguments.format:
        case "rlds":
            find_entry(arguments.dataset.partition(":")[0])
        case "coco":
            assert set(arguments.dataset.split(",")) <= set(coco.VARIANTS)
        case "pixmo":
            assert set(arguments.dataset.split(",")) <= set(pixmo.VARIANTS)
        case "vqa":
            assert arguments.dataset in vqa.VARIANTS
        case "webdataset":
            assert arguments.dataset in CAPTION_FIELDS
        case "conversations":
            assert arguments.dataset.endswith(".jsonl")
        case "annotations":
            assert arguments.dataset == PHRASED
        case other:
            assert other == "lerobot"
            parse_overrides(arguments.dataset)
    for command in card.convert[1:]:
        assert parsed(command).cards == [name]


RLDS = [name for name in CARDS if conversion(name).format == "rlds"]


@pytest.mark.parametrize("name", RLDS)
def test_a_card_is_what_the_key_map_makes(name: str) -> None:
    card, entry = CARDS[name], find_entry(conversion(name).dataset.partition(":")[0])
    assert card.cameras == [camera.ours for camera in entry.cameras]
    assert (card.state_dim, card.action_dim, card.delta_mask) == (
        entry.state_dim, entry.action_dim, list(entry.delta_mask),
    )  # fmt: skip
    assert (card.rate_hz, card.control_mode, card.embodiment) == (entry.rate_hz, entry.control_mode, entry.embodiment)


def test_every_data_set_with_a_key_map_is_in_the_mixture() -> None:
    used = {find_entry(conversion(name).dataset.partition(":")[0]).name for name in RLDS}
    assert used == DATASETS.keys() - {"bridge_oxe"}  # an older copy of bridge
    sources = composed("pretrain").mixture.sources.keys() | composed("posttrain").mixture.sources.keys()
    assert sources == CARDS.keys()


def test_agibots_cameras_are_named_as_the_cards_say() -> None:
    features = {f"observation.images.{name}": {"dtype": "video"} for name in AGIBOT_CAMERAS}
    for name in ("open_agibot", "open_agibot_subtasks"):
        named = name_cameras(features, parse_overrides(conversion(name).dataset), name)
        assert CARDS[name].cameras == list(named.values())
    assert CARDS["open_agibot_spoken"].cameras == CARDS["open_agibot_subtasks"].cameras
    assert conversion("open_agibot_spoken").path == "$DATA/open_agibot_subtasks"
    # Arms, grippers, head and waist stand in the same places of state and action; grippers differ in their units.
    mask = CARDS["open_agibot"].delta_mask
    assert [place for place, relative in enumerate(mask) if not relative] == [9, 17]


def test_agibots_commands_run_on_a_download_of_that_form(tmp_path: Path) -> None:
    """Robot samples, subtasks and instructions of one LeRobot folder, counted by the mixture when they are there."""
    needs_encoder("h264")
    cameras = {f"observation.images.{name}": number for number, name in enumerate(AGIBOT_CAMERAS)}
    texts = {"action_text": lambda _, frame: "Take the cup." if frame < 20 else ""}
    download = Dataset(
        "v3.0", (40, 31, 20), 30, cameras=cameras, width=20, action_width=22, extra=texts, texts=["action_text"]
    )
    download.write(tmp_path / "agibot_alpha_v30")
    places = {"$DOWNLOADS": str(tmp_path), "$DATA": str(tmp_path / "data")}
    for name in ("open_agibot", "open_agibot_subtasks", "open_agibot_spoken"):
        for command in CARDS[name].convert:
            words = [re.sub(r"^\$\w+", lambda found: places[found[0]], word) for word in shlex.split(command)[1:]]
            assert main([*words, *(["--workers", "1"] if words[1] == "convert" else [])]) == 0
        made = read_card(str(tmp_path / "data" / name / f"{name}.yaml"))
        expected = replace(CARDS[name], description=made.description, licence=made.licence, origin=made.origin)
        expected = replace(expected, embodiment="toy_arm", version="", samples=None, download_gb=None, convert=[])
        assert made == replace(expected, delta_mask=[])  # the files do not tell it
    outlook = Outlook.open(composed("posttrain").mixture, tmp_path / "data")
    assert outlook.opened is not None
    assert {name: len(index) for name, index in outlook.opened.indexes.items()} == {
        "open_agibot": 3 + 3 + 2,
        "open_agibot_subtasks": 2 + 2 + 2,
        "open_agibot_spoken": 2 + 2 + 2,
    }


def test_shares_are_the_papers() -> None:
    for stage, expected in (
        ("pretrain", {"MM": 0.024, "ME": 0.276, "CE": 0.40, "HL": 0.10, "WD": 0.20}),
        ("posttrain", {"MM": 0.30, "ME": 0.30, "HL": 0.178, "VI": 0.022, "WD": 0.20}),
    ):
        shares = schedule(stage).requested(1)
        kinds = {kind: sum(shares[n] for n in shares if CARDS[n].kind == kind) for kind in expected}
        assert kinds == pytest.approx(expected)
        assert sum(kinds.values()) == pytest.approx(1)
    assert kinds["VI"] / (kinds["HL"] + kinds["VI"]) == pytest.approx(0.11)


def test_inside_a_kind_robot_data_count_with_a_power_of_their_rows() -> None:
    shares = schedule("pretrain").requested(1)
    for kind in ("CE", "ME"):
        rows = {n: card.samples for n, card in CARDS.items() if card.kind == kind and card.samples is not None}
        ratios = [shares[name] / samples**0.43 for name, samples in rows.items()]
        assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-3)  # declared rows are whole numbers


def test_the_second_stage_starts_from_the_first() -> None:
    first, second = composed("pretrain"), composed("posttrain")
    assert (first.run.steps, second.run.steps) == (280_000, 80_000)
    assert second.run.start_from == first.run.folder
    assert (second.mixture.filters.success_only, second.mixture.filters.max_episode_steps) == (True, 9000)


def test_the_guides_table_is_what_the_command_prints() -> None:
    stages = {stage: (composed(stage), schedule(stage)) for stage in ("pretrain", "posttrain")}
    lines = re.findall(r"^\| `(open_\w+)` \|(.*)\|$", GUIDE.read_text(), re.MULTILINE)
    assert [name for name, _ in lines] == list(
        dict.fromkeys(name for config, _ in stages.values() for name in config.mixture.sources)
    )
    for name, line in lines:
        card, cells = CARDS[name], [cell.strip() for cell in line.split("|")]
        shares = [planned.requested(1).get(name, 0) for _, planned in stages.values()]
        draws = sum(planned.counts(config.run.steps).get(name, 0) for config, planned in stages.values())
        known = card.samples is not None
        assert cells == [
            card.kind,
            f"{card.samples:,}" if known else "unknown",
            *(f"{share:.2%}" if share else "" for share in shares),
            f"{draws / round(0.95 * (card.samples or 1)):.2f}" if known else "unknown",
            card.licence,
            "unknown"
            if card.download_gb is None
            else f"{card.download_gb:,.0f} GB"
            if card.download_gb
            else "another's",
        ], name
