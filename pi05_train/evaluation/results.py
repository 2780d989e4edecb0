"""What an evaluation found, and the files that hold it.

In a run folder:

    evaluation.json              {"format": 1, "stage", "step", "seconds", "notes", "heldout": [HeldoutResult ...],
                                  "rollouts": [RolloutSummary ...]}
    evaluation/examples.json     {"actions": [ActionExample ...], "texts": [TextExample ...]}
    evaluation/<image>           pictures named by the text examples (PNG)
    evaluation/samples.json      see pi05_train.evaluation.tally

Field names are those of the dataclasses below. Numbers of `evaluation.json` are written in full; the curves in
`examples.json` are rounded to six decimals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pi05_train.errors import UserError
from pi05_train.evaluation.tally import SourceSamples, read_samples, write_samples
from pi05_train.samples.schema import Box

FORMAT = 1
Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Metric:
    """How a held-out number is called and which way is good."""

    title: str
    better: Better
    meaning: str


METRICS: dict[str, Metric] = {
    "text_cross_entropy": Metric(
        "text cross-entropy", "lower", "nats per target token, averaged per sample, then over samples"
    ),
    "fast_cross_entropy": Metric(
        "FAST cross-entropy", "lower", "nats per FAST action token, averaged per sample, then over samples"
    ),
    "token_accuracy": Metric(
        "token accuracy", "higher", "share of target tokens that are the most likely one given the true tokens before"
    ),
    "subtask_exact": Metric(
        "subtask exactly right", "higher", "share of samples whose greedily written subtask is the true one"
    ),
    "answer_exact": Metric(
        "answer exactly right", "higher", "share of samples whose greedily written answer is the true one"
    ),
    "box_iou": Metric(
        "box overlap (IoU)", "higher", "mean over true boxes of the best overlap with a predicted box of the same label"
    ),
    "fast_failure_rate": Metric(
        "FAST undecodable", "lower", "share of greedily written FAST sequences that are no action chunk"
    ),
    "fast_action_error": Metric(
        "FAST action error",
        "lower",
        "root mean square error of normalised actions; an undecodable chunk counts as zeros",
    ),
    "flow_action_error": Metric(
        "flow action error", "lower", "root mean square error of normalised actions after the Euler steps"
    ),
}


@dataclass(frozen=True)
class HeldoutResult:
    """One number on held-out samples of one source, with its two baselines."""

    source: str
    kind: str
    metric: str
    """A key of `METRICS`."""
    value: float
    untrained: float | None
    """The same model class with freshly initialised weights."""
    constant: float | None
    """The best answer that ignores the input, fitted on training data; None where no such answer exists."""
    n: int
    """Samples measured."""
    better: Better

    @property
    def beats_baselines(self) -> bool:
        """True when the value is strictly better than every baseline it has."""
        sign = 1 if self.better == "lower" else -1
        return all(sign * (b - self.value) > 0 for b in (self.untrained, self.constant) if b is not None)


@dataclass(frozen=True)
class RolloutResult:
    """One closed-loop episode."""

    source: str
    task: str
    seed: int
    success: bool
    steps: int
    """Control steps until success, or until the episode was given up."""
    policy: str = "trained"
    """Whose it was: "trained", a mode such as "hierarchical", or a baseline such as "zero actions"."""
    condition: str = "seen"
    """One of `pi05_train.simulation.rooms.CONDITIONS`."""
    environment: str = ""
    command: str = ""
    """What the robot was told."""


@dataclass(frozen=True)
class RolloutSummary:
    """Success of one policy on one task, or on all tasks of a source's simulator (`task` is "")."""

    source: str
    task: str
    policy: str
    """"trained", or the name of a baseline such as "zero actions"."""
    episodes: int
    successes: int
    low: float
    high: float
    """`low` and `high`: 95 % Wilson interval of the success rate."""
    mean_steps: float

    @property
    def rate(self) -> float:
        return self.successes / self.episodes if self.episodes else 0.0


@dataclass(frozen=True)
class ActionExample:
    """One held-out chunk, demonstrated and predicted, in the network's normalised units; real dimensions only."""

    source: str
    key: str
    prompt: str
    rate_hz: float
    truth_hd: NDArray[np.float64]
    valid_h: NDArray[np.bool_]
    flow_hd: NDArray[np.float64] | None = None
    fast_hd: NDArray[np.float64] | None = None
    """None where the FAST tokens were undecodable or not asked for."""
    times: tuple[float, ...] = ()
    denoising_thd: NDArray[np.float64] | None = None
    """x_t at `times`, from noise (t = 1) to data (t = 0)."""


