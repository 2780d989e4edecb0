"""Every kind of sample becomes the published, or the stated, prompt and target."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.config.compose import compose
from pi05_train.errors import UserError
from pi05_train.processing.sequence import build_prompt, build_sequence, parse_high_level, prompt_text, target_text
from pi05_train.processing.templates import Templates
from pi05_train.samples.schema import Box, Sample
from pi05_train.tokenization.boxes import box_text
from pi05_train.tokenization.fast import FastTokenizer, fit_fast_tokenizer
from pi05_train.tokenization.text import TextTokenizer, fit_text_tokenizer
from pi05_train.tokenization.tokens import Tokens
from pi05_train.tokenization.vocabulary import EOS_ID, VocabularyLayout

SHARED = Path(os.environ.get("PI05_SHARED", Path(__file__).resolve().parents[2] / ".." / "shared"))
GOLDEN = SHARED / "golden" / "preprocessing" / "prompt_strings.json"
golden = pytest.mark.skipif(not GOLDEN.is_file(), reason="reference numbers are not present")
TEMPLATES = Templates()
PAPER = compose(["experiment=demo_pretrain", "templates=paper"]).templates
CUP = Box("cup", 0.1, 0.2, 0.3, 0.4)
CHUNK = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
ROBOT = Sample("0_0", "arm", "ME", {}, task="clean the table", control_mode="end effector")
HIGH = Sample("0_0", "arm-hl", "HL", {}, task="clean the kitchen", subtask="pick up the cup", boxes=(CUP,))


class OneIdPerCharacter:
    """Stands in for SentencePiece as the reference numbers' stand-in did."""

    def encode(self, text: str) -> list[int]:
        return [ord(character) + 300 for character in text]

    def get_piece_size(self) -> int:
        return 256000

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i - 300) for i in ids)


@pytest.fixture(scope="module")
def fast() -> FastTokenizer:
    return fit_fast_tokenizer([CHUNK + i for i in range(20)], vocab_size=300)


