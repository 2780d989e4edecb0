"""What a person can get wrong is refused before a step: one sentence, exit status 2, no traceback unless --debug."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pi05_train.commands.main import main
from pi05_train.data.loading.reader import Reader
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.sources.index import build_index
from pi05_train.errors import UserError
from pi05_train.samples.card import SourceCard
from pi05_train.samples.mixture_config import MixtureConfig, SourceEntry
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import write_shards
from tests.commands.conftest import Workspace
from tests.synthetic import CARDS

Damage = Callable[[Workspace], list[str]]


def rewrite(workspace: Workspace, change: Callable[[Sample], Sample]) -> None:
    """The shards of toy_mobile anew, with every sample changed."""
    card: SourceCard = CARDS["toy_mobile"]
    samples = []
    for split in ("train", "heldout"):
        opened = Mixture.open(MixtureConfig("one", {card.name: SourceEntry(card, 1.0)}), workspace.data, split=split)
        reader = Reader(opened)
        samples += [reader.read(card.name, row) for row in range(opened.sizes[0])]
    folder = workspace.data / card.shards
    for shard in folder.glob("*.tar"):
        shard.unlink()
    write_shards(folder, [change(sample) for sample in samples])
    build_index(folder)


def nan_actions(sample: Sample) -> Sample:
    assert sample.actions is not None
    return replace(sample, actions=np.full_like(sample.actions, np.nan))


def wide_actions(sample: Sample) -> Sample:
    assert sample.actions is not None
    return replace(sample, actions=np.pad(sample.actions, ((0, 0), (0, 2))))


def missing_shard(workspace: Workspace) -> list[str]:
    sorted((workspace.data / "toy_mobile").glob("*.tar"))[0].unlink()
    return []


def truncated_tar(workspace: Workspace) -> list[str]:
    shard = sorted((workspace.data / "toy_mobile").glob("*.tar"))[0]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    return []


def empty_source(_: Workspace) -> list[str]:
    return ["mixture.filters.max_episode_steps=0"]


def missing_index(workspace: Workspace) -> list[str]:
    (workspace.data / "toy_arm" / "index.json").unlink()
    return []


def missing_statistics(workspace: Workspace) -> list[str]:
    (workspace.data / "toy_arm" / "norm_stats.json").unlink()
    return []


def missing_tokenizer_file(workspace: Workspace) -> list[str]:
    next(path for path in (workspace.tokenizers / "text").iterdir() if path.suffix == ".model").unlink()
    return []


def wrong_sha256(workspace: Workspace) -> list[str]:
    path = next(path for path in (workspace.tokenizers / "text").iterdir() if path.suffix == ".model")
    path.write_bytes(path.read_bytes() + b"x")
    return []


def wrong_action_dim(_: Workspace) -> list[str]:
    return ["model.action_dim=7"]


def shards_unlike_the_card(workspace: Workspace) -> list[str]:
    rewrite(workspace, wide_actions)
    return []


CASES: list[tuple[Damage, str]] = [
    (missing_shard, "shard-000000.tar"),
    (truncated_tar, "shard-000000.tar"),
    (empty_source, "no samples left"),
    (missing_index, "toy_arm"),
    (missing_statistics, "norm_stats.json"),
    (missing_tokenizer_file, ".model"),
    (wrong_sha256, "sha256"),
    (wrong_action_dim, "action_dim"),
    (shards_unlike_the_card, "toy_mobile"),
]


@pytest.mark.parametrize(("damage", "named"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_each_is_one_sentence_and_status_2(
    damage: Damage, named: str, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = damage(workspace)
    status = main(["train", *workspace.overrides("pretrain", *overrides)])
    said = capsys.readouterr().err.strip()
    assert status == 2
    assert named in said
    assert "got" in said
    assert "expected" in said
    assert len(said.splitlines()) == 1
    assert "Traceback" not in said


def test_nan_never_gets_into_a_shard(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="NaN"):
        rewrite(workspace, nan_actions)


def test_a_typo_is_refused_with_the_nearest_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "experiment=demo_pretrain", "optimizer.learning_rat=1"]) == 2
    assert "did you mean 'learning_rate'" in capsys.readouterr().err


def test_debug_shows_where() -> None:
    with pytest.raises(UserError, match="learning_rat"):
        main(["--debug", "train", "experiment=demo_pretrain", "optimizer.learning_rat=1"])


def test_an_unknown_card_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["data", "index", "sim_fetsh", "--root", str(tmp_path)]) == 2
    assert "sim_fetch" in capsys.readouterr().err


def test_a_folder_that_was_never_trained_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["evaluate", str(tmp_path)]) == 2
    assert main(["report", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_another_configuration_in_the_same_folder_is_refused(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *workspace.overrides("pretrain")]) == 0
    assert main(["train", *workspace.overrides("pretrain", "optimizer.learning_rate=3e-4")]) == 2
    assert "optimizer.learning_rate" in capsys.readouterr().err
    assert json.loads((workspace.root / "pretrain" / "fingerprints.json").read_text())
