"""Predictions for a few held-out samples while a run trains, for a person to look at.

The network answers as it stands; nothing is drawn from the random state, so the numbers of training stay what they are.
In the run folder, with or without a tracker:

    examples/step-00000100/examples.json   one object per sample: source, key, prompt, truth, predicted
    examples/step-00000100/*.png           its picture with boxes, and its action chunk

Shape letters: H horizon, D the source's action dims.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pi05_train.config.schema import Config
from pi05_train.data.loading.loader import heldout_samples
from pi05_train.data.loading.reader import Reader
from pi05_train.data.order.mixture import Mixture
from pi05_train.policy.policy import Chunk, Policy
from pi05_train.processing.example import Example
from pi05_train.samples.schema import ACTION_KINDS, CAMERAS, Sample
from pi05_train.tokenization.boxes import parse_boxes

PER_SOURCE = 2
COLUMNS = ("source", "key", "prompt", "truth", "predicted")
TRUE_COLOUR, PREDICTED_COLOUR = "#ffffff", "#ffb000"
SHOWN_PIXELS = 224
"""Smaller pictures are enlarged to about this size, so that boxes and labels can be told apart."""

Picture = NDArray[np.uint8]
"""[height, width, 3]."""


@dataclass(frozen=True)
class Prediction:
    """One held-out sample, what is true of it and what was predicted."""

    source: str
    key: str
    prompt: str
    truth: str
    """The target text; of an action chunk nothing."""
    predicted: str
    """The written text; of an action chunk nothing, or that the written FAST tokens are none."""
    picture: Picture
    """As the network sees it; true boxes white, predicted ones yellow."""
    chunk: Picture | None
    """Demonstrated and predicted actions in physical units; None for a source without actions."""

    def cells(self) -> tuple[str, ...]:
        """The values of `COLUMNS`."""
        return self.source, self.key, self.prompt, self.truth, self.predicted

    def pictures(self) -> dict[str, Picture]:
        """Everything to look at, by name."""
        return {"picture": self.picture} | ({} if self.chunk is None else {"chunk": self.chunk})


class Shows(Protocol):
    """Whoever is shown predictions: a tracker."""

    def show(self, step: int, predictions: Sequence[Prediction]) -> None: ...


def example_maker(config: Config, policy: Policy, folder: Path, watchers: Sequence[Shows]) -> Callable[[int], None]:
    """Called after every step with the steps done; every `logger.examples_every_steps` (not 0) it predicts and tells.

    Refuses, before any step, a mixture in which a source has no held-out samples.
    """
    heldout = Mixture.of(config, split="heldout")
    samples = heldout_samples(heldout, Reader(heldout), PER_SOURCE)
    bf16 = config.engine.precision == "bf16"

    def after_step(done: int) -> None:
        if done % config.logger.examples_every_steps:
            return
        with torch.autocast(policy.device.type, dtype=torch.bfloat16, enabled=bf16):
            predictions = predict(policy, samples, max_text_tokens=config.evaluation.max_text_tokens)
        write_predictions(folder / "examples" / f"step-{done:08d}", predictions)
        for watcher in watchers:
            watcher.show(done - 1, predictions)

    return after_step


def predict(
    policy: Policy, samples: Mapping[str, Sequence[Sample]], *, max_text_tokens: int, seed: int = 0
) -> list[Prediction]:
    """Predictions for the samples of every source that the stage trains something of."""
    found: list[Prediction] = []
    for some in samples.values():
        examples = [policy.processor(sample, key=(0,), training=False) for sample in some]
        if some[0].kind in ACTION_KINDS:
            chunks = _chunks(policy, some, examples, seed)
            found += [_of_actions(policy, *parts) for parts in zip(some, examples, chunks, strict=True)]
        elif all(example.target_ids for example in examples):
            texts = policy.text(some, max_text_tokens)
            found += [_of_text(policy, *parts) for parts in zip(some, examples, texts, strict=True)]
    return found


def write_predictions(folder: Path, predictions: Sequence[Prediction]) -> None:
    """Write the files described above; what an earlier process wrote for the same step is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for prediction in predictions:
        for name, picture in prediction.pictures().items():
            Image.fromarray(picture).save(folder / f"{prediction.source}-{prediction.key}-{name}.png")
    rows = [dict(zip(COLUMNS, prediction.cells(), strict=True)) for prediction in predictions]
    (folder / "examples.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def _chunks(
    policy: Policy, samples: Sequence[Sample], examples: Sequence[Example], seed: int
) -> Sequence[Chunk | None]:
    """From the expert, or without one from FAST tokens, of which an untrained network would write without end."""
    if policy.has_expert:
        return policy.actions(samples, range(seed, seed + len(samples)))
    return policy.fast_actions(samples, max_tokens=2 * max(len(example.target_ids) for example in examples))


