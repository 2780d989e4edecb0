"""The verbs that look at data: verify, stats, explain, inspect."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml
from rich.console import Console

from pi05_train.commands.main import main
from pi05_train.commands.sample import spark, terminal_picture
from pi05_train.data.sources.index import Index
from pi05_train.processing.normalisation import read_norm_stats
from pi05_train.samples.shards import write_shards
from tests.commands.conftest import Workspace
from tests.synthetic import CARDS, flip, synthetic_samples


def on(workspace: Workspace, verb: str, *names: str) -> list[str]:
    """The verb with cards of the workspace."""
    cards = [str(workspace.config_dir / "source" / f"{name}.yaml") for name in names]
    return ["data", verb, *cards, "--root", str(workspace.data)]


def test_verify_ends_with_1_and_a_line_per_problem(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    verify = [*on(workspace, "verify", "toy_arm", "toy_web"), "--workers", "1"]
    assert main(verify) == 0
    assert "toy_web: every shard and sample is as indexed" in capsys.readouterr().out
    shard = workspace.data / "toy_arm" / "shard-000001.tar"
    flip(shard, 5000)
    (workspace.data / "toy_web" / "surplus.tar").touch()
    assert main(verify) == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("verifying")]
    assert len(problems) == 2
    assert problems[0].startswith(f"toy_arm: {shard}, sample 0000000")
    assert problems[1].startswith(f"toy_web: {workspace.data / 'toy_web' / 'surplus.tar'}: a shard that the index")


def test_repair_mends_an_index_and_refuses_a_shard(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    folder = workspace.data / "toy_arm"
    before = Index.open(folder).fingerprint
    flip(folder / "index.npy", 300)
    assert main([*on(workspace, "verify", "toy_arm"), "--workers", "1", "--repair"]) == 0
    assert "rows and fingerprint are as before" in capsys.readouterr().out
    assert Index.open(folder).fingerprint == before
    flip(folder / "shard-000000.tar", 5000)
    assert main([*on(workspace, "verify", "toy_arm"), "--workers", "1", "--repair"]) == 2
    assert "restore those shards" in capsys.readouterr().err


def test_stats_writes_statistics_and_health_and_joins_embodiments(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = replace(CARDS["toy_arm"], name="twin", shards="twin")
    (workspace.config_dir / "source" / "twin.yaml").write_text(yaml.safe_dump(asdict(twin)))
    write_shards(workspace.data / "twin", synthetic_samples(twin))
    assert main(on(workspace, "index", "twin")) == 0
    before = read_norm_stats(workspace.data / "toy_arm" / "norm_stats.json")
    stats = [*on(workspace, "stats", "toy_arm", "twin", "toy_web"), "--horizon", "10", "--workers", "1"]
    assert main(stats) == 0
    printed = capsys.readouterr().out
    assert "toy_web: no states or actions" in printed
    assert "toy_arm_end_effector: statistics of toy_arm, twin together" in printed
    assert json.loads((workspace.data / "toy_arm" / "health.json").read_text())["samples"] == 30
    after = read_norm_stats(workspace.data / "toy_arm" / "norm_stats.json")
    assert after["actions"].q99.tolist() == before["actions"].q99.tolist()
    twins = read_norm_stats(workspace.data / "twin" / "norm_stats.json")
    both = read_norm_stats(workspace.data / "embodiments" / "toy_arm_end_effector" / "norm_stats.json")
    middle = (after["state"].mean + twins["state"].mean) / 2
    assert both["state"].mean.tolist() == pytest.approx(middle.tolist())


def test_explain_names_the_samples_of_a_step(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "explain", "--step", "7", *workspace.overrides("pretrain")]) == 0
    printed = capsys.readouterr().out
    assert "step 7 of toy, seed 0: 6 samples, found in" in printed
    assert sum("shard-0000" in line for line in printed.splitlines()) == 6
    assert main(["data", "explain", "--step", "-1", *workspace.overrides("pretrain")]) == 2


def test_inspect_shows_text_numbers_and_pictures(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    (sample, *_) = synthetic_samples(CARDS["toy_mobile"])
    assert main(on(workspace, "inspect", "toy_mobile")) == 0
    printed = capsys.readouterr().out
    for words in (sample.task, sample.key, "base_0_rgb, 56 × 56", "█", "CC0-1.0"):
        assert words in printed
    page = workspace.root / "pages" / "sample.html"
    assert main([*on(workspace, "inspect", "toy_mobile"), "--key", sample.key, "--html", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert sample.task in page.read_text()
    assert main([*on(workspace, "inspect", "toy_mobile"), "--row", "1000"]) == 2


def test_pictures_become_coloured_characters_on_a_terminal() -> None:
    (sample, *_) = synthetic_samples(CARDS["toy_web"])
    console = Console(width=100, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(terminal_picture("base_0_rgb", sample.images["base_0_rgb"], coloured=True))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("▀") == 44 * 22


@pytest.mark.parametrize(
    ("values", "drawn"), [([0, 1], "▁█"), ([5, 5, 5], "▁▁▁"), (range(8), "▁▂▃▄▅▆▇█"), ([2, -2], "█▁")]
)
def test_a_course_in_one_line(values: Sequence[float], drawn: str) -> None:
    assert spark(np.array(values, np.float32)) == drawn
    assert len(spark(np.arange(500, dtype=np.float32))) == 30
