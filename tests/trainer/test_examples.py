"""Predictions to look at: what they hold and where they are written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pi05_train.policy.policy import Policy
from pi05_train.samples.schema import Sample
from pi05_train.trainer.examples import PER_SOURCE, Prediction, predict, write_predictions
from tests.policy.toy_policy import toy_policy, toy_samples

SOURCES = ("toy_arm", "toy_subtasks", "toy_web")


def heldout() -> dict[str, list[Sample]]:
    return {name: [s for s in toy_samples(name) if s.split == "heldout"][:PER_SOURCE] for name in SOURCES}


@pytest.fixture(scope="module")
def predictions() -> dict[str, list[Prediction]]:
    found = predict(toy_policy(1), heldout(), max_text_tokens=4)
    return {name: [p for p in found if p.source == name] for name in SOURCES}


def test_every_source_is_shown_with_what_the_policy_says(predictions: dict[str, list[Prediction]]) -> None:
    samples, policy = heldout(), toy_policy(1)
    for name in SOURCES:
        assert [p.key for p in predictions[name]] == [s.key for s in samples[name]]
    assert [p.predicted for p in predictions["toy_web"]] == policy.text(samples["toy_web"], 4)
    assert [p.truth.strip() for p in predictions["toy_web"]] == [s.answer for s in samples["toy_web"]]
    assert all(p.chunk is None for name in SOURCES[1:] for p in predictions[name])
    assert all(p.chunk is not None and p.truth == p.predicted == "" for p in predictions["toy_arm"])


def test_true_boxes_are_drawn_where_they_are(predictions: dict[str, list[Prediction]]) -> None:
    sample, shown = heldout()["toy_subtasks"][0], predictions["toy_subtasks"][0]
    box = sample.boxes[0]
    assert f"{box.label}" in shown.truth
    height, width, _ = shown.picture.shape
    assert height == width == 224, "enlarged to be seen"
    # The toy pictures are square, so resizing with padding moves no box.
    top, left = round(box.y_min * (height - 1)), round(box.x_min * (width - 1))
    middle = round((box.x_min + box.x_max) / 2 * (width - 1))
    assert (shown.picture[top + 1, middle] == 255).all() or (shown.picture[top, middle] == 255).all()
    assert (shown.picture[top + 2 : top + 6, left] == 255).all() or (
        shown.picture[top + 2 : top + 6, left + 1] == 255
    ).all()


def test_the_chunk_shown_is_the_prediction_against_the_demonstration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that is right draws another picture than one that is not, and the same picture every time."""
    samples = {"toy_arm": heldout()["toy_arm"][:1]}
    policy = toy_policy(1)
    [wrong], [again] = (predict(policy, samples, max_text_tokens=4) for _ in range(2))
    assert wrong.chunk is not None
    assert np.array_equal(wrong.chunk, again.chunk)
    horizon = policy.model.config.action_horizon
    monkeypatch.setattr(Policy, "actions", lambda _, some, seeds: [s.actions[:horizon] for s in some])  # noqa: ARG005
    [right] = predict(policy, samples, max_text_tokens=4)
    assert not np.array_equal(wrong.chunk, right.chunk)


def test_predictions_are_made_in_the_precision_of_the_run_and_draw_no_random_number() -> None:
    with_expert, without = toy_policy(1), toy_policy(1, expert=False)
    before = torch.get_rng_state()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = predict(with_expert, heldout(), max_text_tokens=4)
    assert len(found) == PER_SOURCE * len(SOURCES)
    predict(without, heldout(), max_text_tokens=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_an_expert_fast_tokens_are_asked_for_and_no_chunk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "fast_actions", lambda _, some, max_tokens: [None] * len(some))  # noqa: ARG005
    samples = {"toy_arm": heldout()["toy_arm"]}
    for shown in predict(toy_policy(1, expert=False), samples, max_text_tokens=4):
        assert shown.predicted == "(no action chunk)"
        assert shown.chunk is not None, "the demonstration is drawn all the same"


def test_files_hold_every_sample_and_a_second_writing_replaces_the_first(
    predictions: dict[str, list[Prediction]], tmp_path: Path
) -> None:
    everything = [p for name in SOURCES for p in predictions[name]]
    write_predictions(tmp_path / "step-1", [replace(p, predicted="earlier") for p in everything])
    write_predictions(tmp_path / "step-1", everything)
    rows = json.loads((tmp_path / "step-1" / "examples.json").read_text())
    assert [tuple(row.values()) for row in rows] == [p.cells() for p in everything]
    for p in everything:
        for name, picture in p.pictures().items():
            assert np.array_equal(
                np.asarray(Image.open(tmp_path / "step-1" / f"{p.source}-{p.key}-{name}.png")), picture
            )