def _of_actions(policy: Policy, sample: Sample, example: Example, chunk_HD: Chunk | None) -> Prediction:
    return Prediction(
        source=sample.source,
        key=sample.key,
        prompt=_prompt(policy, example),
        truth="",
        predicted="(no action chunk)" if chunk_HD is None else "",
        picture=_draw_boxes(policy, sample, example, "", ""),
        chunk=_draw_chunk(sample, policy.model.config.action_horizon, chunk_HD),
    )


def _of_text(policy: Policy, sample: Sample, example: Example, predicted: str) -> Prediction:
    truth = policy.processor.tokens.text.decode(example.target_ids)
    return Prediction(
        source=sample.source,
        key=sample.key,
        prompt=_prompt(policy, example),
        truth=truth,
        predicted=predicted,
        picture=_draw_boxes(policy, sample, example, truth, predicted),
        chunk=None,
    )


def _prompt(policy: Policy, example: Example) -> str:
    return policy.processor.tokens.text.decode(example.prefix_ids)


def _draw_boxes(policy: Policy, sample: Sample, example: Example, truth: str, predicted: str) -> Picture:
    """The camera that the sample's boxes are on (the first without boxes), with the boxes of both texts."""
    cameras = [c for c in CAMERAS if c in policy.processor.cards[sample.source].cameras and c in sample.images]
    camera = sample.boxes[0].camera if sample.boxes else cameras[0]
    picture = Image.fromarray(example.images[cameras.index(camera)].permute(1, 2, 0).numpy())
    picture = picture.resize([side * max(1, SHOWN_PIXELS // picture.width) for side in picture.size])
    draw = ImageDraw.Draw(picture)
    right, bottom = picture.width - 1, picture.height - 1
    for text, colour in ((truth, TRUE_COLOUR), (predicted, PREDICTED_COLOUR)):
        for box in parse_boxes(text):
            left, right_of = sorted((box.x_min * right, box.x_max * right))
            top, bottom_of = sorted((box.y_min * bottom, box.y_max * bottom))
            draw.rectangle((left, top, right_of, bottom_of), outline=colour, width=2)
            draw.text((left + 3, top + 1), box.label, fill=colour)
    return np.asarray(picture)


def _draw_chunk(sample: Sample, horizon: int, predicted_HD: Chunk | None) -> Picture:
    """One panel per action dimension; what lies beyond the episode's end is not drawn of the demonstration."""
    assert sample.actions is not None
    assert sample.action_valid is not None
    truth_HD = sample.actions[:horizon]
    valid = int(sample.action_valid[:horizon].sum())
    dims = truth_HD.shape[1]
    columns = min(dims, 4)
    rows = -(-dims // columns)
    figure = Figure(figsize=(2.2 * columns, 0.6 + 1.5 * rows), dpi=80, layout="constrained")
    panels: Any = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
    for dim, axis in enumerate(panels):
        if dim >= dims:
            axis.set_visible(False)
            continue
        axis.plot(truth_HD[:valid, dim], color="black", linewidth=2.0, label="demonstrated")
        if predicted_HD is not None:
            axis.plot(predicted_HD[:, dim], color="#d95f02", linewidth=1.4, label="predicted")
        axis.set_title(f"dimension {dim + 1}", fontsize=8)
        axis.tick_params(labelsize=7)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize=8)
    figure.supxlabel("control steps", fontsize=8)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