@pytest.fixture(scope="module")
def characters(fast: FastTokenizer) -> Tokens:
    return Tokens(TextTokenizer(OneIdPerCharacter(), VocabularyLayout(256000, 300)), fast)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tokens(fast: FastTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    corpus = ["Task: clean the table, State: 1 2 3;\nAction: |", "Bounding boxes:\nSubtask: pick up the cup"]
    return Tokens(fit_text_tokenizer(corpus, tmp_path_factory.mktemp("t"), pieces=500, fast_size=300), fast)


def low_level_state(entry: dict[str, Any]) -> np.ndarray:
    return np.array([float.fromhex(value) for value in entry["hex"]], dtype=entry["dtype"])


@golden
def test_low_level_prompts_are_openpis_character_for_character(characters: Tokens) -> None:
    content = json.loads(GOLDEN.read_text())
    for case in content["pi05_prompts"]:
        state = low_level_state(content["states"][case["state"]])
        sample = replace(ROBOT, task=case["prompt"])
        assert prompt_text(sample, TEMPLATES, state) == case["string"]
        ids = build_prompt(sample, templates=TEMPLATES, tokens=characters, state_normalised=state)
        assert len(ids) == case["n_tokens_fake"]
    padded = content["pi05_padded_len100"]
    used = [i for i, valid in zip(padded["fake_ids"], padded["mask"], strict=True) if valid]
    sample = replace(ROBOT, task="pick up the red block")
    assert build_prompt(sample, templates=TEMPLATES, tokens=characters, state_normalised=np.zeros(8)) == used


def test_low_level_target_is_the_chunk_a_bar_and_eos(tokens: Tokens) -> None:
    built = build_sequence(
        ROBOT,
        templates=TEMPLATES,
        tokens=tokens,
        state_normalised=np.zeros(3),
        chunk_normalised=CHUNK,
        boxes=(),
    )
    end = tokens.text.encode("|", eos=True)
    assert built.target_ids[: -len(end)] == tokens.action_ids(CHUNK)
    assert built.target_ids[-len(end) :] == end
    assert tokens.text.decode(built.prefix_ids) == "Task: clean the table, State: 128 128 128;\nAction: "
    decoded = tokens.actions(built.target_ids, horizon=4, dim=3)
    assert decoded is not None
    np.testing.assert_allclose(decoded, CHUNK, atol=0.2)


def test_actions_are_asked_for_with_the_subtask_where_there_is_one() -> None:
    annotated = replace(ROBOT, subtask="wipe_left half")
    assert prompt_text(annotated, TEMPLATES, np.zeros(1)).startswith("Task: wipe left half, State:")


def test_the_papers_control_mode_stands_after_the_task() -> None:
    text = prompt_text(ROBOT, PAPER, np.zeros(1))
    assert text.startswith("Task: clean the table <control mode> end effector <control mode>, State: 128;")


def test_high_level_answers_boxes_before_the_subtask(tokens: Tokens) -> None:
    mug = replace(CUP, label="blue_mug")
    text = target_text(HIGH, TEMPLATES, [CUP, mug])
    assert text == (
        "Bounding boxes:\n<loc0102><loc0205><loc0307><loc0409>cup\n"
        "<loc0102><loc0205><loc0307><loc0409>blue mug\nSubtask: pick up the cup"
    )
    assert prompt_text(HIGH, TEMPLATES, None) == "Task: clean the kitchen. Subtask: "
    assert prompt_text(HIGH, PAPER, None) == "How would you clean the kitchen?\n"
    built = build_sequence(
        HIGH, templates=TEMPLATES, tokens=tokens, state_normalised=None, chunk_normalised=None, boxes=[CUP]
    )
    assert built.target_ids[-1] == EOS_ID
    assert sum(tokens.layout.is_loc(i) for i in built.target_ids) == 4


def test_without_boxes_only_the_subtask_is_said() -> None:
    assert target_text(HIGH, TEMPLATES, []) == "Subtask: pick up the cup"


def test_verbal_instructions_supervise_the_subtask_alone() -> None:
    sample = replace(HIGH, kind="VI", verbal_instruction="no, the other cup")
    assert target_text(sample, TEMPLATES, [CUP]) == "Subtask: pick up the cup"
    text = prompt_text(sample, TEMPLATES, None)
    assert "clean the kitchen" in text
    assert "no, the other cup" in text
    assert "pick up" not in text


def test_web_boxes_are_written_where_the_text_asks() -> None:
    sample = Sample("0", "web", "WD", {}, question="Describe this region: {boxes}", answer="A {blue} cup: {boxes}")
    box = replace(CUP, label="")
    assert prompt_text(sample, TEMPLATES, None, [box]) == f"Describe this region: {box_text(box)}\n"
    assert target_text(sample, TEMPLATES, [box]) == f"A {{blue}} cup: {box_text(box)}"


@pytest.mark.parametrize(
    ("sample", "part"),
    [
        (replace(HIGH, subtask=" "), "subtask"),
        (Sample("0", "web", "WD", {}, question="What?"), "answer"),
    ],
)
def test_nothing_to_learn_is_refused(sample: Sample, part: str) -> None:
    with pytest.raises(UserError, match=part):
        target_text(sample, TEMPLATES, [])


def test_an_instruction_nobody_spoke_is_refused() -> None:
    with pytest.raises(UserError, match="verbal_instruction"):
        prompt_text(replace(HIGH, kind="VI"), TEMPLATES, None)


def test_a_template_that_needs_a_state_refuses_a_sample_without() -> None:
    with pytest.raises(UserError, match="no state"):
        prompt_text(ROBOT, TEMPLATES, None)


labels = st.text("abc de", min_size=1, max_size=8).map(str.strip).filter(bool)
boxes = st.builds(Box, labels, *[st.integers(0, 1023).map(lambda b: b / 1023)] * 4)


@given(st.lists(boxes, max_size=4), labels)
@settings(max_examples=50, deadline=None)
def test_high_level_answers_can_be_parsed(written: list[Box], subtask: str) -> None:
    text = target_text(replace(HIGH, subtask=subtask), TEMPLATES, written)
    read, found = parse_high_level(text)
    assert found == subtask
    assert [box.label for box in read] == [box.label for box in written]
    assert [box_text(box) for box in read] == [box_text(box) for box in written]


@pytest.mark.parametrize(
    ("text", "subtask"),
    [
        ("", ""),
        ("pick up the cup", "pick up the cup"),
        ("Subtask:", ""),
        ("Subtask: a\nb", "a"),
        ("<loc0001>\n\n x", "x"),
    ],
)
def test_odd_answers_still_give_a_subtask(text: str, subtask: str) -> None:
    assert parse_high_level(text) == ([], subtask)
