"""`pi05 demo`: the whole road once. Every phase leaves its result in the folder, so that a second call skips it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pi05_train.checkpoint.run_state import latest
from pi05_train.commands.computing import Computing
from pi05_train.commands.data import index, simulate
from pi05_train.commands.evaluate import measure
from pi05_train.commands.tokenizer import fit
from pi05_train.config.compose import compose
from pi05_train.config.schema import Config
from pi05_train.data.fitting.tokenizer_fit import FastOptions
from pi05_train.engine.world import ALONE
from pi05_train.evaluation.results import read_evaluation
from pi05_train.report.table import results_table
from pi05_train.report.write import write_report
from pi05_train.simulation.settings import SOURCES
from pi05_train.train import train

TITLE = "pi05 demo: the π0.5 recipe, small but real"
NOTES = (
    "Everything here is small so that it runs in minutes on two CPU cores: a network about a thousand times smaller "
    "than π0.5, trained from random weights on simulated demonstrations. The recipe is the real one; the success "
    "rates are not what π0.5 reaches.",
)
STAGES = ("pretrain", "posttrain")
PIECES, FAST_SIZE = 1000, 512
"""Sizes of the demo's tokenizers, in ids."""


@dataclass(frozen=True)
class Phase:
    """A part of the road: what it is, how to do it, and whether its result is already there."""

    name: str
    explanation: str
    run: Callable[[], object]
    done: Callable[[], bool]


def demo(folder: str) -> None:
    """Run, or go on with, the demo in `folder`; prints a table of results and the path of the report."""
    root, console = Path(folder), Console()
    root.mkdir(parents=True, exist_ok=True)
    phases = _phases(root)
    for number, phase in enumerate(phases, 1):
        console.rule(f"{number}/{len(phases)} {phase.name}", align="left")
        if phase.done():
            console.print("already done", style="dim")
            continue
        console.print(phase.explanation, style="dim")
        begin = time.monotonic()
        try:
            phase.run()
        finally:
            _add_seconds(root, phase.name, time.monotonic() - begin)
        if not phase.done():  # SIGTERM: training has saved and returned
            raise KeyboardInterrupt
    console.rule("Results", align="left")
    for stage in STAGES:
        console.print(results_table(read_evaluation(root / stage)))
    console.print(f"Report: {write_report(root)}", soft_wrap=True)


def _phases(root: Path) -> list[Phase]:
    data, tokenizers = root / "data", root / "tokenizers"
    pretrain, posttrain = (_config(root, stage) for stage in STAGES)
    horizon = pretrain.model.action_horizon
    return [
        Phase(
            "simulate",
            "Record demonstrations in Fetch, MetaWorld and ALOHA; derive subtasks, boxes, corrections and web samples.",
            lambda: _whole(data, lambda folder: simulate(str(folder), seed=pretrain.run.seed, workers=2)),
            data.is_dir,
        ),
        Phase(
            "index",
            "Address every sample, and compute the normalisation statistics of every source with actions.",
            lambda: index(SOURCES, str(data), horizon=horizon),
            lambda: all((data / source / "index.json").is_file() for source in SOURCES),
        ),
        Phase(
            "tokenizers",
            "Fit a small SentencePiece model and FAST (DCT + BPE) on the training samples.",
            lambda: _whole(tokenizers, lambda folder: fit(folder, pretrain, FastOptions(FAST_SIZE), pieces=PIECES)),
            tokenizers.is_dir,
        ),
        _training(
            "pre-train", "FAST tokens, subtasks, boxes and answers under cross-entropy; no action expert.", pretrain
        ),
        _training("post-train", "The action expert joins: flow matching with alpha 10 under insulation.", posttrain),
        _evaluation(
            "evaluate pre-training", "Held-out episodes against fresh weights and a constant answer.", pretrain
        ),
        _evaluation("evaluate post-training", "Held-out episodes, then closed loop in the simulators.", posttrain),
    ]


def _config(root: Path, stage: str) -> Config:
    paths = {
        "run.folder": root / stage,
        "data.root": root / "data",
        "tokenizer.text": root / "tokenizers" / "text",
        "tokenizer.fast": root / "tokenizers" / "fast",
    }
    if stage == "posttrain":
        paths["run.start_from"] = root / "pretrain"
    return compose([f"experiment=demo_{stage}", *(f"{key}='{path}'" for key, path in paths.items())])


def _training(name: str, explanation: str, config: Config) -> Phase:
    run = Path(config.run.folder)
    return Phase(name, explanation, lambda: train(config, ALONE), lambda: latest(run) == config.run.steps)


def _evaluation(name: str, explanation: str, config: Config) -> Phase:
    run = Path(config.run.folder)
    return Phase(
        name,
        explanation,
        lambda: measure(run, ema=True, computing=Computing.of(None, None)),
        (run / "evaluation.json").is_file,
    )


def _whole(folder: Path, make: Callable[[Path], object]) -> None:
    """Make a folder under another name and rename it when it is complete: what was cut off never counts as done."""
    partial = folder.with_name(f"{folder.name}.partial")
    make(partial)
    partial.rename(folder)


def _add_seconds(root: Path, phase: str, seconds: float) -> None:
    """Keep the report's plan up to date; an interrupted phase's time counts too."""
    path = root / "report.json"
    plan = json.loads(path.read_text()) if path.is_file() else {"seconds": {}}
    plan |= {"title": TITLE, "stages": STAGES, "notes": NOTES}
    plan["seconds"][phase] = plan["seconds"].get(phase, 0.0) + seconds
    path.write_text(json.dumps(plan, indent=1, ensure_ascii=False) + "\n")
