"""What FAST loses and how many tokens it takes, on real robot files and on the demo's simulated ones.

Each source is converted, its chunks of about a second padded to 32 dims, as training sees them; FAST is fitted on it
at several scales, and the published tokenizer is measured beside, on chunks that no fit has taken.

Run: uv run python -m benchmarks.fast_reconstruction --files FOLDER --published FOLDER [--demo runs/demo/data]
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml

from pi05_train.commands.data import index
from pi05_train.commands.main import main as pi05
from pi05_train.config.build import shard_statistics
from pi05_train.config.compose import compose
from pi05_train.config.schema import Config
from pi05_train.config.sources import read_card
from pi05_train.data.fitting.fast_report import Measured
from pi05_train.data.fitting.tokenizer_check import measure_sources
from pi05_train.data.fitting.tokenizer_fit import FastOptions, fit_fast
from pi05_train.data.order.mixture import Mixture
from pi05_train.samples.card import SourceCard
from pi05_train.tokenization.fast import FastTokenizer

REAL = {
    "bridge": (5, ["rlds", "octo_bridge_rlds", "--dataset", "bridge"]),
    "g1": (30, ["lerobot", "unitree_g1_lerobot_v21", "--allow-missing"]),
    "lbm": (10, ["webdataset", "small_lbm_webdataset", "--dataset", "lbm"]),
}
"""Horizon and conversion."""
DEMO = {"sim_fetch": 10, "sim_metaworld": 10, "sim_aloha": 50}
COLUMNS = (
    "source", "horizon", "dims", "checked on", "tokenizer", "RMSE", "p99", "largest", "worst dim", "tokens",
    "binning / tokens",
)  # fmt: skip
SCALES, VOCABULARY, ACTION_DIM = (3, 10, 30), 1024, 32


def main() -> None:
    """Print the settings and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--demo", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        configs = [_converted(Path(name), options.files, source) for source in REAL]
        configs += [_simulated(Path(name), options.demo, source) for source in DEMO] if options.demo else []
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, numpy "
            f"{np.__version__}, load average {os.getloadavg()[0]:.1f}; vocabulary {VOCABULARY}, padded to "
            f"{ACTION_DIM} dims"
        )
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        for config in configs:
            _measure(config, FastTokenizer.load(options.published))


def _converted(root: Path, files: Path, source: str) -> Config:
    horizon, (format, folder, *more) = REAL[source]
    arguments = [format, str(files / folder), str(root / source), "--name", source, "--kind", "CE", *more]
    assert pi05(["data", "convert", *arguments, "--horizon", str(horizon), "--workers", "1"]) == 0
    return _config(root, read_card(str(root / source / f"{source}.yaml")), horizon)


def _simulated(root: Path, demo: Path, source: str) -> Config:
    shutil.copytree(demo / source, root / source)
    index([source], str(root), horizon=DEMO[source])
    return _config(root, read_card(source), DEMO[source])


def _config(root: Path, card: SourceCard, horizon: int) -> Config:
    """Of a mixture of this source alone."""
    groups, source = root / "config", card.name
    for group in ("source", "mixture"):
        (groups / group).mkdir(parents=True, exist_ok=True)
    (groups / "source" / f"{source}.yaml").write_text(yaml.safe_dump(asdict(card)))
    mixture = {
        "defaults": [{f"/source@sources.{source}.card": source}, "_self_"],
        "name": source,
        "sources": {source: {"weight": 1.0}},
    }
    (groups / "mixture" / f"{source}.yaml").write_text(yaml.safe_dump(mixture, sort_keys=False))
    sizes = [f"model.action_horizon={horizon}", f"model.action_dim={ACTION_DIM}"]
    return compose(["experiment=demo_pretrain", f"mixture={source}", f"data.root={root}", *sizes], str(groups))


def _measure(config: Config, published: FastTokenizer) -> None:
    mixture, statistics = Mixture.open(config.mixture, Path(config.data.root)), shard_statistics(config)
    (name,) = statistics
    start = time.perf_counter()
    measured = measure_sources(config, statistics, mixture, published, [name], max_error=1)[name]
    seconds = time.perf_counter() - start
    rows = [("published, scale 10", measured)]
    for scale in SCALES:
        fitted = fit_fast(config, statistics, mixture, FastOptions(VOCABULARY, scale, name, max_error=1))[1]
        rows.append((f"fitted, scale {scale}", fitted[name]))
    for tokenizer, one in rows:
        print(_row(name, mixture.cards[name].action_dim, tokenizer, one))
    print(f"{name}: {measured.result.chunks} chunks measured in {seconds:.2f} s", flush=True)


def _row(name: str, dims: int, tokenizer: str, one: Measured) -> str:
    result = one.result
    assert result.normalised is not None
    assert not result.undecodable
    sizes = [f"{size:.4f}" for size in (result.normalised.rmse, result.normalised.p99, result.normalised.largest)]
    cells = [name, str(one.horizon), str(dims), one.rows, tokenizer, *sizes, f"{result.worst_rmse:.4f}"]
    return "| " + " | ".join([*cells, f"{result.tokens_mean:.1f}", f"{result.compression:.1f}"]) + " |"


if __name__ == "__main__":
    main()
