"""`pi05 demo`: what is done is skipped, what was cut off is not; and (slow) the whole of it learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pi05_train.commands import demo as module
from pi05_train.commands.main import main


def test_a_folder_counts_as_made_only_when_it_is_whole(tmp_path: Path) -> None:
    def cut_off(folder: Path) -> None:
        folder.mkdir()
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        module._whole(tmp_path / "data", cut_off)
    assert not (tmp_path / "data").exists()
    module._whole(tmp_path / "data", lambda folder: (folder / "rest").touch())
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"half", "rest"}


def test_phases_that_are_done_are_skipped_and_an_interrupted_one_is_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def phase(name: str, *, interrupt: bool = False) -> module.Phase:
        def run() -> None:
            ran.append(name)
            if interrupt and ran.count(name) == 1:
                raise KeyboardInterrupt
            (tmp_path / name).touch()

        return module.Phase(name, "", run, (tmp_path / name).is_file)

    phases = [phase("first"), phase("second", interrupt=True), phase("third")]
    monkeypatch.setattr(module, "_phases", lambda _: phases)
    monkeypatch.setattr(module, "read_evaluation", lambda _: None)
    monkeypatch.setattr(module, "results_table", lambda _: "")
    monkeypatch.setattr(module, "write_report", lambda root: root / "report.html")
    assert main(["demo", "--folder", str(tmp_path)]) == 130
    assert main(["demo", "--folder", str(tmp_path)]) == 0
    assert ran == ["first", "second", "second", "third"]
    assert json.loads((tmp_path / "report.json").read_text())["seconds"].keys() == {"first", "second", "third"}


def test_a_phase_that_returns_early_ends_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after = module.Phase("after", "", lambda: pytest.fail("the next phase ran"), lambda: False)
    monkeypatch.setattr(module, "_phases", lambda _: [module.Phase("early", "", lambda: None, lambda: False), after])
    assert main(["demo", "--folder", str(tmp_path)]) == 130


@pytest.mark.slow
def test_the_demo_beats_its_baselines_on_every_source(tmp_path: Path) -> None:
    """Held-out cross-entropy of every source, and the flow action error, against fresh weights and constants."""
    assert main(["demo", "--folder", str(tmp_path / "demo")]) == 0
    rows = json.loads((tmp_path / "demo" / "posttrain" / "evaluation.json").read_text())["heldout"]
    judged = [row for row in rows if row["metric"].endswith("cross_entropy") or row["metric"] == "flow_action_error"]
    assert len(judged) == 7
    for row in judged:
        assert row["value"] < min(row["untrained"], row["constant"]), row
    assert (tmp_path / "demo" / "report.html").is_file()
    loop = ["--closed-loop", "--tasks", "fetch-reach", "metaworld-reach", "--episodes", "1", "--commands", "high-level"]
    assert (
        main(["evaluate", str(tmp_path / "demo" / "posttrain"), *loop, "--modes", "hierarchical", "flat", "oracle"])
        == 0
    )
