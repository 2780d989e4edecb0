"""The small text tokenizer: lossless, deterministic, quiet, and its manifest is checked."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pi05_train.errors import UserError
from pi05_train.processing.templates import clean
from pi05_train.resources import resource
from pi05_train.tokenization.manifest import read_manifest, tokenizer_fingerprint
from pi05_train.tokenization.text import TextTokenizer, fit_text_tokenizer
from pi05_train.tokenization.vocabulary import BOS_ID, EOS_ID, LEGACY_SKIP
from tests.golden_numbers import golden_json

CORPUS = [
    f"Task: put the {colour} cube in the bowl, State: {i} {(7 * i) % 256} {(11 * i) % 256};\nAction: "
    for i in range(256)
    for colour in ("red", "green")
]
BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
words = st.text(st.characters(exclude_characters=BLANK, exclude_categories=["Cs"]), max_size=30)
special = st.sampled_from(["<loc0000>", "<loc1023>", "<seg127>", "<loc1024>", "<s>", "</s>", "<unk>", "<0x0A>", "\n"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("text")
    fit_text_tokenizer(CORPUS, target, pieces=800, fast_size=256)
    return target


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> TextTokenizer:
    return TextTokenizer.load(folder)


@given(st.lists(words | special, max_size=6))
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back(tokenizer: TextTokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    ids = tokenizer.encode(text, bos=True, eos=True)
    assert (ids[0], ids[-1]) == (BOS_ID, EOS_ID)
    assert tokenizer.decode(ids) == text
    assert not any(tokenizer.layout.is_fast(i) for i in ids)


def test_box_tokens_are_single_ids(tokenizer: TextTokenizer) -> None:
    layout = tokenizer.layout
    assert tokenizer.encode("<loc0007><seg005>") == [layout.loc_id(7), layout.seg_id(5)]


def test_state_numbers_are_single_tokens(tokenizer: TextTokenizer) -> None:
    assert len(tokenizer.encode(" 128 200 17")) <= 6


@given(st.lists(st.integers(-5, 5000), max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_ids_can_be_read(tokenizer: TextTokenizer, ids: list[int]) -> None:
    text = tokenizer.decode(ids)
    for token_id in ids:
        if tokenizer.layout.is_fast(token_id):
            assert f"<fast{tokenizer.layout.fast_token(token_id)}>" in text
        elif not 0 <= token_id < tokenizer.layout.vocab_size:
            assert f"<id{token_id}>" in text


def test_same_corpus_same_bytes_and_nothing_printed(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fit_text_tokenizer(CORPUS, tmp_path, pieces=800, fast_size=256)
    assert (tmp_path / "tokenizer.model").read_bytes() == (folder / "tokenizer.model").read_bytes()
    assert (tmp_path / "manifest.yaml").read_text() == (folder / "manifest.yaml").read_text()
    assert capfd.readouterr() == ("", "")


def test_a_small_corpus_gives_fewer_pieces_and_says_so(tmp_path: Path) -> None:
    fitted = fit_text_tokenizer(["pick up the cup"] * 3, tmp_path, pieces=5000, fast_size=300)
    loaded = TextTokenizer.load(tmp_path)
    assert loaded.layout == fitted.layout
    assert loaded.layout.text_size < 5000
    assert loaded.layout.fast_range.start == loaded.layout.text_size - 300
    assert loaded.decode(loaded.encode("pick up the cup")) == "pick up the cup"


def test_workers_can_be_handed_the_tokenizer(tokenizer: TextTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode(CORPUS[5]) == tokenizer.encode(CORPUS[5])


def test_altered_file_is_refused(tmp_path: Path) -> None:
    fit_text_tokenizer(CORPUS[:50], tmp_path, pieces=400, fast_size=256)
    with (tmp_path / "tokenizer.model").open("ab") as file:
        file.write(b" ")
    with pytest.raises(UserError, match="sha256"):
        TextTokenizer.load(tmp_path)


def test_absent_paligemma_file_names_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PI05_PALIGEMMA_TOKENIZER", str(tmp_path / "absent.model"))
    with pytest.raises(UserError, match="PI05_PALIGEMMA_TOKENIZER"):
        TextTokenizer.load("paligemma")


def test_wrong_file_in_the_variable_is_refused(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PI05_PALIGEMMA_TOKENIZER", str(folder / "tokenizer.model"))
    with pytest.raises(UserError, match="8986bb4f"):
        TextTokenizer.load("paligemma")


def test_manifest_of_another_type_is_refused(folder: Path, tmp_path: Path) -> None:
    content = yaml.safe_load((folder / "manifest.yaml").read_text())
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(content | {"type": "fast"}))
    with pytest.raises(UserError, match="type text"):
        TextTokenizer.load(tmp_path)


def test_unknown_names_list_the_shipped_ones() -> None:
    with pytest.raises(UserError, match=r"fast_universal.*paligemma"):
        TextTokenizer.load("gemma9")


@pytest.mark.parametrize(("corpus", "pieces"), [([], 500), (["text"], 20)])
def test_impossible_fits_are_refused(corpus: list[str], pieces: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="text tokenizer"):
        fit_text_tokenizer(corpus, tmp_path, pieces=pieces, fast_size=256)


def test_the_map_of_published_pi0_fast_weights_is_a_choice(folder: Path, tmp_path: Path) -> None:
    """Another manifest over the same model moves the action ids on top of <loc>, and changes the fingerprint."""
    content = yaml.safe_load((folder / "manifest.yaml").read_text())
    shutil.copy(folder / "tokenizer.model", tmp_path)
    content["settings"] |= {"fast_skip": 128}
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="on top of <loc>"):
        TextTokenizer.load(tmp_path)
    content["settings"]["allow_overlap"] = True
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(content))
    legacy, plain = TextTokenizer.load(tmp_path), TextTokenizer.load(folder)
    assert legacy.layout.fast_id(0) == legacy.layout.seg_id(0) - 1
    assert legacy.encode("put it down") == plain.encode("put it down")
    assert tokenizer_fingerprint(tmp_path, "text") != tokenizer_fingerprint(folder, "text")
    shipped = read_manifest(resource("tokenizers") / "paligemma_pi0_fast", "text")
    assert (shipped.settings["fast_skip"], shipped.settings["allow_overlap"]) == (LEGACY_SKIP, True)
    assert shipped.files == read_manifest(resource("tokenizers") / "paligemma", "text").files


@pytest.mark.skipif("PI05_PALIGEMMA_TOKENIZER" not in os.environ, reason="PI05_PALIGEMMA_TOKENIZER is not set")
def test_paligemma_ids_are_the_published_ones() -> None:
    paligemma, published = TextTokenizer.load("paligemma"), golden_json("preprocessing/paligemma_tokens_published")
    for case in published["pi05_full_prompt_to_ids"] + published["raw"]:
        assert paligemma.encode(case["text"], bos=case["add_bos"]) == case["ids"]
    for case in published["pi0_prompt_to_ids (cleaned text + newline token)"]:
        assert paligemma.encode(clean(case["prompt"]), bos=True) + paligemma.encode("\n") == case["ids"]
    assert paligemma.encode("Action: ") == [published["Action"], published["colon"], published["space_id"]]
    assert paligemma.encode("|", eos=True) == [published["pipe"], EOS_ID]
