"""A made-up two-stage run on disk, as the trainer and the evaluation leave it."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from pi05_train.evaluation.intervals import wilson
from pi05_train.evaluation.results import (
    METRICS,
    ActionExample,
    Evaluation,
    HeldoutResult,
    RolloutSummary,
    TextExample,
    write_evaluation,
)
from pi05_train.samples.schema import Box

SOURCES = {
    "fetch_mobile": "MM",
    "metaworld": "CE",
    "fetch_subtasks": "HL",
    "web_shapes": "WD",
}
REQUESTED = dict(zip(SOURCES, (0.024, 0.55, 0.2, 0.226), strict=True))
REALISED = dict(zip(SOURCES, (0.025, 0.538, 0.206, 0.231), strict=True))


def heldout() -> tuple[HeldoutResult, ...]:
    rng = np.random.default_rng(0)
    rows = []
    for source, kind in SOURCES.items():
        names = ("fast_cross_entropy", "fast_failure_rate", "fast_action_error", "flow_action_error")
        if kind == "HL":
            names = ("text_cross_entropy", "token_accuracy", "subtask_exact", "box_iou")
        if kind == "WD":
            names = ("text_cross_entropy", "token_accuracy", "answer_exact")
        for name in names:
            better = METRICS[name].better
            a, b, c = sorted(rng.uniform(0.05, 1, 3).tolist())
            value, constant, untrained = (a, b, c) if better == "lower" else (c, b, a)
            if name == "fast_failure_rate":
                rows.append(HeldoutResult(source, kind, name, value, untrained, None, 64, better))
            else:
                rows.append(HeldoutResult(source, kind, name, value, untrained, constant, 64, better))
    return (*rows, HeldoutResult("metaworld", "CE", "token_accuracy", 0.31, 0.0012, 0.4, 64, "higher"))


def rollouts() -> tuple[RolloutSummary, ...]:
    rows = []
    for simulator, task, good in [
        ("Fetch", "", 14),
        ("Fetch", "reach", 9),
        ("MetaWorld", "", 7),
        ("MetaWorld", "door <b>", 3),
    ]:
        n = 20 if task == "" else 10
        for policy, successes in (("trained", good), ("zero actions", 1 if task == "" else 0)):
            rows.append(RolloutSummary(simulator, task, policy, n, successes, *wilson(successes, n), 61.5))
    return tuple(rows)


def action_example(source: str, dims: int, horizon: int = 50) -> ActionExample:
    rng = np.random.default_rng(dims)
    truth = np.cumsum(rng.normal(size=(horizon, dims)), axis=0) / 8
    flow = truth + 0.1 * np.cumsum(rng.normal(size=(horizon, dims)), axis=0) / 8
    noise = rng.normal(size=(horizon, dims))
    times = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
    fast = truth + 0.05 if dims < 8 else None
    return ActionExample(
        source=source, key="00000012_000030", prompt="Task: open the drawer, State: 12 200 31;\nAction: ", rate_hz=20.0,
        truth_hd=truth, valid_h=np.arange(horizon) < horizon - 8, flow_hd=flow, fast_hd=fast,
        times=times, denoising_thd=np.stack([t * noise + (1 - t) * flow for t in times]),
    )  # fmt: skip


def picture(seed: int) -> bytes:
    pixels = np.full((96, 96, 3), 60 + 20 * seed, dtype=np.uint8)
    pixels[20:50, 10:40] = (200, 80, 60)
    pixels[55:85, 50:90] = (60, 120, 200)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def text_example(seed: int) -> TextExample:
    return TextExample(
        source="fetch_subtasks",
        key=f"{seed:08d}_000000",
        image=f"fetch_subtasks-{seed}.png",
        prompt="Task: put the <cup> & plate away. Subtask: ",
        truth="Bounding boxes:\n<loc0200><loc0100><loc0500><loc0400>cup\nSubtask: grasp the cup",
        predicted="Bounding boxes:\n<loc0210><loc0120><loc0520><loc0430>cup\nSubtask: grasp the plate",
        true_boxes=(Box("cup", 0.2, 0.1, 0.52, 0.42), Box("plate", 0.57, 0.52, 0.89, 0.94)),
        predicted_boxes=(Box("cup", 0.22, 0.12, 0.55, 0.46),),
    )


def write_stage(folder: Path, *, expert: bool, steps: int = 400) -> None:
    folder.mkdir()
    rng = np.random.default_rng(1)
    with (folder / "metrics.jsonl").open("w") as stream:
        for step in range(10, steps + 1, 2):
            row = {"step": step, "loss/total": 3.0, "speed/samples_per_second": 38.2 + rng.normal()}
            row |= {"speed/tokens_per_second": 2950.0 + rng.normal(), "speed/data_wait": 0.021 + rng.uniform(0, 0.01)}
            row |= {f"share/{source}": share for source, share in REALISED.items()}
            for i, (source, kind) in enumerate(SOURCES.items()):
                row[f"loss/text/{source}"] = (4 - i / 2) * np.exp(-step / 150) + 0.4 + rng.normal() / 12
                if expert and kind in ("MM", "CE"):
                    row[f"loss/flow/{source}"] = 1.4 * np.exp(-step / 120) + 0.2 + rng.normal() / 20
            stream.write(json.dumps(row) + "\n")
    mixture = [
        {"source": source, "kind": SOURCES[source], "share": share, "samples": 812, "licence": "CC0-1.0"}
        for source, share in REQUESTED.items()
    ]
    (folder / "mixture.json").write_text(json.dumps(mixture))
    (folder / "config.yaml").write_text("run:\n  name: <demo> & more\nstage:\n  name: x\n")
    versions = [{"python": "3.10.1"}, {"python": "3.11.9", "torch": "2.11.0", "code": "1a2b3c4"}]
    (folder / "code_version.json").write_text(json.dumps(versions))


def make_run(folder: Path) -> None:
    """A folder with two stages and `report.json`."""
    write_stage(folder / "pretrain", expert=False)
    write_stage(folder / "posttrain", expert=True)
    write_evaluation(folder / "pretrain", Evaluation("pretrain", 400, heldout=heldout()[:3]))
    texts = tuple(text_example(i) for i in range(4))
    write_evaluation(
        folder / "posttrain",
        Evaluation(
            stage="posttrain",
            step=400,
            seconds=61.2,
            notes=("Each simulator task was tried 10 times: the intervals are wide.",),
            heldout=heldout(),
            rollouts=rollouts(),
            actions=(action_example("fetch_mobile", 11), action_example("metaworld", 4)),
            texts=texts,
            images={e.image: picture(i) for i, e in enumerate(texts)},
        ),
    )
    plan = {
        "title": "Demo <run> & friends",
        "stages": ["pretrain", "posttrain"],
        "seconds": {"making data": 62.4, "pretrain": 241.9, "posttrain": 203.1, "evaluation": 61.2},
        "notes": ["The network is about a thousand times smaller than the published one."],
    }
    (folder / "report.json").write_text(json.dumps(plan))
