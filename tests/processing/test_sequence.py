"""Every kind of sample becomes the published, or the stated, prompt and target."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.config.compose import compose
from pi05_train.errors import UserError
from pi05_train.processing.limit import TokenLimit
from pi05_train.processing.sequence import (
    build_prompt,
    build_sequence,
    parse_actions,
    parse_high_level,
    prompt_text,
    target_text,
)
from pi05_train.processing.templates import Templates
from pi05_train.samples.schema import Box, Sample
from pi05_train.tokenization.boxes import box_text
from pi05_train.tokenization.fast import FastTokenizer, fit_fast_tokenizer
from pi05_train.tokenization.text import TextTokenizer, fit_text_tokenizer
from pi05_train.tokenization.tokens import Tokens
from pi05_train.tokenization.vocabulary import EOS_ID, LEGACY_SKIP, VocabularyLayout
from tests.golden_numbers import golden_json

TEMPLATES = Templates()
PAPER, PI0, PI0_FAST = (
    compose(["experiment=demo_pretrain", f"templates={name}"]).templates for name in ("paper", "pi0", "pi0_fast")
)
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


class FixedFast:
    """Gives the FAST ids that the reference numbers were made with."""

    vocab_size = 2048

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def encode(self, chunk_HD: np.ndarray) -> list[int]:
        assert chunk_HD.ndim == 2
        return self.ids

    def decode(self, ids: list[int], *, horizon: int, dim: int) -> np.ndarray | None:
        return np.array(ids, np.float64)[: horizon * dim].reshape(horizon, dim) if len(ids) == horizon * dim else None


def legacy_characters(fast_ids: list[int]) -> Tokens:
    layout = VocabularyLayout(256000, 2048, LEGACY_SKIP, allow_overlap=True)
    return Tokens(TextTokenizer(OneIdPerCharacter(), layout), FixedFast(fast_ids))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def strings() -> dict[str, Any]:
    content: dict[str, Any] = golden_json("preprocessing/prompt_strings")
    return content


def low_level_state(strings: dict[str, Any], name: str) -> np.ndarray:
    entry = strings["states"][name]
    return np.array([float.fromhex(value) for value in entry["hex"]], dtype=entry["dtype"])


def unpadded(case: dict[str, Any], name: str = "fake_ids") -> list[int]:
    """openpi pads with id 0 and mask False; our sequences simply end."""
    kept = [i for i, valid in zip(case[name], case["mask"], strict=True) if valid]
    assert not any(case["fake_ids"][len(kept) :])
    assert all(case["mask"][: len(kept)])
    return kept


def test_pi05_prompts_are_openpis_character_for_character(characters: Tokens, strings: dict[str, Any]) -> None:
    for case in strings["pi05_prompts"]:
        state = low_level_state(strings, case["state"])
        sample = replace(ROBOT, task=case["prompt"])
        assert prompt_text(sample, TEMPLATES, state) == case["string"]
        ids = build_prompt(sample, templates=TEMPLATES, tokens=characters, state_normalised=state)
        assert len(ids) == case["n_tokens_fake"]
    sample = replace(ROBOT, task="pick up the red block")
    for name, limit in (("pi05_padded_len100", 100), ("pi05_truncated_len40", 40)):
        ids = build_prompt(
            sample,
            templates=TEMPLATES,
            tokens=characters,
            state_normalised=np.zeros(8),
            limit=TokenLimit(limit, with_target=False),
        )
        assert ids == unpadded(strings[name])


@pytest.mark.parametrize("state", [None, np.zeros(8)], ids=["without state", "with a state nobody writes"])
def test_pi0_prompts_are_openpis_id_for_id(
    characters: Tokens, strings: dict[str, Any], state: np.ndarray | None
) -> None:
    """Also those of a pi0.5 without discrete state."""
    for case in strings["pi0_prompts"]:
        sample = replace(ROBOT, task=case["prompt"])
        assert [prompt_text(sample, PI0, state), PI0.low_level_separator] == case["strings_encoded"]
        ids = build_prompt(sample, templates=PI0, tokens=characters, state_normalised=state)
        assert ids == unpadded(case)


def test_pi0_fast_sequences_are_openpis_id_for_id(strings: dict[str, Any]) -> None:
    for case in strings["fast_prompts"]:
        tokens = legacy_characters(case["fake_fast_ids"])
        state = low_level_state(strings, case["state"])
        sample = replace(ROBOT, task=case["prompt"])
        ids, causal, learned = (unpadded(case, name) for name in ("fake_ids", "ar_mask", "loss_mask"))
        prefix = build_prompt(sample, templates=PI0_FAST, tokens=tokens, state_normalised=state)
        assert prompt_text(sample, PI0_FAST, state) == case["strings_encoded"][0]
        assert prefix == [i for i, target in zip(ids, causal, strict=True) if not target]
        assert causal == [int(bit) for bit in learned]
        if case["with_actions"]:
            built = build_sequence(
                sample, templates=PI0_FAST, tokens=tokens, state_normalised=state, chunk_normalised=CHUNK, boxes=()
            )
            assert [PI0_FAST.low_level_begin, PI0_FAST.low_level_end] == case["strings_encoded"][1:]
            assert built.prefix_ids + built.target_ids == ids
            assert len(built.target_ids) == sum(causal)
    table = strings["act_tokens_to_paligemma"]
    assert [legacy_characters([]).layout.fast_id(token) for token in table["in"]] == table["out"]


@pytest.mark.parametrize("length", [10, 60, 66, 74, 120])
def test_pi0_fast_is_cut_as_a_whole(strings: dict[str, Any], length: int) -> None:
    """openpi counts prefix and target together; what is left of both is the beginning of the uncut sequence."""
    case = next(c for c in strings["fast_prompts"] if c["with_actions"])
    sample, limit = replace(ROBOT, task=case["prompt"]), TokenLimit(length, with_target=True)
    built = build_sequence(
        sample,
        templates=PI0_FAST,
        tokens=legacy_characters(case["fake_fast_ids"]),
        state_normalised=low_level_state(strings, case["state"]),
        chunk_normalised=CHUNK,
        boxes=(),
        limit=limit,
    )
    ids = unpadded(case)
    assert built.prefix_ids + built.target_ids == ids[:length]
    assert len(built.target_ids) == sum(unpadded(case, "ar_mask")[:length])
    assert limit.samples_cut["arm"] == (length < len(ids))
    if length == 10:
        assert built.prefix_ids == unpadded(strings["fast_truncated_len10"])


def test_a_cut_is_told_once_per_source_and_counted(characters: Tokens, caplog: pytest.LogCaptureFixture) -> None:
    limit = TokenLimit(20, with_target=False)
    with caplog.at_level(logging.WARNING):
        for source in ("arm", "arm", "gripper"):
            prompt = build_prompt(
                replace(ROBOT, source=source),
                templates=TEMPLATES,
                tokens=characters,
                state_normalised=np.zeros(3),
                limit=limit,
            )
            assert len(prompt) == 20
        built = build_sequence(
            HIGH,
            templates=TEMPLATES,
            tokens=characters,
            state_normalised=None,
            chunk_normalised=None,
            boxes=(),
            limit=limit,
        )
    assert len(built.prefix_ids) == 20
    assert built.target_ids[-1] == EOS_ID, "a target of its own is never cut"
    assert limit.samples_cut == {"arm": 2, "gripper": 1, "arm-hl": 1}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert "source arm: a text of 52 tokens is cut to model.max_prompt_tokens=20" in messages[0]


def test_generated_pi0_fast_answers_are_read_after_their_first_words() -> None:
    """The cases of openpi's extract_actions, on ids: no "Action: ", a bar, nothing behind the bar, a wrong length."""
    tokens = legacy_characters([7, 0, 2047, 3])
    layout, encode = tokens.layout, tokens.text.encode
    fast = [layout.fast_id(token) for token in (7, 0, 2047, 3)]
    expected = np.array([[7.0, 0], [2047, 3]])

    def read(ids: list[int]) -> np.ndarray | None:
        return parse_actions(ids, templates=PI0_FAST, tokens=tokens, horizon=2, dim=2)

    for ids in (
        encode("Action: ") + fast + encode("|", eos=True),
        encode("Action: ") + fast,
        encode("so, Action: ") + fast + encode("| Action: ") + fast[:2],
    ):
        np.testing.assert_array_equal(read(ids), expected)
    for ids in (fast, [], encode("Action: |"), encode("Action: ") + fast[:3], encode("Action:") + fast):
        assert read(ids) is None


def test_fast_sees_native_dims_when_asked(tokens: Tokens) -> None:
    native, padded = replace(tokens, native_dims=True), np.pad(CHUNK, ((0, 0), (0, 4)))
    built = build_sequence(
        ROBOT,
        templates=PI0_FAST,
        tokens=native,
        state_normalised=np.zeros(3),
        chunk_normalised=padded,
        boxes=(),
        native_dim=3,
    )
    begin = tokens.text.encode("Action: ")
    assert built.target_ids[: len(begin)] == begin
    assert built.target_ids[len(begin) :] == tokens.action_ids(CHUNK) + tokens.text.encode("|", eos=True)
    read = parse_actions(built.target_ids, templates=PI0_FAST, tokens=native, horizon=4, dim=7, native_dim=3)
    assert read is not None
    assert read.shape == padded.shape
    assert not read[:, 3:].any()
    np.testing.assert_allclose(read, padded, atol=0.2)
    assert (
        built.target_ids
        != build_sequence(
            ROBOT,
            templates=PI0_FAST,
            tokens=tokens,
            state_normalised=np.zeros(3),
            chunk_normalised=padded,
            boxes=(),
            native_dim=3,
        ).target_ids
    )


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