@dataclass(frozen=True)
class TextExample:
    """One held-out picture with the true and the predicted text, boxes in fractions of the picture shown."""

    source: str
    key: str
    image: str
    """File name in the `evaluation` folder."""
    prompt: str
    truth: str
    predicted: str
    true_boxes: tuple[Box, ...] = ()
    predicted_boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """Everything one evaluation found."""

    stage: str
    step: int
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    """Sentences a reader must know to judge the numbers (subset sizes, shortened episodes)."""
    heldout: tuple[HeldoutResult, ...] = ()
    rollouts: tuple[RolloutSummary, ...] = ()
    actions: tuple[ActionExample, ...] = ()
    texts: tuple[TextExample, ...] = ()
    images: Mapping[str, bytes] = field(default_factory=dict)
    """PNG files of the text examples by name."""
    samples: Mapping[str, SourceSamples] = field(default_factory=dict)
    """By source, what the held-out numbers are made of."""


def write_evaluation(run: Path, evaluation: Evaluation) -> Path:
    """Write the files described above into the run folder; returns the path of `evaluation.json`."""
    folder = run / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in evaluation.images.items():
        (folder / name).write_bytes(content)
    examples = {
        "actions": [{k: _plain(v) for k, v in vars(e).items()} for e in evaluation.actions],
        "texts": [asdict(e) for e in evaluation.texts],
    }
    (folder / "examples.json").write_text(json.dumps(examples, allow_nan=False))
    write_samples(run, evaluation.samples)
    table = {
        "format": FORMAT,
        "stage": evaluation.stage,
        "step": evaluation.step,
        "seconds": evaluation.seconds,
        "notes": list(evaluation.notes),
        "heldout": [asdict(row) for row in evaluation.heldout],
        "rollouts": [asdict(row) for row in evaluation.rollouts],
    }
    path = run / "evaluation.json"
    path.write_text(json.dumps(table, indent=2, allow_nan=False) + "\n")
    return path


def read_evaluation(run: Path) -> Evaluation:
    """The evaluation written into the run folder; `UserError` when it is absent or of another format."""
    path = run / "evaluation.json"
    if not path.is_file():
        raise UserError(
            "evaluation", got=f"no {path}", expected="a run folder that was evaluated", do="evaluate the run"
        )
    table = json.loads(path.read_text())
    if table.get("format") != FORMAT:
        raise UserError(
            f"{path}, format", got=table.get("format"), expected=FORMAT, do="evaluate again with this version"
        )
    examples = json.loads((run / "evaluation" / "examples.json").read_text())
    texts = tuple(_text_example(row) for row in examples["texts"])
    return Evaluation(
        stage=table["stage"],
        step=table["step"],
        seconds=table["seconds"],
        notes=tuple(table["notes"]),
        heldout=tuple(HeldoutResult(**row) for row in table["heldout"]),
        rollouts=tuple(RolloutSummary(**row) for row in table["rollouts"]),
        actions=tuple(_action_example(row) for row in examples["actions"]),
        texts=texts,
        images={e.image: (run / "evaluation" / e.image).read_bytes() for e in texts},
        samples=read_samples(run),
    )


def _plain(value: object) -> object:
    if not isinstance(value, np.ndarray):
        return value
    return value.tolist() if value.dtype == bool else np.round(value.astype(np.float64), 6).tolist()


def _action_example(row: dict[str, Any]) -> ActionExample:
    def array(name: str) -> NDArray[np.float64] | None:
        return None if row[name] is None else np.asarray(row[name], dtype=np.float64)

    truth = array("truth_hd")
    assert truth is not None
    return ActionExample(
        **{name: row[name] for name in ("source", "key", "prompt", "rate_hz")},
        truth_hd=truth,
        valid_h=np.asarray(row["valid_h"], dtype=bool),
        flow_hd=array("flow_hd"),
        fast_hd=array("fast_hd"),
        times=tuple(row["times"]),
        denoising_thd=array("denoising_thd"),
    )


def _text_example(row: dict[str, Any]) -> TextExample:
    boxes = {name: tuple(Box(**box) for box in row[name]) for name in ("true_boxes", "predicted_boxes")}
    return TextExample(**{**row, **boxes})
