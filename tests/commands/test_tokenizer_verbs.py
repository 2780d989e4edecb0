"""`pi05 tokenizer`: a FAST that loses too much is never written, and a run never trains on one unawares."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pi05_train.commands.main import main
from pi05_train.data.fitting.fast_report import MAX_ERROR, read_report
from pi05_train.data.sources.index import build_index
from pi05_train.samples.schema import Sample
from pi05_train.samples.shards import write_shards
from tests.commands.conftest import Workspace
from tests.golden_numbers import complete_path
from tests.samples.object_store import s3_variables, serve
from tests.synthetic import CARDS, synthetic_samples

SIZES = ["--pieces", "400", "--fast-size", "300"]
MOVERS = ("toy_mobile", "toy_arm", "toy_bimanual")
OTHERS_OFF = [f"mixture.sources.{name}.enabled=false" for name in MOVERS if name != "toy_arm"]


def fit(workspace: Workspace, folder: Path, *more: str) -> int:
    return main(["tokenizer", "fit", str(folder), *workspace.overrides("pretrain"), *SIZES, *more])


def check(workspace: Workspace, *more: str) -> int:
    return main(["tokenizer", "check", *workspace.overrides("pretrain"), *more])


def train(workspace: Workspace, *more: str) -> int:
    return main(["train", *workspace.overrides("pretrain"), *more])


def with_wild_heldout(workspace: Workspace) -> None:
    """toy_arm anew: what is held out goes a hundred times as far as what is trained on."""

    def wild(sample: Sample) -> Sample:
        assert sample.actions is not None
        return replace(sample, actions=sample.actions * np.float32(100)) if sample.split == "heldout" else sample

    folder = workspace.data / "toy_arm"
    shutil.rmtree(folder)
    write_shards(folder, [wild(sample) for sample in synthetic_samples(CARDS["toy_arm"])])
    card = workspace.config_dir / "source" / "toy_arm.yaml"
    build_index(folder)
    assert main(["data", "index", str(card), "--root", str(workspace.data), "--horizon", "10"]) == 0


def test_a_fit_prints_and_writes_what_it_loses(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(workspace, tmp_path / "new") == 0
    report = read_report(tmp_path / "new" / "fast")
    assert report is not None
    assert tuple(report) == MOVERS
    printed = capsys.readouterr().out
    for name, measured in report.items():
        assert (measured.rows, measured.horizon, measured.dims) == ("10 held-out + 4 training", 10, 14)
        assert (measured.max_error, measured.complaint) == (MAX_ERROR, "")
        assert measured.result.worst_rmse is not None
        assert 0 < measured.result.worst_rmse < MAX_ERROR
        assert name in printed
        assert f"{measured.result.worst_rmse:.4f}, dim {measured.result.worst_dim}" in printed


def test_a_coarse_fit_is_refused_and_nothing_is_touched(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in workspace.tokenizers.rglob("*") if path.is_file()}
    assert fit(workspace, workspace.tokenizers, "--scale", "1") == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert all(name in said for name in ("RMSE", "dimension", "toy_arm", "--scale", "--max-error"))
    assert {path: path.read_bytes() for path in workspace.tokenizers.rglob("*") if path.is_file()} == before
    assert fit(workspace, tmp_path / "new", "--scale", "1") == 2
    assert not (tmp_path / "new").exists()
    assert fit(workspace, tmp_path / "new", "--scale", "1", "--max-error", "0.6") == 0


def test_held_out_chunks_that_saturate_are_found(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    with_wild_heldout(workspace)
    assert fit(workspace, workspace.root / "new") == 2
    said = capsys.readouterr().err
    assert "of toy_arm" in said
    assert "toy_mobile" not in said


def test_a_fit_on_one_source_sees_no_other(workspace: Workspace, tmp_path: Path) -> None:
    assert fit(workspace, tmp_path / "named", "--source", "toy_arm") == 0
    assert fit(workspace, tmp_path / "alone", *OTHERS_OFF) == 0
    assert fit(workspace, tmp_path / "mixture") == 0
    alone, named, mixture = (
        (tmp_path / n / "fast" / "tokenizer.json").read_bytes() for n in ("alone", "named", "mixture")
    )
    assert named == alone != mixture
    assert list(read_report(tmp_path / "named" / "fast") or ()) == ["toy_arm"]
    text = [(tmp_path / name / "text" / "tokenizer.model").read_bytes() for name in ("named", "mixture")]
    assert text[0] == text[1]


def test_sources_in_an_object_store_give_the_same_tokenizer(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(workspace.root) as store:
        for name, value in s3_variables(store).items():
            monkeypatch.setenv(name, value)
        assert fit(workspace, tmp_path / "new", "data.root=s3://data") == 0
    for name in ("tokenizer.json", "report.json"):
        assert (tmp_path / "new" / "fast" / name).read_bytes() == (workspace.tokenizers / "fast" / name).read_bytes()


def test_a_run_is_refused_on_sources_the_tokenizer_was_not_measured_on(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(workspace, tmp_path / "new", "--source", "toy_arm") == 0
    pair = [f"tokenizer.{which}={tmp_path / 'new' / which}" for which in ("text", "fast")]
    assert train(workspace, *pair) == 2
    assert "measured on of source toy_mobile" in capsys.readouterr().err
    assert not (workspace.root / "pretrain").exists()
    assert check(workspace, *pair) == 0
    assert train(workspace, *pair, "data.normalisation=z_score") == 2
    assert "got 10-step quantile chunks, expected 10-step z_score chunks" in capsys.readouterr().err
    assert train(workspace, *pair) == 0


def test_a_run_is_refused_on_a_source_that_was_measured_to_lose_too_much(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    with_wild_heldout(workspace)
    assert check(workspace) == 1
    assert "toy_arm: an RMSE of" in capsys.readouterr().out
    assert train(workspace) == 2
    assert "of toy_arm" in capsys.readouterr().err
    assert train(workspace, "mixture.sources.toy_arm.enabled=false") == 0


def test_published_tokenizers_are_measured_and_left_as_they_are(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = complete_path("fast_tokenizer/universal")
    assert check(workspace, f"tokenizer.fast={folder}") == 0
    assert "toy_bimanual" in capsys.readouterr().out
    assert not (folder / "report.json").exists()


def test_a_report_about_another_tokenizer_does_not_count(workspace: Workspace, tmp_path: Path) -> None:
    assert fit(workspace, tmp_path / "new", "--fast-size", "280") == 0
    shutil.copy(workspace.tokenizers / "fast" / "report.json", tmp_path / "new" / "fast")
    assert read_report(tmp_path / "new" / "fast") == {}
    assert train(workspace, *(f"tokenizer.{which}={tmp_path / 'new' / which}" for which in ("text", "fast"))) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--source", "toy_web"], "one of ['toy_mobile', 'toy_arm', 'toy_bimanual']"),
        (["--source", "nobody"], "nobody"),
        (["--scale", "0"], "--scale"),
        (["--max-error", "nan"], "--max-error"),
        ([f"mixture.sources.{name}.enabled=false" for name in MOVERS], "no source with actions"),
    ],
)
def test_what_a_person_can_get_wrong_is_one_sentence(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert fit(workspace, tmp_path / "new", *arguments) == 2
    said = capsys.readouterr().err.strip()
    assert named in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    if arguments[0] not in ("--source", "--scale"):
        assert check(workspace, *arguments) == 2
        assert named in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", json.dumps({"tokenizer": "x"}), json.dumps({"tokenizer": 1, "sources": {}})])
def test_a_damaged_report_is_refused(workspace: Workspace, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (workspace.tokenizers / "fast" / "report.json").write_text(content)
    assert train(workspace) == 2
    assert "report.json" in capsys.readouterr().err
