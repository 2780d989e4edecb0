"""A made-up study on disk: runs as the trainer and the evaluation leave them, with chosen differences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pi05_train.evaluation.intervals import wilson
from pi05_train.evaluation.results import METRICS, Evaluation, HeldoutResult, RolloutSummary, write_evaluation
from pi05_train.evaluation.tally import SourceSamples, Tally, mean_tally

KINDS = {"arm": "MM", "tasks <b>": "HL", "web": "WD"}
SAMPLES, EPISODES = 40, 10
SUCCESSES = {"none": 15, "no_web": 6, "alpha_2": 16}


def make_study(folder: Path, **settings: dict[str, Any]) -> None:
    """Runs none, no_web and alpha_2; `settings` changes some run's keys, e.g. none={"run.seed": 1}."""
    write_run(folder / "none", **settings.get("none", {}))
    write_run(folder / "no_web", without="web", worse=0.4, **settings.get("no_web", {}))
    write_run(folder / "alpha_2", **{"stage.objective.alpha": 2.0} | settings.get("alpha_2", {}))
    (folder / ".jobs").mkdir()
    (folder / "multirun.yaml").write_text("hydra: {}\n")


def write_run(folder: Path, *, without: str = "", worse: float = 0.0, **settings: Any) -> None:
    """A run that lacks a source, and is worse than it might be by about so much."""
    folder.mkdir(parents=True)
    keys = {
        "run.folder": str(folder), "run.seed": 0, "data.global_batch_samples": 16, "data.normalisation": "quantile",
        "data.read_group": 1, "stage.objective.alpha": 10.0, "mixture.without": [],
    }  # fmt: skip
    keys |= {"mixture.without": [KINDS[without]]} if without else {}
    keys |= settings
    config: dict[str, Any] = {}
    for key, value in keys.items():
        room, _, name = key.partition(".")
        config.setdefault(room, {})[name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    sources = [name for name in KINDS if name != without]
    order = {"seed": keys["run.seed"], "rows": "aa", "read_group": keys["data.read_group"], "schedule_version": 1}
    mixture = [
        {
            "source": name,
            "kind": KINDS[name],
            "share": 1 / len(sources),
            "samples": 9,
            "order": order | {"shards": name},
        }
        for name in sources
    ]
    (folder / "mixture.json").write_text(json.dumps(mixture))
    prints = {"arm/norm_stats.json": "s", "tokenizer.text": keys.get("tokenizer.text", "t"), "tokenizer.fast": "f"}
    (folder / "fingerprints.json").write_text(json.dumps(dict.fromkeys(sources, "x") | prints))
    rng = np.random.default_rng(len(folder.name))
    with (folder / "metrics.jsonl").open("w") as stream:
        for step in range(100):
            losses = {f"loss/text/{name}": 3 * np.exp(-step / 30) + 1 + worse + rng.normal() / 9 for name in sources}
            losses |= {"loss/flow/arm": np.exp(-step / 20) + worse}
            stream.write(json.dumps({"step": step, **losses}) + "\n")
    write_evaluation(folder, evaluation(sources, worse, SUCCESSES.get(folder.name, 9)))


def evaluation(sources: list[str], worse: float, successes: int) -> Evaluation:
    """Scores of the same samples in every run: theirs, plus how much worse the run is, plus a little of its own."""
    samples, rows = {}, []
    for source in sources:
        hard = np.random.default_rng(len(source)).uniform(1, 3, SAMPLES)
        own = np.random.default_rng([len(source), round(100 * worse)]).uniform(-0.05, 0.05, SAMPLES)
        scores = hard + worse + own
        tallies = {"text_cross_entropy": mean_tally(scores.tolist())}
        if KINDS[source] == "MM":
            entropy = tallies.pop("text_cross_entropy")
            counts = np.arange(1.0, SAMPLES + 1)
            errors = Tally(tuple((counts * scores**2).tolist()), tuple(counts.tolist()), root=True)
            tallies = {"fast_cross_entropy": entropy, "flow_action_error": errors}
        keys = tuple(f"{place // 4:08d}_{place % 4:06d}" for place in range(SAMPLES))
        samples[source] = SourceSamples(keys, tuple(place % EPISODES for place in range(SAMPLES)), tallies)
        rows += [
            HeldoutResult(source, KINDS[source], name, t.value, 9.0, 5.0, t.n, METRICS[name].better)
            for name, t in tallies.items()
        ]
    own_policy = RolloutSummary("arm", "", "trained", 20, successes, *wilson(successes, 20), 50.0)
    rollouts = [
        replace(own_policy, task=task, policy=policy)
        for task in ("", "reach")
        for policy in ("trained", "zero actions")
    ]
    return Evaluation("posttrain", 100, heldout=tuple(rows), rollouts=tuple(rollouts), samples=samples)
