"""`pi05 data count`, and a run whose micro-batches follow budgets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pi05_train.commands.main import main
from pi05_train.config.build import build_processor, shard_statistics
from pi05_train.config.compose import compose
from pi05_train.config.schema import Config
from pi05_train.data.loading import token_counts
from pi05_train.data.loading.reader import Reader
from pi05_train.data.loading.token_counts import count_source, counts_name, open_counts
from pi05_train.data.order.mixture import Mixture
from pi05_train.data.sources.index import Index
from pi05_train.processing.normalisation import NormStats
from tests.commands.conftest import Workspace
from tests.synthetic import flip
from tests.trainer.logged import logged

BUDGETS = ["data.micro_batch_tokens=400", "data.micro_batch_images=5"]


def config_of(workspace: Workspace, stage: str, *more: str) -> Config:
    _, config_dir, *overrides = workspace.overrides(stage, *more)
    return compose([*overrides, f"data.cache={workspace.root / 'cache'}"], config_dir)


def cached(workspace: Workspace, stage: str, *more: str) -> list[str]:
    return workspace.overrides(stage, f"data.cache={workspace.root / 'cache'}", *more)


def open_source(config: Config, source: str) -> tuple[Index, dict[str, dict[str, NormStats]]]:
    card = config.mixture.sources[source].card
    return Index.open(Path(config.data.root) / card.shards), shard_statistics(config)


@pytest.mark.parametrize("stage", ["pretrain", "posttrain"])
def test_counts_are_the_lengths_of_the_examples(workspace: Workspace, stage: str) -> None:
    config = config_of(workspace, stage)
    statistics = shard_statistics(config)
    processor = build_processor(config, statistics)
    mixture = Mixture.open(config.mixture, workspace.data)
    reader = Reader(mixture)
    for name in mixture.names:
        count_source(name, mixture.indexes[name], config, statistics)
        counts = open_counts(name, mixture.indexes[name], config, statistics)
        assert counts["tokens"].min() > 0
        for place, row in list(enumerate(np.asarray(mixture.rows[name]).tolist()))[::3]:
            sample = reader.read(name, place)
            for training in (False, True):
                example = processor(sample, key=(place,), training=training)
                length = (len(example.prefix_ids) + len(example.target_ids), len(example.images))
                assert length == tuple(counts[row].tolist())


def test_an_interrupted_count_goes_on_and_processes_change_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_counts, "ROWS_PER_PART", 7)
    config = config_of(workspace, "pretrain")
    index, statistics = open_source(config, "toy_mobile")

    def interrupt(done: int, total: int, _: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count_source("toy_mobile", index, config, statistics, report=interrupt)
    name = counts_name("toy_mobile", index, config, statistics)
    kept = workspace.root / "cache" / name
    assert sorted(path.name for path in kept.iterdir()) == ["0.npy", "14.npy", "7.npy"]
    (kept / "7.npy").write_bytes(b"")
    seen: list[int] = []
    count_source("toy_mobile", index, config, statistics, report=lambda done, *_: seen.append(done))
    assert seen == [14, 28, 35, 40]
    assert not kept.exists()
    counts = np.array(open_counts("toy_mobile", index, config, statistics))
    for path in (workspace.root / "cache" / "token_counts").iterdir():
        path.unlink()
    count_source("toy_mobile", index, config, statistics, workers=2)
    assert np.array_equal(open_counts("toy_mobile", index, config, statistics), counts)


def test_a_sample_that_cannot_be_read_counts_as_the_longest(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(workspace, "pretrain")
    index, statistics = open_source(config, "toy_subtasks")
    record = index.records[9]
    path, offset = index.folder / index.shards[int(record["shard"])].name, int(record["offset"])
    flip(path, offset + 512)  # the first byte of its json
    assert main(["data", "count", "--workers", "1", *cached(workspace, "pretrain")]) == 0
    assert "toy_subtasks: 1 of 40 samples cannot be read" in capsys.readouterr().out
    counts = open_counts("toy_subtasks", index, config, statistics)
    assert counts[9].tolist() == (counts["tokens"].max(), counts["images"].max())


@pytest.mark.parametrize(
    ("override", "others"),
    [
        ("run.seed=3", False),
        ("data.global_batch_samples=12", False),
        ("augmentation=none", False),
        ("model.vision.image_size=64", False),
        ("model.max_prompt_tokens=20", True),
        ("model.action_horizon=5", True),
        ("data.normalisation=z_score", True),
        ("templates=openpi", True),
        ("tokenizer.fast_native_dims=true", True),
    ],
)
def test_counts_belong_to_what_decides_them(workspace: Workspace, override: str, others: bool) -> None:
    config, changed = config_of(workspace, "posttrain"), config_of(workspace, "posttrain", override)
    index, statistics = open_source(config, "toy_mobile")
    before = counts_name("toy_mobile", index, config, statistics)
    assert (counts_name("toy_mobile", index, changed, statistics) != before) == others


def test_budgets_need_counts_and_room_for_every_sample(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *cached(workspace, "pretrain", *BUDGETS)]) == 2
    assert "run `pi05 data count` with the same arguments" in capsys.readouterr().err
    assert main(["data", "count", *cached(workspace, "pretrain", *BUDGETS)]) == 0
    printed = capsys.readouterr().out
    assert "a step of 6 samples:" in printed
    assert "micro-batches of at most" in printed
    assert main(["train", *cached(workspace, "pretrain", "data.micro_batch_images=3")]) == 2
    refusal = capsys.readouterr().err
    assert "data.micro_batch_images: got 3, expected at least 4, which sample" in refusal
    assert "toy_subtasks" in refusal
    assert not (workspace.root / "pretrain").exists()


def test_a_run_by_budget_has_the_same_steps_and_resumes_with_other_budgets(workspace: Workspace) -> None:
    assert main(["data", "count", *cached(workspace, "posttrain")]) == 0
    assert (
        main(["train", *cached(workspace, "posttrain", f"run.folder={workspace.root / 'fixed'}", "run.steps=4")]) == 0
    )
    assert main(["train", *cached(workspace, "posttrain", *BUDGETS, "run.steps=2")]) == 0
    other = ["data.micro_batch_tokens=900", "data.micro_batch_images=null", "run.steps=4"]
    assert main(["train", *cached(workspace, "posttrain", *other)]) == 0
    for ours, theirs in zip(logged(workspace.root / "posttrain"), logged(workspace.root / "fixed"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
        assert {name: ours[name] for name in ours if name.startswith("share/")} == {
            name: theirs[name] for name in theirs if name.startswith("share/")
        }
        assert (ours["samples"], ours["tokens"]) == (theirs["samples"], theirs["tokens"])
