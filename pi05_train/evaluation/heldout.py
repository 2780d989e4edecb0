"""Numbers on held-out samples, source by source, each beside its two baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pi05_train.evaluation.answers import Answers, Truth, ask, truth_of
from pi05_train.evaluation.baselines import ConstantPredictor, fit_constant
from pi05_train.evaluation.metrics import aligned_accuracy, best_match_iou, masked_rmse, squared_errors
from pi05_train.evaluation.results import METRICS, HeldoutResult
from pi05_train.evaluation.tally import SourceSamples, Tally, mean_tally
from pi05_train.model.half import to_bfloat16
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.policy import Chunk, Policy
from pi05_train.samples.schema import Sample

Scores = dict[str, Tally]
"""By metric name."""


@dataclass(frozen=True)
class SourceEvaluation:
    """One source's held-out samples: what is true, what was answered, how good that is."""

    samples: tuple[Sample, ...]
    truth: Truth
    answers: Answers
    results: tuple[HeldoutResult, ...]
    scores: Scores

    @property
    def by_sample(self) -> SourceSamples:
        """The policy's scores with what identifies the samples."""
        samples = self.samples
        return SourceSamples(tuple(s.key for s in samples), tuple(s.episode for s in samples), self.scores)


def evaluate_heldout(
    policy: Policy,
    heldout: Mapping[str, Sequence[Sample]],
    training: Mapping[str, Sequence[Sample]],
    *,
    max_text_tokens: int,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, SourceEvaluation]:
    """Evaluate every source of `heldout`; constant baselines are fitted on `training`, which has the same sources.

    Flow errors are measured when the model has an expert. `progress` hears the name of each source before it starts.
    """
    untrained = untrained_policy(policy, seed=seed)
    found = {}
    for source, samples in heldout.items():
        if progress is not None:
            progress(source)
        found[source] = evaluate_source(
            policy, untrained, list(samples), list(training[source]), max_text_tokens=max_text_tokens, seed=seed
        )
    return found


def evaluate_source(
    policy: Policy,
    untrained: Policy,
    samples: Sequence[Sample],
    training: Sequence[Sample],
    *,
    max_text_tokens: int,
    seed: int = 0,
) -> SourceEvaluation:
    """Evaluate one source; all samples are of it."""
    truth, learned = truth_of(policy.processor, samples), truth_of(policy.processor, training)
    constant = fit_constant(learned, policy.model.config.vocab_size)
    # Untrained weights rarely stop: twice the longest training answer is room enough for a trained one.
    max_fast_tokens = 2 * max(len(example.target_ids) for example in learned.examples)
    limit = max_fast_tokens if truth.has_actions else max_text_tokens
    answers = ask(policy, samples, truth, max_tokens=limit, seed=seed)
    scores = score(answers, truth)
    fresh = score(ask(untrained, samples, truth, max_tokens=limit, seed=seed), truth)
    fixed = constant_scores(constant, truth)
    results = tuple(
        HeldoutResult(
            source=samples[0].source,
            kind=samples[0].kind,
            metric=metric,
            value=tally.value,
            untrained=fresh[metric].value,
            constant=fixed.get(metric),
            n=tally.n,
            better=METRICS[metric].better,
        )
        for metric, tally in scores.items()
    )
    return SourceEvaluation(tuple(samples), truth, answers, results, scores)


def untrained_policy(policy: Policy, *, seed: int) -> Policy:
    """The same kind of policy with freshly initialised weights."""
    model = Pi05(policy.model.config, expert=policy.has_expert)
    model.init_weights(seed)
    if policy.model.embedding.weight.dtype == torch.bfloat16:
        to_bfloat16(model)
    return Policy(
        model.to(policy.device).eval(),
        policy.processor,
        euler_steps=policy.euler_steps,
        batch_samples=policy.batch_samples,
    )


def score(answers: Answers, truth: Truth) -> Scores:
    """Every metric that applies to the source."""
    scores: Scores = {}
    entropy = mean_tally([judged.cross_entropy for judged in answers.judged])
    if truth.has_actions:
        if answers.fast:
            scores["fast_cross_entropy"] = entropy
            scores["fast_failure_rate"] = mean_tally([chunk is None for chunk in answers.fast])
            scores["fast_action_error"] = squared_errors(
                _zeros_for_none(answers.fast, truth), truth.chunks, truth.masks
            )
        if answers.flow:
            scores["flow_action_error"] = squared_errors(answers.flow, truth.chunks, truth.masks)
        return scores
    right = [said == true for said, true in zip(answers.answers, truth.answers, strict=True)]
    scores = {
        "text_cross_entropy": entropy,
        "token_accuracy": mean_tally([judged.accuracy for judged in answers.judged]),
        truth.exactness: mean_tally(right),
    }
    if any(truth.boxes):
        pairs = zip(answers.boxes, truth.boxes, strict=True)
        overlaps = tuple(sum(best_match_iou(said, true)) for said, true in pairs)
        scores["box_iou"] = Tally(overlaps, tuple(float(len(boxes)) for boxes in truth.boxes))
    return scores


def constant_scores(constant: ConstantPredictor, truth: Truth) -> dict[str, float]:
    """The same metrics for the constant predictor; it writes no FAST tokens, so it has no failure rate."""
    targets = [example.target_ids for example in truth.examples]
    entropy = 0.0
    if constant.unigram is not None:
        entropy = float(np.mean([constant.unigram.cross_entropy(target) for target in targets]))
    if truth.has_actions:
        assert constant.chunk_HD is not None
        error = masked_rmse([constant.chunk_HD] * len(targets), truth.chunks, truth.masks)
        return {"fast_cross_entropy": entropy, "fast_action_error": error, "flow_action_error": error}
    scores = {
        "text_cross_entropy": entropy,
        "token_accuracy": float(np.mean([aligned_accuracy(constant.target, target) for target in targets])),
        truth.exactness: float(np.mean([answer == constant.answer for answer in truth.answers])),
    }
    overlaps = [o for true in truth.boxes for o in best_match_iou(tuple(constant.boxes.values()), true)]
    return scores | ({"box_iou": float(np.mean(overlaps))} if overlaps else {})


def _zeros_for_none(chunks: Sequence[Chunk | None], truth: Truth) -> list[Chunk]:
    """openpi's rule: what cannot be decoded acts as a normalised chunk of zeros."""
    return [np.zeros_like(true) if chunk is None else chunk for chunk, true in zip(chunks, truth.chunks, strict=True)]
