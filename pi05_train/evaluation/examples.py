"""A few held-out samples with their answers, for a person to look at."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from pi05_train.evaluation.heldout import SourceEvaluation
from pi05_train.evaluation.results import ActionExample, TextExample
from pi05_train.policy.policy import Policy
from pi05_train.processing.example import Example
from pi05_train.samples.schema import CAMERAS, Sample

SHOWN_TIMES = 6


def action_examples(policy: Policy, evaluation: SourceEvaluation, *, count: int, seed: int = 0) -> list[ActionExample]:
    """Up to `count` chunks of a source with actions, the first with its denoising; `seed` as in `evaluate_source`."""
    examples: list[ActionExample] = []
    for place in evenly(len(evaluation.samples), count):
        sample, example = evaluation.samples[place], evaluation.truth.examples[place]
        answers = evaluation.answers
        dims = policy.processor.cards[sample.source].action_dim
        fast = answers.fast[place] if answers.fast else None
        path = None
        times: tuple[float, ...] = ()
        if answers.flow and not examples:
            denoising = policy.denoising(sample, seed + place)
            shown = evenly(len(denoising.times), SHOWN_TIMES)
            times = tuple(denoising.times[i] for i in shown)
            path = denoising.x_THD[shown, :, :dims].astype(np.float64)
        assert example.actions is not None
        assert example.action_mask is not None
        examples.append(
            ActionExample(
                source=sample.source,
                key=sample.key,
                prompt=_prompt(policy, example),
                rate_hz=sample.rate_hz,
                truth_hd=example.actions[:, :dims].astype(np.float64),
                valid_h=example.action_mask[:, 0],
                flow_hd=answers.flow[place][:, :dims].astype(np.float64) if answers.flow else None,
                fast_hd=None if fast is None else fast[:, :dims].astype(np.float64),
                times=times,
                denoising_thd=path,
            )
        )
    return examples


def text_examples(
    policy: Policy, evaluation: SourceEvaluation, *, count: int
) -> tuple[list[TextExample], dict[str, bytes]]:
    """Up to `count` pictures of a text source with true and written text, and their PNG files by name."""
    examples: list[TextExample] = []
    images: dict[str, bytes] = {}
    truth, answers = evaluation.truth, evaluation.answers
    for place in evenly(len(evaluation.samples), count):
        sample, example = evaluation.samples[place], truth.examples[place]
        name = f"{sample.source}-{sample.key}.png"
        images[name] = _picture(policy, sample, example)
        examples.append(
            TextExample(
                source=sample.source,
                key=sample.key,
                image=name,
                prompt=_prompt(policy, example),
                truth=truth.texts[place],
                predicted=answers.texts[place],
                true_boxes=truth.boxes[place],
                predicted_boxes=answers.boxes[place],
            )
        )
    return examples, images


def evenly(total: int, count: int) -> list[int]:
    """Up to `count` different places among `total`, evenly spread from the first to the last."""
    return sorted({round(place) for place in np.linspace(0, total - 1, min(count, total)).tolist()})


def _prompt(policy: Policy, example: Example) -> str:
    return policy.processor.tokens.text.decode(example.prefix_ids)


def _picture(policy: Policy, sample: Sample, example: Example) -> bytes:
    """PNG of the camera that the boxes are on (the first without boxes), as the network sees it."""
    cameras = [c for c in CAMERAS if c in policy.processor.cards[sample.source].cameras and c in sample.images]
    camera = sample.boxes[0].camera if sample.boxes else cameras[0]
    stream = BytesIO()
    Image.fromarray(example.images[cameras.index(camera)].permute(1, 2, 0).numpy()).save(stream, format="PNG")
    return stream.getvalue()
