from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pi05_train.evaluation.answers import Answers, truth_of
from pi05_train.evaluation.baselines import fit_constant
from pi05_train.evaluation.evaluate import evaluate_policy
from pi05_train.evaluation.heldout import constant_scores, evaluate_source, score, untrained_policy
from pi05_train.evaluation.results import METRICS, Evaluation, HeldoutResult, read_evaluation, write_evaluation
from pi05_train.evaluation.teacher import TeacherForced
from tests.policy.toy_policy import HORIZON, toy_policy, toy_processor, toy_samples
from tests.synthetic import CARDS

METRICS_OF = {
    "toy_mobile": {"fast_cross_entropy", "fast_failure_rate", "fast_action_error", "flow_action_error"},
    "toy_subtasks": {"text_cross_entropy", "token_accuracy", "subtask_exact", "box_iou"},
    "toy_verbal": {"text_cross_entropy", "token_accuracy", "subtask_exact"},
    "toy_web": {"text_cross_entropy", "token_accuracy", "answer_exact"},
}


def split(source: str) -> tuple[list, list]:
    samples = toy_samples(source)
    return [s for s in samples if s.split == "heldout"], [s for s in samples if s.split == "train"][:12]


@pytest.mark.parametrize("source", METRICS_OF)
def test_every_metric_of_a_source_has_its_baselines(source: str) -> None:
    heldout, training = split(source)
    rows = evaluate_source(toy_policy(3), toy_policy(0), heldout, training, max_text_tokens=8).results
    assert {row.metric for row in rows} == METRICS_OF[source]
    for row in rows:
        assert row.untrained is not None
        assert (row.constant is None) == (row.metric == "fast_failure_rate")
        assert row.n == len(heldout)
        assert (row.source, row.kind, row.better) == (source, CARDS[source].kind, METRICS[row.metric].better)


def test_the_untrained_baseline_is_the_same_network_with_fresh_weights() -> None:
    heldout, training = split("toy_arm")
    policy = toy_policy(7)
    for row in evaluate_source(policy, untrained_policy(policy, seed=7), heldout, training, max_text_tokens=8).results:
        assert row.value == pytest.approx(row.untrained, rel=1e-6), row
        assert not row.beats_baselines


def test_without_an_expert_there_is_no_flow_error_but_fast_is_still_compared_with_the_demonstration() -> None:
    heldout, training = split("toy_arm")
    policy = toy_policy(expert=False)
    rows = evaluate_source(policy, policy, heldout, training, max_text_tokens=8).results
    assert {row.metric for row in rows} == METRICS_OF["toy_mobile"] - {"flow_action_error"}


@pytest.mark.parametrize("source", ["toy_arm", "toy_subtasks", "toy_web"])
def test_the_truth_itself_scores_perfectly(source: str) -> None:
    truth = truth_of(toy_processor(), toy_samples(source)[:6])
    perfect = Answers(
        judged=(TeacherForced(0.0, 1.0),) * 6,
        texts=truth.texts,
        answers=truth.answers,
        boxes=truth.boxes,
        fast=tuple(truth.chunks) if truth.has_actions else (),
        flow=tuple(truth.chunks) if truth.has_actions else (),
    )
    for metric, tally in score(perfect, truth).items():
        assert tally.value == pytest.approx(1.0 if METRICS[metric].better == "higher" else 0.0), metric


def test_undecodable_fast_tokens_count_as_zero_actions() -> None:
    truth = truth_of(toy_processor(), toy_samples("toy_arm")[:4])
    judged = (TeacherForced(1.0, 0.5),) * 4
    none = score(Answers(judged, fast=(None,) * 4), truth)
    zeros = score(Answers(judged, fast=tuple(np.zeros_like(chunk) for chunk in truth.chunks)), truth)
    assert (none["fast_failure_rate"].value, none["fast_failure_rate"].n) == (1.0, 4)
    assert (zeros["fast_failure_rate"].value, zeros["fast_failure_rate"].n) == (0.0, 4)
    assert none["fast_action_error"] == zeros["fast_action_error"]


def test_a_constant_source_is_answered_perfectly_by_the_constant_predictor() -> None:
    truth = truth_of(toy_processor(), [toy_samples("toy_subtasks")[0]] * 5)
    scores = constant_scores(fit_constant(truth, 10_000), truth)
    assert scores["subtask_exact"] == scores["token_accuracy"] == 1.0
    assert scores["box_iou"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("better", "value", "untrained", "constant", "wins"),
    [
        ("lower", 0.1, 0.2, 0.3, True),
        ("lower", 0.2, 0.2, 0.3, False),
        ("higher", 0.4, 0.2, 0.3, True),
        ("higher", 0.25, 0.2, 0.3, False),
        ("lower", 0.1, 0.2, None, True),
    ],
)
def test_a_number_must_beat_every_baseline(
    better: str, value: float, untrained: float, constant: float | None, wins: bool
) -> None:
    row = HeldoutResult("s", "MM", "flow_action_error", value, untrained, constant, 3, better)  # type: ignore[arg-type]
    assert row.beats_baselines is wins


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    sources = ("toy_mobile", "toy_subtasks", "toy_web")
    splits = {source: split(source) for source in sources}
    return evaluate_policy(
        toy_policy(2),
        stage="posttrain",
        step=12,
        heldout={source: heldout for source, (heldout, _) in splits.items()},
        training={source: training for source, (_, training) in splits.items()},
        max_text_tokens=8,
        examples_per_source=2,
    )


def test_an_evaluation_is_read_back_as_it_was_written(evaluation: Evaluation, tmp_path: Path) -> None:
    write_evaluation(tmp_path, evaluation)
    read = read_evaluation(tmp_path)
    assert (read.heldout, read.texts, read.images, read.notes) == (
        evaluation.heldout,
        evaluation.texts,
        evaluation.images,
        evaluation.notes,
    )
    for a, b in zip(read.actions, evaluation.actions, strict=True):
        assert replace(a, truth_hd=None, valid_h=None, flow_hd=None, fast_hd=None, denoising_thd=None) == replace(  # type: ignore[arg-type]
            b, truth_hd=None, valid_h=None, flow_hd=None, fast_hd=None, denoising_thd=None  # type: ignore[arg-type]
        )  # fmt: skip
        np.testing.assert_allclose(a.truth_hd, b.truth_hd, atol=1e-6)
        assert a.truth_hd.shape == (HORIZON, CARDS[a.source].action_dim)
        np.testing.assert_array_equal(a.valid_h, b.valid_h)


def test_the_samples_kept_make_up_every_number(evaluation: Evaluation, tmp_path: Path) -> None:
    write_evaluation(tmp_path, evaluation)
    kept = read_evaluation(tmp_path).samples
    assert kept == evaluation.samples
    for row in evaluation.heldout:
        tally = kept[row.source].tallies[row.metric]
        assert (tally.value, tally.n) == (row.value, row.n)
        assert len(tally.totals) == len(kept[row.source].keys) == len(kept[row.source].episodes)


def test_the_denoising_shown_ends_in_the_prediction_shown(evaluation: Evaluation) -> None:
    example = evaluation.actions[0]
    assert example.denoising_thd is not None
    assert example.flow_hd is not None
    assert example.times[0] == 1.0
    assert example.times[-1] == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(example.denoising_thd[-1], example.flow_hd, atol=1e-4)


def test_every_text_example_has_its_picture(evaluation: Evaluation) -> None:
    assert {example.source for example in evaluation.texts} == {"toy_subtasks", "toy_web"}
    assert {example.image for example in evaluation.texts} == set(evaluation.images)
