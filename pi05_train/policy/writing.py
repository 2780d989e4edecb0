"""Text and FAST tokens after packed prompts; the prefix runs through the network once.

Shape letters: B segments, R answers being written (several per segment for the best of several), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pi05_train.model.batch import Batch
from pi05_train.model.cache import PrefixCache
from pi05_train.model.pi05 import Pi05
from pi05_train.model.precision import at_least_float32
from pi05_train.policy.rules import AnswerRules
from pi05_train.tokenization.vocabulary import EOS_ID

Choose = Callable[[Tensor], Tensor]
"""From scores [R, V] to one id per answer."""


@dataclass
class Answer:
    """Ids without the stop id, and how likely the network found them."""

    ids: list[int] = field(default_factory=list)
    log_likelihoods: list[float] = field(default_factory=list)
    """Of every id and of the stop id, among the ids that were allowed."""
    finished: bool = False

    @property
    def score(self) -> float:
        """Mean over the ids, so that a short answer is not better for its length."""
        return float(np.mean(self.log_likelihoods)) if self.log_likelihoods else 0.0


@torch.inference_mode()
def write_most_likely(
    model: Pi05, batch: Batch, *, max_tokens: int, rules: AnswerRules | None = None, stop_id: int = EOS_ID
) -> list[list[int]]:
    """The most likely id, again and again, after every prefix: at most `max_tokens` ids each, without the stop id.

    Without `rules` any id may be written: FAST tokens are.
    """
    answers = _write(
        model, model.prefill(batch), batch, lambda scores_RV: scores_RV.argmax(-1), max_tokens, rules, stop_id
    )
    return [answer.ids for answer in answers]


@torch.inference_mode()
def write_best(
    model: Pi05,
    batch: Batch,
    seeds: Sequence[int],
    *,
    candidates: int,
    temperature: float,
    max_tokens: int,
    rules: AnswerRules | None,
) -> list[list[int]]:
    """The likeliest of `candidates` answers drawn after every prefix, which is read once for all of them.

    `seeds` has one per segment. Ids are drawn from the network's distribution at `temperature`; what is compared is
    the mean log-likelihood of an answer's ids at temperature 1.
    """
    generators = [np.random.default_rng((seed, number)) for seed in seeds for number in range(candidates)]

    def draw(scores_RV: Tensor) -> Tensor:
        shares_RV = (scores_RV / temperature).softmax(-1).cumsum(-1)
        uniform_R = torch.tensor([rng.random() for rng in generators], dtype=shares_RV.dtype).to(shares_RV.device)
        return torch.searchsorted(shares_RV, (uniform_R * shares_RV[:, -1])[:, None], right=True)[:, 0]

    cache = model.prefill(batch).repeated(candidates)
    answers = _write(model, cache, batch, draw, max_tokens, rules, EOS_ID)
    groups = [answers[start : start + candidates] for start in range(0, len(answers), candidates)]
    return [max(group, key=lambda answer: answer.score).ids for group in groups]


def _write(
    model: Pi05,
    cache: PrefixCache,
    batch: Batch,
    choose: Choose,
    max_tokens: int,
    rules: AnswerRules | None,
    stop_id: int,
) -> list[Answer]:
    answers = [Answer() for _ in cache.owners]
    kinds = [batch.segments[owner].kind for owner in cache.owners]
    logits_RV = model.first_logits(cache)
    for step in range(max_tokens):
        scores_RV = at_least_float32(logits_RV)
        if rules is not None:
            scores_RV = rules.mask(scores_RV, [answer.ids for answer in answers], kinds)
        ids_R = choose(scores_RV)
        chosen_R = scores_RV.log_softmax(-1).gather(-1, ids_R[:, None])[:, 0]
        for answer, kind, token, likelihood in zip(answers, kinds, ids_R.tolist(), chosen_R.tolist(), strict=True):
            _append(answer, kind, token, likelihood, rules, stop_id)
        if step == max_tokens - 1 or all(answer.finished for answer in answers):
            break
        # Finished answers keep decoding: their tokens are not read, and the batch keeps its shape.
        logits_RV = model.decode(cache, ids_R)
    return answers


def _append(answer: Answer, kind: str, token: int, likelihood: float, rules: AnswerRules | None, stop_id: int) -> None:
    if answer.finished:
        return
    answer.log_likelihoods.append(likelihood)
    if token == stop_id:
        answer.finished = True
        return
    answer.ids.append(token)
    answer.finished = rules is not None and rules.finished(answer.ids, kind)
