"""Real files of other projects: converted, looked at, mixed and trained on, through the commands alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from pi05_train.commands.main import main
from tests.commands.conftest import SMALL

SHARED = Path(os.environ.get("PI05_SHARED", Path(__file__).resolve().parents[2] / ".." / "shared")) / "data"
CONVERSIONS = {
    "bridge": ["rlds", "octo_bridge_rlds", "--kind", "CE", "--dataset", "bridge", "--horizon", "10"],
    "lbm": ["webdataset", "small_lbm_webdataset", "--kind", "CE", "--dataset", "lbm", "--horizon", "10"],
    "g1": ["lerobot", "unitree_g1_lerobot_v21", "--kind", "MM", "--allow-missing", "--stride", "25", "--horizon", "10"],
    "coco": ["coco", "coco_mini_ccby", "--kind", "WD", "--dataset", "captions"],
    "easy_vqa": ["vqa", "easy_vqa_test", "--kind", "WD"],
}
if WRITTEN := os.environ.get("PI05_LEROBOT_WRITTEN"):  # by tests/interop/write_lerobot_v3.py
    CONVERSIONS["written"] = ["lerobot", str(Path(WRITTEN) / "libsvtav1"), "--kind", "CE", "--horizon", "10"]
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the real files (shared/data) are absent")


def test_real_files_of_every_kind_train_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, config = tmp_path / "data", tmp_path / "config"
    for name, (format, folder, *options) in CONVERSIONS.items():
        arguments = [format, str(SHARED / folder), str(data / name), "--name", name, "--workers", "1", *options]
        assert main(["data", "convert", *arguments]) == 0
        (config / "source").mkdir(parents=True, exist_ok=True)
        shutil.copy(data / name / f"{name}.yaml", config / "source")
        assert main(["data", "verify", str(data / name / f"{name}.yaml"), "--root", str(data)]) == 0
    mixture = {
        "defaults": [*({f"/source@sources.{name}.card": name} for name in CONVERSIONS), "_self_"],
        "name": "real",
        "sources": {name: {"weight": 1.0} for name in CONVERSIONS},
    }
    (config / "mixture").mkdir()
    (config / "mixture" / "real.yaml").write_text(yaml.safe_dump(mixture, sort_keys=False))
    small = ["mixture=real" if override == "mixture=toy" else override for override in SMALL]
    folders = [f"data.root={data}", f"run.folder={tmp_path / 'run'}"]
    tokenizers = [f"tokenizer.{which}={tmp_path / 'tokenizers' / which}" for which in ("text", "fast")]
    overrides = ["--config-dir", str(config), "experiment=demo_pretrain", *small, *folders, *tokenizers]
    overrides += ["run.steps=3", "model.action_dim=32"]
    sizes = ["--pieces", "400", "--fast-size", "300"]
    assert main(["tokenizer", "fit", str(tmp_path / "tokenizers"), *overrides, *sizes]) == 0
    assert main(["train", *overrides]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert {f"loss/text/{name}" for name in CONVERSIONS} <= {key for row in rows for key in row}
    capsys.readouterr()
    assert main(["data", "inspect", str(data / "bridge" / "bridge.yaml"), "--root", str(data), "--row", "3"]) == 0
    assert "put" in capsys.readouterr().out
