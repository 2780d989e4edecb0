from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pi05_train.model.batch import Batch, SegmentInfo
from pi05_train.model.pi05 import Pi05
from pi05_train.policy.rules import AnswerRules, Next
from pi05_train.policy.writing import write_best, write_most_likely
from pi05_train.samples.schema import Sample
from tests.policy.toy_policy import toy_policy, toy_processor, toy_samples

VOCABULARY = 12
STOP = 1


class Speller:
    """A network that writes given scripts, one per segment, then the stop id for ever."""

    def __init__(self, scripts: list[list[int]]) -> None:
        self.scripts, self.decoded = scripts, 0
        self.segments = [SegmentInfo("made", "WD", str(i), i) for i in range(len(scripts))]
        self.owners: Sequence[int] = range(len(scripts))

    def prefill(self, _: Any) -> Speller:
        return self

    def first_logits(self, _: Any) -> Tensor:
        ids = [script[self.decoded] if self.decoded < len(script) else STOP for script in self.scripts]
        return torch.nn.functional.one_hot(torch.tensor(ids), VOCABULARY).float()

    def decode(self, _: Any, token_ids: Tensor) -> Tensor:
        assert token_ids.shape == (len(self.scripts),)
        self.decoded += 1
        return self.first_logits(None)


def write(model: Speller, *, max_tokens: int) -> list[list[int]]:
    return write_most_likely(cast(Pi05, model), cast(Batch, model), stop_id=STOP, max_tokens=max_tokens)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(2, VOCABULARY - 1), max_size=6), min_size=1, max_size=4), st.integers(1, 8))
def test_every_segment_stops_at_its_own_stop_id_or_at_the_limit(scripts: list[list[int]], limit: int) -> None:
    model = Speller(scripts)
    assert write(model, max_tokens=limit) == [script[:limit] for script in scripts]
    assert model.decoded <= limit - 1


def test_nothing_after_the_stop_id_is_returned() -> None:
    assert write(Speller([[3, STOP, 4, 5], [6, 7, 8, 9]]), max_tokens=4) == [[3], [6, 7, 8, 9]]


def toy_rules() -> AnswerRules:
    processor = toy_processor()
    return AnswerRules(processor.tokens, processor.templates, processor.model.vocab_size)


def hl_samples() -> list[Sample]:
    return [sample for sample in toy_samples("toy_subtasks") if sample.boxes][:8]


@pytest.mark.parametrize("source", ["toy_subtasks", "toy_verbal", "toy_web"])
def test_every_answer_of_the_data_may_be_written(source: str) -> None:
    rules = toy_rules()
    for sample in toy_samples(source):
        *target, stop = toy_processor()(sample, key=(0,), training=False).target_ids
        for place, token in enumerate([*target, stop]):
            assert not rules.forbidden[rules.next(target[:place], sample.kind), token], (sample.key, place)
            assert not rules.finished(target[:place], sample.kind)


def test_positions_come_in_fours_and_only_where_a_box_may_stand() -> None:
    rules, text = toy_rules(), toy_processor().tokens.text
    box = "<loc0001><loc0002><loc0003><loc0004>"
    expected = {
        "": Next.WORDS,
        "Bounding boxes:": Next.WORDS,
        "Bounding boxes:\n": Next.ANYTHING,
        "Bounding boxes:\n<loc0001>": Next.POSITION,
        "Bounding boxes:\n<loc0001><loc0002><loc0003>": Next.POSITION,
        f"Bounding boxes:\n{box}": Next.WORDS,
        f"Bounding boxes:\n{box}cup": Next.WORDS,
        f"Bounding boxes:\n{box}cup\n": Next.ANYTHING,
        f"Bounding boxes:\n{box}cup\nSubtask:": Next.WORDS,
        f"Bounding boxes:\n{box}cup\nSubtask: pick\n": Next.WORDS,
        "pick up\n": Next.WORDS,
    }
    for written, what in expected.items():
        assert rules.next(text.encode(written), "HL") == what, written
    assert rules.next(text.encode("a cup at "), "WD") == Next.ANYTHING
    assert rules.next(text.encode("Subtask: "), "VI") == Next.WORDS


def test_a_subtask_is_one_line() -> None:
    rules, text = toy_rules(), toy_processor().tokens.text
    assert rules.finished(text.encode("Subtask: pick up the cup\n"), "HL")
    assert not rules.finished(text.encode("Subtask: \n"), "HL")
    assert not rules.finished(text.encode("two lines\nof words\n"), "WD")


@pytest.mark.parametrize("source", ["toy_subtasks", "toy_web", "toy_verbal"])
def test_any_network_writes_only_whole_boxes_in_their_places_and_no_action_tokens(source: str) -> None:
    policy = toy_policy(seed=3)
    layout = policy.processor.tokens.layout
    with torch.no_grad():  # every FAST token and every position is more likely than any word
        policy.model.embedding.weight[layout.fast_range.start : layout.seg_start] *= 30
    samples = toy_samples(source)[:3]
    texts = policy.text(samples, max_tokens=9)
    texts += policy.best_text(samples, [1, 2, 3], 9, candidates=2, temperature=2.0)
    for text in texts:
        assert "<fast" not in text
        runs = re.findall(r"(?:<loc\d{4}>)+", text)
        assert all(len(run) == 4 * len("<loc0000>") for run in runs[:-1])
        assert not runs or source == "toy_web"


def test_the_best_of_several_is_the_likeliest_of_what_each_seed_draws() -> None:
    policy, samples = toy_policy(seed=3), hl_samples()[:3]
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 1.5}
    chosen = policy.best_text(samples, [1, 2, 3], candidates=4, **options)
    assert chosen == policy.best_text(samples, [1, 2, 3], candidates=4, **options)
    assert chosen != policy.best_text(samples, [4, 5, 6], candidates=4, **options)
    alone = [
        policy.best_text([s], [seed], candidates=4, **options)[0] for s, seed in zip(samples, [1, 2, 3], strict=True)
    ]
    assert chosen == alone
    cold = policy.best_text(samples, [1, 2, 3], candidates=1, max_tokens=6, temperature=1e-4)
    assert cold == policy.text(samples, max_tokens=6)


def test_of_several_answers_the_likeliest_is_taken() -> None:
    """Every id of an answer is 2, 3 or 4, the later the likelier: one draw in 3 is no 4, the best of 64 is all 4."""

    class Dice(Speller):
        def first_logits(self, _: Any) -> Tensor:
            scores = torch.full((len(self.owners), VOCABULARY), float("-inf"))
            scores[:, 2:5] = torch.tensor([1.0, 2.0, 3.0])
            return scores

        def decode(self, _: Any, token_ids: Tensor) -> Tensor:
            assert len(token_ids) == len(self.owners)
            return self.first_logits(None)

        def repeated(self, answers: int) -> Dice:
            self.owners = [owner for owner in self.owners for _ in range(answers)]
            return self

    def best(candidates: int) -> list[list[int]]:
        model = Dice([[], []])
        return write_best(
            cast(Pi05, model), cast(Batch, model), [1, 2],
            candidates=candidates, temperature=1.0, max_tokens=4, rules=None,
        )  # fmt: skip

    assert best(64) == [[4] * 4, [4] * 4]
    assert best(1) != best(64)
